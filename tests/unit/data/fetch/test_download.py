"""A file appears under its name only complete and verified, whatever the line does."""

import hashlib
import io
import random
import socket
import subprocess
import sys
import tarfile
import threading
import urllib.error
import urllib.request
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from deit_transfer.data.fetch import download
from deit_transfer.data.fetch.download import RemoteFile, checksum, extract_tar, fetch, open_https
from deit_transfer.errors import DataError, ResourceError

CONTENT = bytes(range(256)) * 2000  # 512 kB: several pieces


class Server:
    """Serve CONTENT on this machine, misbehaving as told, and note what was asked."""

    def __init__(self):
        self.ranges, self.break_after, self.ignore_range, self.status = [], [], False, None
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                outer.answer(self)

            def log_message(self, *args):
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.http.serve_forever, args=(0.01,), daemon=True).start()
        self.url = f"http://127.0.0.1:{self.http.server_port}/set.tar.gz"

    def answer(self, request):
        asked = request.headers.get("Range")
        self.ranges.append(asked)
        if self.status:
            request.send_error(self.status)
            return
        start = int(asked[6:-1]) if asked and not self.ignore_range else 0
        if start >= len(CONTENT):
            request.send_error(416)
            return
        request.send_response(206 if start else 200)
        request.send_header("Content-Length", str(len(CONTENT) - start))
        request.end_headers()
        stop = self.break_after.pop(0) if self.break_after else len(CONTENT)
        request.wfile.write(CONTENT[start : start + stop])


@pytest.fixture
def server():
    running = Server()
    yield running
    running.http.shutdown()
    running.http.server_close()


@contextmanager
def open_plain(url, start):
    """Do what `open_https` does, without the s."""
    headers = {"Range": f"bytes={start}-"} if start else {}
    request = urllib.request.Request(url, headers=headers)
    with urllib.request.urlopen(request, timeout=5) as response:
        yield response


def remote(url, content=CONTENT, algorithm="sha256"):
    return RemoteFile(
        url=url, algorithm=algorithm, checksum=hashlib.new(algorithm, content).hexdigest()
    )


def get(server, folder, **options):
    options = {"open_from": open_plain, "pause_s": 0.0, "by_hand": "Do it by hand.", **options}
    return fetch(options.pop("file", remote(server.url)), folder, **options)


def test_fetch_reports_progress_and_leaves_only_the_file(server, tmp_path):
    seen = []
    path = get(server, tmp_path / "new", progress=lambda done, total: seen.append((done, total)))
    assert path == tmp_path / "new" / "set.tar.gz"
    assert path.read_bytes() == CONTENT
    assert seen[-1] == (len(CONTENT), len(CONTENT))
    assert len(seen) > 3
    assert not list(path.parent.glob("*.part"))


@pytest.mark.parametrize("algorithm", ["md5", "sha256"])
def test_a_file_already_there_is_verified_not_fetched(server, tmp_path, algorithm):
    (tmp_path / "set.tar.gz").write_bytes(CONTENT)
    get(server, tmp_path, file=remote(server.url, algorithm=algorithm))
    assert server.ranges == []
    (tmp_path / "set.tar.gz").write_bytes(CONTENT[:-1])
    with pytest.raises(DataError, match="is not the published") as caught:
        get(server, tmp_path, file=remote(server.url, algorithm=algorithm))
    assert "Delete it" in caught.value.hint
    assert (tmp_path / "set.tar.gz").exists()  # the user's file is not ours to delete


def test_broken_lines_are_resumed_where_they_broke(server, tmp_path):
    server.break_after = [100_000, 0, 0, 50_000]
    assert get(server, tmp_path).read_bytes() == CONTENT
    assert server.ranges == [None] + ["bytes=100000-"] * 3 + ["bytes=150000-"]


def test_the_part_of_an_earlier_process_is_used(server, tmp_path):
    (tmp_path / "set.tar.gz.part").write_bytes(CONTENT[:70_000])
    assert get(server, tmp_path).read_bytes() == CONTENT
    assert server.ranges == ["bytes=70000-"]


