"""Pickles of arrays are read exactly; anything else in them is refused and changes nothing."""

import pickle
import tracemalloc

import numpy as np
import pytest

from deit_transfer.data.adapters.cifar import CIFAR10
from deit_transfer.data.readers import array_pickle
from deit_transfer.data.readers.array_pickle import read_pickle


class Call:
    """Pickles as a call, and a state for what the call returns."""

    def __init__(self, function, *arguments, state=None):
        self.parts = (function, arguments) if state is None else (function, arguments, state)

    def __reduce__(self):
        return self.parts


def write(path, content, protocol=2):
    path.write_bytes(content if isinstance(content, bytes) else pickle.dumps(content, protocol))
    return path


@pytest.mark.parametrize("protocol", [0, 2, 4, 5])
@pytest.mark.parametrize(
    "array",
    [
        np.arange(12, dtype=np.uint8).reshape(3, 4),
        np.asfortranarray(np.arange(12, dtype=np.int32).reshape(3, 4)),
        np.array([1.5, -2], ">f4"),
        np.array([b"cat", b"horse"]),
        np.zeros((0, 3072), np.uint8),
    ],
)
def test_arrays_come_back_as_they_were(tmp_path, protocol, array):
    found = read_pickle(write(tmp_path / "batch", {"data": array, "labels": [1, 2]}, protocol))
    np.testing.assert_array_equal(found["data"], array)
    assert found["data"].dtype == array.dtype
    assert found["labels"] == [1, 2]


# a void type whose one field is an object, declared to hold none: NumPy would then follow
# whatever bytes the file gives as the address of a Python object
FORGED = Call(
    np.dtype,
    "V8",
    False,
    True,
    state=(3, "|", None, ("f0",), {"f0": (np.dtype("O"), 0)}, 8, 1, 0),
)


@pytest.mark.parametrize(
    "value",
    [
        Call(np._core.numeric._frombuffer, b"A" * 8, FORGED, (1,), "C"),
        Call(np._core.numeric._frombuffer, b"A" * 8, np.dtype("O"), (1,), "C"),
        Call(np.dtype, "u1", state=(3, "|", None, ("f0",), {}, 8, 1, 0)),
        Call(np.dtype, "u1", state=(3, "|", None, None, None, -1, -1, 63)),
        Call(np.dtype, "u1", state=({}, {"code": "O"})),
        Call(np.dtype, "V8"),
        Call(np.dtype, "O"),
        Call(np.dtype, "S999999999"),
        Call(np.dtype, ["a", "O"]),
        Call(np._core.numeric._frombuffer, b"A", np.dtype("u1"), (2**40,), "C"),
        Call(np._core.numeric._frombuffer, b"", np.dtype("u1"), (-1,), "C"),
        Call(np._core.numeric._frombuffer, b"A", np.dtype("u1"), [1], "C"),
        Call(
            np._core.multiarray._reconstruct,
            np.ndarray,
            (0,),
            b"b",
            state=(1, (1,), np.dtype("O"), False, [1]),
        ),
        Call(np._core.multiarray._reconstruct, np.ndarray, (2**40,), b"b"),
        np.array([{}, None], object),
        np.array([(1, 2)], "i4,i4"),
        np.float64(3),
    ],
)
def test_what_is_no_plain_array_is_refused(tmp_path, value):
    with pytest.raises(ValueError, match=r"refused|damaged"):
        read_pickle(write(tmp_path / "batch", {"data": value}))


@pytest.mark.parametrize(
    "stream",
    [
        b"\x80\x02cnumpy\ndtype\n}X\x08\x00\x00\x00__call__NsN\x86b.",  # state of a function
        b"\x80\x02Nr\xff\xff\xff\xff.",  # a memo of 2^32 places
        b"\x80\x02cnumpy\nndarray\n)\x81.",  # an instance of ndarray
        b"\x80\x02}]Ns.",  # a list as a key
        b"\x80\x02}K\x01Ns.",  # a number as a key
        b"\x80\x04\x8e\xff\xff\xff\xff\xff\xff\xff\x7f.",  # bytes of 2^63
        b"",
    ],
)
def test_hostile_opcodes_are_refused_within_little_memory(tmp_path, stream):
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match=r"refused|damaged|holds"):
            read_pickle(write(tmp_path / "batch", stream))
        assert tracemalloc.get_traced_memory()[1] < 10e6
    finally:
        tracemalloc.stop()


def test_a_file_of_absurd_size_is_not_read(tmp_path, monkeypatch):
    monkeypatch.setattr(array_pickle, "MAX_BYTES", 10)
    with pytest.raises(ValueError, match="exceed the limit of 10"):
        read_pickle(write(tmp_path / "batch", {"data": np.zeros(20, np.uint8)}))


def nested(depth):
    value = [1] * 10
    for _ in range(depth):
        value = [value] * 10  # by reference: a small file, 10^depth numbers
    return value


@pytest.mark.parametrize(
    "labels",
    [nested(8), [1.5, 2], ["1", "2"], [True, False], [2**70, 1], np.zeros((2, 1), np.int64), {}],
)
def test_labels_are_a_flat_list_of_integers(tmp_path, labels):
    batch = write(tmp_path / "batch", {"data": np.zeros((2, 3072), np.uint8), "labels": labels})
    with pytest.raises(ValueError, match="label"):
        CIFAR10._read_batch(batch)


@pytest.mark.parametrize("names", [nested(8), np.zeros(10, np.uint8), 5, "airplane"])
def test_class_names_of_another_type_are_a_fault(tmp_path, names):
    write(tmp_path / "batches.meta", {"label_names": names})
    assert "are not those" in CIFAR10._name_faults(tmp_path)[0]
