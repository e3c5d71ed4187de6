"""`--nproc`: the first failure is the one that is shown, and no process outlives its launcher."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from photos import write_photos
from program import QUICK

from deit_transfer.cli import launch
from deit_transfer.cli.launch import FAILURES_FOLDER, leave_failure
from deit_transfer.errors import DeitTransferError, PeerLostError, ResourceError

LISTENING = "0A"  # /proc/net/tcp
ON_LOOPBACK = "0100007F"
LONG = ("--epochs=500", "--set=run.save_every_minutes=60")
on_linux = pytest.mark.skipif(not Path("/proc/net/tcp").exists(), reason="reads /proc")


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    return write_photos(tmp_path / "photos", size=16)


@pytest.fixture
def running(photos: Path, tmp_path: Path) -> Iterator["subprocess.Popen[str]"]:
    """A launcher of two processes that train, as far as the first step."""
    command = [sys.executable, "-m", "deit_transfer", "scratch", "photos", *QUICK, *LONG]
    process = subprocess.Popen(
        [*command, "--name=run", "--nproc=2", "--quiet"],
        cwd=tmp_path,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    wait_for(lambda: (tmp_path / "runs" / "run" / "metrics.jsonl").exists(), process)
    yield process
    process.kill()
    process.communicate()


def wait_for(condition: Any, process: "subprocess.Popen[str] | None" = None) -> None:
    deadline = time.monotonic() + 120
    while not condition():
        assert process is None or process.poll() is None, process and process.stderr.read()
        assert time.monotonic() < deadline
        time.sleep(0.05)


def ranks_of(pid: int) -> dict[int, int]:
    """Return the process ids of a launcher's processes by rank."""
    found = {}
    for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
        environ = Path(f"/proc/{child}/environ").read_bytes().split(b"\0")
        rank = next((e for e in environ if e.startswith(b"RANK=")), None)
        if rank is not None:
            found[int(rank.removeprefix(b"RANK="))] = int(child)
    return found


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def listening_addresses(pid: int) -> set[str]:
    """Return the local addresses on which a process listens for TCP connections."""
    links = Path(f"/proc/{pid}/fd").iterdir()
    own = {os.readlink(link) for link in links if os.path.lexists(link)}
    rows = [
        line.split()
        for table in ("tcp", "tcp6")
        for line in Path(f"/proc/{pid}/net/{table}").read_text().splitlines()[1:]
    ]
    return {
        row[1].split(":")[0] for row in rows if row[3] == LISTENING and f"socket:[{row[9]}]" in own
    }


@on_linux
def test_a_killed_process_is_the_cause_that_is_shown(running: "subprocess.Popen[str]") -> None:
    ranks = ranks_of(running.pid)
    addresses = {address for pid in ranks.values() for address in listening_addresses(pid)}
    assert addresses == {ON_LOOPBACK}
    os.kill(ranks[1], signal.SIGKILL)
    _, said = running.communicate(timeout=120)
    assert running.returncode == 137
    assert "process 1 of this run was killed by SIGKILL" in said
    assert "another process of this run" not in said
    assert said.count("Error:") == 1


@on_linux
def test_the_processes_end_with_their_launcher(running: "subprocess.Popen[str]") -> None:
    ranks = ranks_of(running.pid)
    assert len(ranks) == 2
    running.kill()
    wait_for(lambda: not any(map(is_alive, ranks.values())))


@on_linux
def test_a_stop_signal_is_told_once(running: "subprocess.Popen[str]") -> None:
    running.send_signal(signal.SIGTERM)
    _, said = running.communicate(timeout=120)
    assert running.returncode == 75
    assert said.count("Stopped by SIGTERM") == 1


def failing(rank: int, seconds: float, code: int) -> "subprocess.Popen[bytes]":
    text = f"import sys, time; time.sleep({seconds}); sys.exit({code})"
    return subprocess.Popen([sys.executable, "-c", text], env={**os.environ, "RANK": str(rank)})


def test_the_first_failure_in_time_counts_and_not_the_first_in_the_list(tmp_path: Path) -> None:
    processes = [failing(0, 0.6, 3), failing(1, 0.0, 6)]
    found = launch._first_failure(processes, tmp_path)
    assert found is not None
    assert (found.exit_code, found.error) == (6, None)


def test_a_lost_peer_is_no_cause_however_early_it_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(FAILURES_FOLDER, str(tmp_path))
    for rank, error in enumerate((PeerLostError("gone"), ResourceError("full", hint="Free some"))):
        monkeypatch.setenv("RANK", str(rank))
        assert leave_failure(error)
    left = [json.loads((tmp_path / f"{rank}.json").read_text()) for rank in (0, 1)]
    assert left[0]["time_s"] <= left[1]["time_s"]
    found = launch._first_failure([failing(0, 0, 1), failing(1, 0.3, 6)], tmp_path)
    assert found is not None
    assert found.exit_code == 6
    assert isinstance(found.error, DeitTransferError)
    assert (found.error.message, found.error.hint) == ("full", "Free some")


def test_all_well_is_no_failure(tmp_path: Path) -> None:
    assert launch._first_failure([failing(0, 0, 0), failing(1, 0.1, 0)], tmp_path) is None


@on_linux
def test_a_process_whose_parent_is_gone_is_stopped() -> None:
    watched = (
        "import os, time; from deit_transfer.cli.launch import watch_parent; "
        "watch_parent(os.getppid(), look_every_s=0.05); print(os.getpid(), flush=True); "
        "time.sleep(100)"
    )
    parent = (
        "import subprocess, sys; "
        f"child = subprocess.Popen([sys.executable, '-c', {watched!r}], stdout=subprocess.PIPE); "
        "print(child.stdout.readline().decode().strip(), flush=True)"
    )
    done = subprocess.run(
        [sys.executable, "-c", parent], capture_output=True, text=True, check=True
    )
    child = int(done.stdout)
    wait_for(lambda: not is_alive(child))
