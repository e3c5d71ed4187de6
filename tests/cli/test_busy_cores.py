"""Where other programs are at work, threads that wait do not take the cores from them."""

import os

import psutil
import pytest

from deit_transfer.cli import app


@pytest.mark.parametrize(("busy", "expected"), [(5.0, None), (29.0, None), (60.0, "0")])
def test_waiting_threads_sleep_on_busy_cores(
    monkeypatch: pytest.MonkeyPatch, busy: float, expected: str | None
) -> None:
    monkeypatch.setattr(os, "environ", {})
    monkeypatch.setattr(psutil, "cpu_percent", lambda interval: busy)
    app._share_busy_cores()
    assert os.environ.get("GOMP_SPINCOUNT") == expected


def test_what_the_user_set_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "environ", {"GOMP_SPINCOUNT": "1000"})
    monkeypatch.setattr(psutil, "cpu_percent", lambda interval: 100.0)
    app._share_busy_cores()
    assert os.environ["GOMP_SPINCOUNT"] == "1000"
