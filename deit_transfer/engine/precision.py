"""Choose the device and the precision (fp32, bf16, fp16) of a run, with the reason."""

import os
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch.amp import GradScaler

from deit_transfer.errors import UsageError

PrecisionName = Literal["auto", "fp32", "bf16", "fp16"]
CPUINFO = "DEIT_TRANSFER_CPUINFO"  # a file to read in place of /proc/cpuinfo; the gate sets it
CPU_BF16_FLAGS = {"avx512_bf16", "amx_bf16", "bf16"}  # x86, x86, ARM, as /proc/cpuinfo names them


@dataclass(frozen=True, kw_only=True)
class Precision:
    """The number format of forward passes; weights and optimizer stay in float32."""

    name: Literal["fp32", "bf16", "fp16"]
    dtype: torch.dtype
    device_type: str
    reason: str

    def autocast(self) -> AbstractContextManager[object]:
        """Return the context in which a model runs its forward pass."""
        if self.name == "fp32":
            return nullcontext()
        return torch.autocast(self.device_type, dtype=self.dtype)

    def make_scaler(self) -> GradScaler:
        """Return the loss scaler: at work in fp16, a pass-through in the wider formats."""
        return GradScaler(self.device_type, enabled=self.name == "fp16")


def resolve_device(name: str = "auto", *, local_rank: int = 0) -> torch.device:
    """Turn a device's name into a device that is there.

    Args:
        name: auto, cpu, cuda, cuda:N or mps. Auto takes CUDA when there is any, else the CPU.
        local_rank: The process's number on this machine: its GPU when cuda has no number.

    Raises:
        UsageError: No such device, or none of that kind here.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError:
        device = None
    if device is None or device.type not in {"cpu", "cuda", "mps"}:
        raise UsageError(f"device {name!r} is not one of auto, cpu, cuda, cuda:N, mps")
    if device.type == "cuda":
        return _cuda_device(device, local_rank)
    if device.type == "mps" and not torch.backends.mps.is_available():
        raise UsageError(f"device {name!r}: this machine has no MPS", hint="Use --device cpu")
    return device


def resolve_precision(name: PrecisionName, device: torch.device) -> Precision:
    """Choose the number format for a device.

    Args:
        name: Auto takes bf16 where the hardware computes in it, else fp16 on CUDA, else fp32.
        device: Where the model runs.

    Raises:
        UsageError: Unknown name, or fp16 away from CUDA, where gradients would need its scaler.
    """
    native = _has_bf16(device)
    if name == "auto":
        name = "bf16" if native else "fp16" if device.type == "cuda" else "fp32"
        reason = f"auto: the {device.type} {'computes' if native else 'does not compute'} in bf16"
    else:
        reason = "set by --precision or the recipe"
        if name == "bf16" and not native:
            reason += f", though this {device.type} only emulates bf16: expect less speed than fp32"
    if name == "fp16" and device.type != "cuda":
        raise UsageError(
            f"fp16 trains on CUDA only, and the device is {device.type}",
            hint="Use fp32, or auto",
        )
    return _named(name, device, reason)


def _named(name: str, device: torch.device, reason: str) -> Precision:
    if name == "fp32":
        return Precision(name="fp32", dtype=torch.float32, device_type=device.type, reason=reason)
    if name == "bf16":
        return Precision(name="bf16", dtype=torch.bfloat16, device_type=device.type, reason=reason)
    if name == "fp16":
        return Precision(name="fp16", dtype=torch.float16, device_type=device.type, reason=reason)
    raise UsageError(f"precision {name!r} is not one of auto, fp32, bf16, fp16")


def _cuda_device(device: torch.device, local_rank: int) -> torch.device:
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    index = local_rank if device.index is None else device.index
    if index >= count:
        raise UsageError(
            f"cuda:{index} is not there: this machine has {count} usable GPUs",
            hint="Use --device cpu, or as many processes as GPUs",
        )
    return torch.device("cuda", index)


def _has_bf16(device: torch.device) -> bool:
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return device.type == "cpu" and cpu_has_bf16(_cpuinfo())


def _cpuinfo() -> Path:
    return Path(os.environ.get(CPUINFO, "/proc/cpuinfo"))


def choose_attention(precision: Precision) -> Literal["fused", "plain"]:
    """Choose the attention kernel by a rule, so that two runs on one machine are equal.

    Fused is faster or equal on a GPU, and on a CPU in fp32. On a CPU in bf16 plain matrix products
    are faster by 1.3x and more (docs/performance.md), unless it has AMX.
    """
    if precision.device_type != "cpu" or precision.name != "bf16":
        return "fused"
    return "fused" if "amx_bf16" in _cpu_flags(_cpuinfo()) else "plain"


def cpu_has_bf16(cpuinfo: Path) -> bool:
    """Return whether the processor multiplies in bfloat16; False without Linux's cpuinfo."""
    return bool(CPU_BF16_FLAGS & _cpu_flags(cpuinfo))


def _cpu_flags(cpuinfo: Path) -> set[str]:
    try:
        lines = cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return set()
    return set(next((line for line in lines if line.startswith(("flags", "Features"))), "").split())