def test_a_server_without_ranges_starts_again(server, tmp_path):
    server.ignore_range = True
    (tmp_path / "set.tar.gz.part").write_bytes(b"x" * 70_000)
    assert get(server, tmp_path).read_bytes() == CONTENT


def test_a_part_longer_than_the_file_starts_again(server, tmp_path):
    (tmp_path / "set.tar.gz.part").write_bytes(CONTENT + b"more")
    assert get(server, tmp_path).read_bytes() == CONTENT


def test_wrong_content_is_refused_and_deleted(server, tmp_path):
    with pytest.raises(DataError, match="is not the published") as caught:
        get(server, tmp_path, file=remote(server.url, b"something else"))
    assert "by hand" in caught.value.hint
    assert not [path for path in tmp_path.iterdir() if not path.name.endswith(".lock")]


def test_a_line_that_stays_dead_keeps_the_part_and_gives_up(server, tmp_path):
    server.break_after = [100_000] + [0] * 50
    with pytest.raises(DataError, match="broke after 100000 of 512000") as caught:
        get(server, tmp_path)
    assert caught.value.hint == "Do it by hand."
    assert len(server.ranges) == 1 + download._ATTEMPTS
    assert (tmp_path / "set.tar.gz.part").read_bytes() == CONTENT[:100_000]


@pytest.mark.parametrize(("status", "requests"), [(404, 1), (403, 1), (503, 2)])
def test_refusals_end_at_once_and_outages_after_a_retry(server, tmp_path, status, requests):
    server.status = status
    with pytest.raises(DataError, match=str(status)):
        get(server, tmp_path)
    assert len(server.ranges) == requests


def test_offline_is_one_sentence_with_the_way_out(tmp_path):
    tries = []

    @contextmanager
    def unknown_host(url, start):
        tries.append(url)
        raise urllib.error.URLError(socket.gaierror(-2, "Name or service not known"))
        yield

    file = remote("https://nowhere.invalid/set.tar.gz")
    with pytest.raises(DataError) as caught:
        fetch(file, tmp_path, open_from=unknown_host, by_hand="Put it there.")
    assert caught.value.message == (
        "cannot fetch https://nowhere.invalid/set.tar.gz: nowhere.invalid is unknown (offline?)"
    )
    assert caught.value.hint == "Put it there."
    assert len(tries) == 1


def test_refused_connection_gives_up_soon(tmp_path):
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        file = remote(f"http://127.0.0.1:{closed.getsockname()[1]}/set.tar.gz")
        with pytest.raises(DataError, match="refused"):
            fetch(file, tmp_path, open_from=open_plain, pause_s=0.0)


def test_only_https_is_opened(server):
    with pytest.raises(DataError, match="only https"), open_https(server.url, 0):
        pass
    handler = download._HttpsOnly()
    request = urllib.request.Request("https://example.org/a")
    with pytest.raises(DataError, match="only https"):
        handler.redirect_request(request, io.BytesIO(), 302, "", {}, "http://example.org/a")


def test_stopping_from_the_progress_call_keeps_the_part(server, tmp_path):
    class StopError(Exception):
        pass

    def stop(done, total):
        if done > 100_000:
            raise StopError

    with pytest.raises(StopError):
        get(server, tmp_path, progress=stop)
    assert (tmp_path / "set.tar.gz.part").stat().st_size > 100_000
    assert get(server, tmp_path).read_bytes() == CONTENT


def test_no_room_is_found_out_before_fetching(server, tmp_path, monkeypatch):
    monkeypatch.setattr(download.shutil, "disk_usage", lambda _: type("U", (), {"free": 1000}))
    with pytest.raises(ResourceError, match="free"):
        get(server, tmp_path)


