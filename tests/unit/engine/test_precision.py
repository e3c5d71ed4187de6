"""Check the choice of device and number format."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from deit_transfer.engine.precision import (
    choose_attention,
    cpu_has_bf16,
    resolve_device,
    resolve_precision,
)
from deit_transfer.errors import UsageError

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("cpuinfo", "native"),
    [
        ("flags\t\t: fpu avx512f avx512_bf16 amx_tile\n", True),
        ("flags\t\t: fpu avx2 avx512f\n", False),
        ("Features\t: fp asimd bf16 i8mm\n", True),
        ("Features\t: fp asimd\n", False),
        ("", False),
    ],
)
def test_bf16_is_read_from_the_processor(tmp_path: Path, cpuinfo: str, native: bool) -> None:
    file = tmp_path / "cpuinfo"
    file.write_text(f"processor\t: 0\n{cpuinfo}")
    assert cpu_has_bf16(file) is native
    assert not cpu_has_bf16(tmp_path / "absent")


@pytest.mark.parametrize(("native", "name"), [(True, "bf16"), (False, "fp32")])
def test_auto_on_cpu_follows_the_hardware(
    monkeypatch: pytest.MonkeyPatch, native: bool, name: str
) -> None:
    monkeypatch.setattr("deit_transfer.engine.precision.cpu_has_bf16", lambda path: native)
    assert resolve_precision("auto", CPU).name == name
    asked = resolve_precision("bf16", CPU)
    assert asked.name == "bf16"
    assert ("emulates" in asked.reason) is not native


@pytest.mark.parametrize(
    ("flags", "name", "kernel"),
    [
        ("avx512_bf16", "bf16", "plain"),
        ("avx512_bf16 amx_bf16", "bf16", "fused"),
        ("avx512_bf16", "fp32", "fused"),
        ("avx2", "bf16", "plain"),
    ],
)
def test_attention_follows_a_rule(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, flags: str, name: str, kernel: str
) -> None:
    (tmp_path / "cpuinfo").write_text(f"flags : {flags}\n")
    monkeypatch.setenv("DEIT_TRANSFER_CPUINFO", str(tmp_path / "cpuinfo"))
    assert choose_attention(resolve_precision(name, CPU)) == kernel


def test_attention_is_fused_on_a_gpu() -> None:
    on_gpu = replace(resolve_precision("bf16", CPU), device_type="cuda")
    assert choose_attention(on_gpu) == "fused"


def test_autocast_computes_in_the_format_and_keeps_the_weights() -> None:
    layer = torch.nn.Linear(4, 4)
    for name, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16)):
        precision = resolve_precision(name, CPU)
        with precision.autocast():
            assert layer(torch.ones(1, 4)).dtype == dtype == precision.dtype
        assert layer.weight.dtype == torch.float32
        assert not precision.make_scaler().is_enabled()


def test_refusals() -> None:
    with pytest.raises(UsageError, match="fp16 trains on CUDA only"):
        resolve_precision("fp16", CPU)
    with pytest.raises(UsageError, match="auto, fp32, bf16, fp16"):
        resolve_precision("fp8", CPU)
    with pytest.raises(UsageError, match="auto, cpu, cuda"):
        resolve_device("gpu")
    with pytest.raises(UsageError, match="auto, cpu, cuda"):
        resolve_device("xla")
    with pytest.raises(UsageError, match="is not there"):
        resolve_device("cuda:99")


def test_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    assert resolve_device("cpu") == CPU
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert resolve_device("auto", local_rank=1) == torch.device("cuda", 1)
    assert resolve_device("cuda:0", local_rank=1) == torch.device("cuda", 0)
    with pytest.raises(UsageError, match="2 usable GPUs"):
        resolve_device("cuda", local_rank=2)
