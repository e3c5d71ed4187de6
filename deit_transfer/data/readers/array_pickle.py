"""Read a pickled dictionary of plain values and arrays without trusting it.

No object of NumPy's is handed to the unpickler: arrays and dtypes are rebuilt from inert
stand-ins once their type, shape and bytes agree. A file can be refused, and nothing more.
"""

import io
import math
import pickle
import re
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

MAX_BYTES = 400_000_000  # of one file; those of CIFAR have up to 155 million

_PLAIN_DTYPE = re.compile(r"[biufS]\d{1,2}|[biufS]")
_BYTE_ORDERS = ("|", "<", ">", "=")


class _RefusedError(Exception):
    """A pickle asks for something that is not a plain value or array."""


def read_pickle(path: Path) -> dict[str, Any]:
    """Read a pickled dictionary of plain values and arrays.

    Returns:
        The dictionary; the arrays among its values are of integers, floats or byte strings.

    Raises:
        ValueError: It is damaged, too large, no dictionary, or asks for anything but arrays; what
            it asks for is never looked up, so nothing of the file is run.
    """
    size = path.stat().st_size
    if size > MAX_BYTES:
        raise ValueError(f"{size:,} bytes exceed the limit of {MAX_BYTES:,}")
    try:
        content = _ArraysOnly(io.BytesIO(path.read_bytes()), encoding="latin1").load()
        if not isinstance(content, dict):
            raise _RefusedError(f"holds a {type(content).__name__}, expected a dictionary")
        return {_text(key): _finished(value) for key, value in content.items()}
    except _RefusedError as error:
        raise ValueError(str(error)) from error
    except MemoryError as error:
        raise ValueError("it claims more memory than there is") from error
    except Exception as error:
        # A damaged pickle raises nearly anything from within the unpickler.
        raise ValueError(f"damaged or no pickle ({error or type(error).__name__})") from error


def _text(key: object) -> str:
    if isinstance(key, bytes):
        return key.decode("latin1")
    if isinstance(key, str):
        return key
    raise _RefusedError(f"refused: a key is a {type(key).__name__}, expected text")


def _finished(value: object) -> Any:
    return value.array() if isinstance(value, _PickledArray) else value


class _PickledDtype:
    """Stands in for a dtype: only integers, floats and byte strings of a stated size."""

    __slots__ = ("code",)

    def __init__(self, code: str) -> None:
        self.code = code

    def __setstate__(self, state: object) -> None:
        """Take the byte order; fields, sub-arrays and objects are refused."""
        if not (isinstance(state, tuple) and len(state) >= 8 and state[1] in _BYTE_ORDERS):
            raise _RefusedError("refused: the type of an array has an unknown form")
        if any(part is not None for part in state[2:5]) or state[7] != 0:
            raise _RefusedError("refused: an array has fields or objects for elements")
        if state[1] in ("<", ">"):
            self.code = state[1] + self.code.lstrip("<>|=")

    def dtype(self) -> np.dtype[Any]:
        return np.dtype(self.code)


class _PickledArray:
    """Stands in for an array until all of it is known."""

    __slots__ = ("content",)

    def __init__(self) -> None:
        self.content: NDArray[Any] | None = None

    def __setstate__(self, state: object) -> None:
        if not (isinstance(state, tuple) and len(state) == 5):
            raise _RefusedError("refused: the state of an array has an unknown form")
        _version, shape, dtype, is_fortran, data = state
        if isinstance(data, str):
            data = data.encode("latin1")
        self.content = _array(data, dtype, shape, "F" if is_fortran else "C")

    def array(self) -> NDArray[Any]:
        if self.content is None:
            raise _RefusedError("refused: an array has no content")
        return self.content


def _array(data: object, dtype: object, shape: object, order: object) -> NDArray[Any]:
    """Make an array of bytes that number exactly what shape and type call for."""
    if not (isinstance(data, bytes | bytearray) and isinstance(dtype, _PickledDtype)):
        raise _RefusedError("refused: the content or type of an array is not plain")
    if not (
        isinstance(shape, tuple)
        and len(shape) <= 4
        and all(type(side) is int and side >= 0 for side in shape)
        and order in ("C", "F")
    ):
        raise _RefusedError("refused: an array's shape is not a few positive numbers")
    kind = dtype.dtype()
    if math.prod(shape) * kind.itemsize != len(data):
        raise _RefusedError(f"refused: an array of shape {shape} does not fit {len(data):,} bytes")
    return np.frombuffer(bytes(data), dtype=kind).reshape(shape, order="F" if order == "F" else "C")


# Instances without attributes: a pickle can call them, and change nothing about them.
class _NdarrayName:
    __slots__ = ()


class _MakeDtype:
    __slots__ = ()

    def __call__(self, code: object, *_align_and_copy: object) -> _PickledDtype:
        text = code.decode("latin1") if isinstance(code, bytes) else code
        if not isinstance(text, str) or not _PLAIN_DTYPE.fullmatch(text.lstrip("<>|=")):
            raise _RefusedError("refused: an array's elements are not numbers or byte strings")
        return _PickledDtype(text)


class _Reconstruct:
    __slots__ = ()

    def __call__(self, *_kind_shape_code: object) -> _PickledArray:
        return _PickledArray()


class _FromBuffer:
    __slots__ = ()

    def __call__(self, data: object, dtype: object, shape: object, order: object) -> _PickledArray:
        made = _PickledArray()
        made.content = _array(data, dtype, shape, order)
        return made


class _EncodeLatin1:
    """How Python 3 writes bytes into old pickle protocols."""

    __slots__ = ()

    def __call__(self, text: object, encoding: object = "latin1") -> bytes:
        if not isinstance(text, str):
            raise _RefusedError("refused: bytes have an unknown form")
        return text.encode("latin1")


class _EmptyBytes:
    """How Python 3 writes b"" into old pickle protocols."""

    __slots__ = ()

    def __call__(self) -> bytes:
        return b""


_KNOWN: dict[tuple[str, str], object] = {
    ("numpy", "ndarray"): _NdarrayName(),
    ("numpy", "dtype"): _MakeDtype(),
    ("_codecs", "encode"): _EncodeLatin1(),
    ("__builtin__", "bytes"): _EmptyBytes(),
}
for _core in ("numpy.core", "numpy._core"):  # the name before and after NumPy 2
    _KNOWN[f"{_core}.multiarray", "_reconstruct"] = _Reconstruct()
    _KNOWN[f"{_core}.numeric", "_frombuffer"] = _FromBuffer()


# The unpickler written in Python: the one in C takes memory for a memo as large as a file
# says, which may be 16 GB for a file of ten bytes.
class _ArraysOnly(pickle._Unpickler):
    """An unpickler that knows the functions which rebuild NumPy arrays, and nothing else."""

    def find_class(self, module: str, name: str) -> Any:
        if not name:
            raise pickle.UnpicklingError("the file ends within a name")
        if (module, name) not in _KNOWN:
            raise _RefusedError(f"refused: it asks for {module}.{name}, which no dataset needs")
        return _KNOWN[module, name]