def test_a_full_disk_keeps_the_part(server, tmp_path):
    """A real limit on file size, in a process of its own, since it cannot be lifted again."""
    code = f"""
import resource, signal, sys
sys.path.insert(0, {str(__file__).rsplit("/", 1)[0]!r})
import test_download as t
from pathlib import Path
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))
try:
    t.fetch(t.remote({server.url!r}), Path({str(tmp_path)!r}), open_from=t.open_plain)
except t.ResourceError as error:
    print(error.message, error.hint)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "no room to write" in done.stdout
    assert "is kept" in done.stdout
    assert (tmp_path / "set.tar.gz.part").stat().st_size == 200_000
    assert get(server, tmp_path).read_bytes() == CONTENT


def test_a_folder_that_cannot_be_written_is_named(server, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="cannot write") as caught:
        get(server, tmp_path / "file" / "below")
    assert "--data-dir" in caught.value.hint


def test_two_at_once_fetch_once(server, tmp_path):
    threads = [threading.Thread(target=get, args=(server, tmp_path)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(server.ranges) == 1
    assert (tmp_path / "set.tar.gz").read_bytes() == CONTENT


def tar(path, *members):
    """Write a tar of (name, content) files, or of ready TarInfos."""
    with tarfile.open(path, "w:gz") as archive:
        for member in members:
            if isinstance(member, tarfile.TarInfo):
                archive.addfile(member)
                continue
            info = tarfile.TarInfo(member[0])
            info.size = len(member[1])
            archive.addfile(info, io.BytesIO(member[1]))
    return path


def test_extract_makes_the_folder_whole(tmp_path):
    archive = tar(tmp_path / "a.tar.gz", ("set/one", b"1"), ("set/sub/two", b"22"))
    folder = extract_tar(archive, tmp_path / "out" / "data", member="set", max_bytes=10)
    assert (folder / "one").read_bytes() == b"1"
    assert (folder / "sub" / "two").read_bytes() == b"22"
    assert {path.name for path in folder.parent.iterdir()} - {".data.lock"} == {"data"}


def test_unpacking_says_how_far_it_is_and_can_be_stopped(tmp_path):
    members = [(f"set/{i}", random.Random(i).randbytes(40_000)) for i in range(20)]
    archive = tar(tmp_path / "a.tar", *members)
    seen = []

    def stop_at_the_end(done, total):
        seen.append(done)
        assert total == archive.stat().st_size
        if len(seen) == len(members):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        extract_tar(
            archive, tmp_path / "data", member="set", max_bytes=10**6, progress=stop_at_the_end
        )
    assert seen == sorted(seen)
    assert seen[0] < seen[-1]
    assert not (tmp_path / "data").exists()
    assert not [path for path in tmp_path.iterdir() if path.is_dir()]


def link(name, target, kind=tarfile.SYMTYPE):
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


@pytest.mark.parametrize(
    "evil",
    [
        ("../escaped", b"x"),
        link("set/link", "/etc/passwd"),
        link("set/link", "../../outside"),
        link("set/device", "", tarfile.CHRTYPE),
    ],
)
def test_archives_that_reach_outside_are_refused_whole(tmp_path, evil):
    archive = tar(tmp_path / "a.tar.gz", ("set/one", b"1"), evil)
    with pytest.raises(DataError, match="cannot be unpacked"):
        extract_tar(archive, tmp_path / "out" / "data", member="set", max_bytes=10)
    assert not (tmp_path / "out" / "data").exists()
    assert not (tmp_path / "out" / "escaped").exists()
    assert not [path for path in (tmp_path / "out").iterdir() if path.is_dir()]


def test_bombs_and_damaged_archives_leave_nothing(tmp_path):
    archive = tar(tmp_path / "a.tar.gz", ("set/zeros", bytes(1_000_000)))
    with pytest.raises(DataError, match="more than 0 MB"):
        extract_tar(archive, tmp_path / "data", member="set", max_bytes=1000)
    whole = archive.read_bytes()
    for damaged in (whole[:500], b"no archive", b""):
        archive.write_bytes(damaged)
        with pytest.raises(DataError, match="cannot be unpacked") as caught:
            extract_tar(archive, tmp_path / "data", member="set", max_bytes=10**7, by_hand="Mend.")
        assert caught.value.hint == "Mend."
    with pytest.raises(DataError, match="no folder or file other"):
        extract_tar(
            tar(tmp_path / "b.tar", ("set/a", b"")), tmp_path / "data", member="other", max_bytes=9
        )
    assert not (tmp_path / "data").exists()


def test_checksum_is_the_librarys(tmp_path):
    (tmp_path / "f").write_bytes(CONTENT)
    assert checksum(tmp_path / "f", "md5") == hashlib.md5(CONTENT).hexdigest()
