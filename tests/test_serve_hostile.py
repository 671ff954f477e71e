"""wasmrt serve against those who mean harm, through sockets: paths, headers, connections that are held, files that change."""

import contextlib
import os
import re
import socket
import struct
import threading
import time
from pathlib import Path

import pytest

from tests.gguf_files import write_llama
from tests.serve_running import running
from wasmrt.serve import describe, files, link, server
from wasmrt.serve.app import make_app
from wasmrt.serve.catalog import Catalog
from wasmrt.serve.paths import is_plain, parts_of

HERE = "Host: localhost\r\n"


def make_folder(parent):
    """Models, with secrets beside them that no path may lead to."""
    folder = parent / "models"
    (folder / "sub").mkdir(parents=True)
    (folder / ".git").mkdir()
    (folder / "folder.gguf").mkdir()
    (parent / "models-private").mkdir()  # its name begins with the folder's
    write_llama(folder / "m.gguf")
    for name in ("sub/n.gguf", ".hidden.gguf", ".git/x.gguf", "../secret.gguf", "../models-private/p.gguf", "notes.txt"):
        (folder / name).write_bytes(b"SECRET")
    (folder / "sub" / "n.gguf").write_bytes(b"public")
    return folder


def make_page(parent):
    page = parent / "page"
    page.mkdir()
    (page / "index.html").write_bytes(b"the page")
    (page / ".env").write_bytes(b"SECRET")
    return page


@pytest.fixture
def folder(tmp_path):
    return make_folder(tmp_path)


@pytest.fixture
def page(tmp_path):
    return make_page(tmp_path)


@pytest.fixture
def served(folder, page):
    with running(make_app(folder, page)) as running_server:
        yield running_server


@pytest.fixture(scope="module")
def unchanged(tmp_path_factory):
    """A server of the same, for tests that write nothing."""
    parent = tmp_path_factory.mktemp("unchanged")
    with running(make_app(make_folder(parent), make_page(parent))) as running_server:
        yield running_server


@contextlib.contextmanager
def connection(port):
    with socket.create_connection(("127.0.0.1", port), timeout=30) as s:
        yield s


def exchange(port, request):
    """Send bytes, and return all that comes until the server closes."""
    with connection(port) as s:
        with contextlib.suppress(ConnectionError):  # it may have answered and left before it had all
            s.sendall(request)
        return until_closed(s)


def until_closed(s):
    got = b""
    with contextlib.suppress(ConnectionError):
        while data := s.recv(1 << 16):
            got += data
    return got


def get(port, target, headers="", method="GET"):
    """(status, headers, body) of a request whose target is sent as it stands."""
    target = target.encode() if isinstance(target, str) else target
    request = method.encode() + b" " + target + f" HTTP/1.1\r\n{HERE}Connection: close\r\n{headers}\r\n".encode("latin-1")
    head, _, body = exchange(port, request).partition(b"\r\n\r\n")
    return int(head.split(b" ")[1]) if head else 0, head.decode("latin-1").lower(), body


def begin(s, target="/models/m.gguf", headers=""):
    s.sendall(f"GET {target} HTTP/1.1\r\n{HERE}{headers}\r\n".encode())


def wait_until(condition, seconds=10.0):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not come to that"
        time.sleep(0.01)


def open_files(path):
    """How often this process has a file open; None where the system does not say."""
    folder = Path("/proc/self/fd")
    if not folder.is_dir():
        return None
    count = 0
    for entry in folder.iterdir():
        with contextlib.suppress(OSError):
            count += entry.readlink() == path
    return count


# Paths

PATHS = [
    "../secret.gguf",
    "..%2fsecret.gguf",
    "%2e%2e%2fsecret.gguf",
    "%2e%2e/secret.gguf",
    "%252e%252e%252fsecret.gguf",
    "..%255csecret.gguf",
    "sub/../../secret.gguf",
    "sub/..%2f..%2fsecret.gguf",
    "./m.gguf",
    "sub/../m.gguf",
    "sub//n.gguf",
    "/m.gguf",
    "m.gguf/",
    "m.gguf%2f",
    "..\\secret.gguf",
    "..%5csecret.gguf",
    "sub\\n.gguf",
    "sub%5cn.gguf",
    "m.gguf%00",
    "m.gguf%00.gguf",
    "%00m.gguf",
    "..%c0%afsecret.gguf",
    "%ff.gguf",
    "%0am.gguf",
    "../models-private/p.gguf",
    "..%2fmodels-private%2fp.gguf",
    "C:/m.gguf",
    "C:m.gguf",
    "C%3a%5cm.gguf",
    "m.gguf::$DATA",
    "m.gguf:stream.gguf",
    "%5c%5chost%5cshare%5cm.gguf",
    "//host/share/m.gguf",
    "%2f%2fhost%2fshare%2fm.gguf",
    "%5c%5c%3f%5cC:%5cm.gguf",
    "CON.gguf",
    "nul.gguf",
    "sub/com1.gguf",
    "LPT9.x.gguf",
    "CONIN$.gguf",
    ".hidden.gguf",
    ".git/x.gguf",
    "notes.txt",
    "folder.gguf",
    "sub",
    "sub/",
    "",
    ".",
    "..",
    "%2e",
    "missing.gguf",
    "sub/deeper/x.gguf",
    "m.gguf.",
    "m.gguf%20",
    "m*.gguf",
    "~/m.gguf",
    "$HOME/m.gguf",
    "a" * 300 + ".gguf",
    "a/" * 3000 + "m.gguf",
]


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path[:40])
def test_no_path_leads_elsewhere(unchanged, path):
    for target in (f"/models/{path}", f"/{path}", f"//models/{path}"):
        if target == "/":
            continue  # the page itself
        status, _, body = get(unchanged.port, target)
        assert status == 404, target
        assert b"SECRET" not in body
        assert b"public" not in body


def test_absolute_paths_and_the_root(served, folder):
    for path in (folder / "m.gguf", folder.parent / "secret.gguf", Path("/etc/passwd")):
        for target in (f"/models/{path}", f"/models/%2f{str(path)[1:]}", f"/{path}", f"/%2f{str(path)[1:]}"):
            assert get(served.port, target)[0] == 404
    assert get(served.port, "/.env")[0] == 404
    assert get(served.port, "/models/m.gguf?a=../../b#c")[0] == 200  # a query is not part of the path


def test_links_out_of_the_folder_are_not_there(served, folder, tmp_path):
    (folder / "out.gguf").symlink_to(tmp_path / "secret.gguf")
    (folder / "up").symlink_to(tmp_path)
    (folder / "beside.gguf").symlink_to("../models-private/p.gguf")
    (folder / "circle.gguf").symlink_to("circle.gguf")
    (folder / "dangling.gguf").symlink_to("nothing.gguf")
    (folder / "within.gguf").symlink_to("sub/n.gguf")
    for name in ("out.gguf", "up/secret.gguf", "beside.gguf", "circle.gguf", "dangling.gguf"):
        assert get(served.port, f"/models/{name}")[0] == 404, name
    assert get(served.port, "/models/within.gguf")[2] == b"public"
    assert [entry.name for entry in Catalog(folder).entries()] == ["demo.gguf", "m.gguf", "sub/n.gguf", "within.gguf"]


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="Windows has no such pipes")
def test_a_pipe_in_the_folder_holds_nobody(served, folder):
    os.mkfifo(folder / "pipe.gguf")
    assert get(served.port, "/models/pipe.gguf")[0] == 404
    assert b"pipe" not in get(served.port, "/models")[2]


def test_names():
    for name in ("m.gguf", "a b.gguf", "ü.gguf", "console.gguf", "com10.gguf", "a..b.gguf", "-", "x" * 255):
        assert is_plain(name), name
    for name in ("", ".", "..", ".x", "a\\b", "c:", "con", "NUL.tar.gz", "aux .txt", "a\n", "a\x7f", "a.", "a ", "\ud800"):
        assert not is_plain(name), name
    assert parts_of("a/b.gguf", 2) == ("a", "b.gguf")
    assert parts_of("a/b/c.gguf", 2) is None


# Requests


@pytest.mark.parametrize(
    "request_bytes",
    [
        b"\0" * 5000,
        b"GET\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"GET / HTTP/1.1\r\n\r\n",  # without a host
        b"GET / HTTP/1.1\r\nHost: localhost\r\nHost: evil.example\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: localhost\r\nbad header\r\n\r\n",
        b"GET /\xff HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: localhost\r\nX: " + b"a" * 1_000_000 + b"\r\n\r\n",
        b"GET /" + b"a" * 1_000_000 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: localhost\r\n" + b"X: y\r\n" * 200_000 + b"\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",  # TLS
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    ],
    ids=lambda request: repr(request[:40])[:30],
)
def test_what_is_no_request_is_refused_and_the_server_goes_on(unchanged, request_bytes, monkeypatch):
    monkeypatch.setattr(server, "HEADER_SECONDS", 0.5)
    started = time.monotonic()
    answer = exchange(unchanged.port, request_bytes)
    assert time.monotonic() - started < 5
    assert answer == b"" or answer.split(b" ")[1] in (b"400", b"421")
    assert get(unchanged.port, "/models/m.gguf", "Range: bytes=0-3\r\n")[2] == b"GGUF"


@pytest.mark.parametrize("n", [1000, 100_000])
def test_ranges_without_end_cost_nothing(served, n):
    """Also one header of 100 000 ranges, and as many overlapping ones."""
    for unit in ("0-", "5-9,"):
        started = time.monotonic()
        status, _, body = get(served.port, "/models/m.gguf", f"Range: bytes={','.join([unit] * n)}\r\n")
        assert time.monotonic() - started < 2
        assert status in (0, 400, 416)
        assert b"GGUF" not in body
    assert get(served.port, "/models/m.gguf", "Range: bytes=0-0\r\n" * 3)[0] == 416


@pytest.mark.parametrize("host", ["evil.example", "localhost.evil.example", "192.168.0.1", "0.0.0.0", ""])
def test_a_name_that_was_made_to_lead_here_reads_nothing(unchanged, host):
    for target in ("/", "/models", "/models/m.gguf"):
        answer = exchange(unchanged.port, f"GET {target} HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
        assert answer.split(b" ")[1] in (b"421", b"400")
        assert b"GGUF" not in answer
    answer = exchange(unchanged.port, b"GET /models HTTP/1.0\r\n\r\n")  # no host at all
    assert answer.split(b" ")[1] == b"421"


def test_a_target_with_another_host_inside_is_no_way_round(served):
    assert get(served.port, "http://evil.example/models/m.gguf")[0] == 404


# Connections


def test_a_request_that_drips_in_is_cut_off(served, monkeypatch):
    """However regularly the drops come, and also in a body that nobody asked for."""
    monkeypatch.setattr(server, "HEADER_SECONDS", 0.4)
    for beginning in (b"GET / HT", f"GET /models HTTP/1.1\r\n{HERE}Content-Length: 100000\r\n\r\n".encode(), b""):
        with connection(served.port) as s:
            started = time.monotonic()
            s.sendall(beginning)
            with pytest.raises(ConnectionError):  # noqa: PT012  until it is noticed
                while time.monotonic() - started < 10:
                    s.sendall(b"a")
                    time.sleep(0.05)
            assert 0.3 < time.monotonic() - started < 3
    wait_until(lambda: served.connections == 0)


def test_a_connection_may_stay_for_its_next_request(served, monkeypatch):
    """The time for a request begins with it, not with the connection."""
    monkeypatch.setattr(server, "HEADER_SECONDS", 0.3)
    with connection(served.port) as s:
        for _ in range(4):
            begin(s, headers="Range: bytes=0-3\r\n")
            assert read_answer(s) == b"GGUF"
            time.sleep(0.2)


def read_answer(s):
    """One answer of a connection that stays."""
    got = b""
    while b"\r\n\r\n" not in got:
        data = s.recv(1)
        assert data, f"the connection ended after {got!r}"
        got += data
    n_bytes = int(re.search(rb"content-length: (\d+)", got.lower())[1])
    return b"".join(s.recv(1) for _ in range(n_bytes))


def test_an_idle_connection_ends(folder, page, monkeypatch):
    monkeypatch.setattr(server, "IDLE_SECONDS", 1)
    with running(make_app(folder, page)) as served, connection(served.port) as s:
        begin(s, headers="Range: bytes=0-3\r\n")
        assert read_answer(s) == b"GGUF"
        assert s.recv(1) == b""


def test_too_many_connections(folder, page, monkeypatch):
    """From the first cap on they are told so, from the second on cut; when they leave, all is as before."""
    monkeypatch.setattr(server, "BUSY_CONNECTIONS", 8)
    with running(make_app(folder, page)) as served:
        with contextlib.ExitStack() as held:
            idle = [held.enter_context(connection(served.port)) for _ in range(8)]
            wait_until(lambda: served.connections == 8)
            assert get(served.port, "/models/m.gguf")[0] == 503
            more = [held.enter_context(connection(served.port)) for _ in range(40)]
            wait_until(lambda: served.connections <= 16)
            cut = 0
            for s in more:
                s.settimeout(0.05)
                try:
                    cut += s.recv(1) == b""
                except TimeoutError:
                    pass
                except ConnectionError:
                    cut += 1
            assert cut >= 40 - 16
            assert idle
        wait_until(lambda: served.connections == 0)
        assert get(served.port, "/models/m.gguf")[0] == 200


def test_pipelined_requests_are_answered_in_turn(served):
    with connection(served.port) as s:
        s.sendall(f"GET /models/m.gguf HTTP/1.1\r\n{HERE}Range: bytes=0-3\r\n\r\n".encode() * 50)
        assert [read_answer(s) for _ in range(50)] == [b"GGUF"] * 50


@pytest.fixture
def large(tmp_path):
    """A folder with a file that no buffer takes, and a server that serves it."""
    folder = tmp_path / "large"
    folder.mkdir()
    with (folder / "m.gguf").open("wb") as file:
        file.truncate(1 << 30)
    return folder


def test_who_leaves_in_the_middle_leaves_nothing_open(large):
    path = large / "m.gguf"
    with running(make_app(large)) as served:
        for reset in (False, True):
            for _ in range(20):
                with connection(served.port) as s:
                    begin(s)
                    assert s.recv(100)
                    if reset:
                        s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        wait_until(lambda: served.connections == 0 and not open_files(path))


def test_who_leaves_a_slow_link_does_not_hold_it(large):
    """At this rate the rest of that piece alone would take a minute."""
    with running(make_app(large, bytes_per_second=50_000)) as served:
        with connection(served.port) as s:
            begin(s)
            s.recv(100)
        wait_until(lambda: served.connections == 0 and not open_files(large / "m.gguf"), 3)


def test_who_waits_for_a_slow_link_is_not_cut_off(tmp_path, monkeypatch):
    """A piece that several clients' turns come before takes a link longer than any of them may take to read it."""
    monkeypatch.setattr(link, "SEND_SECONDS", 0.3)
    path = tmp_path / "m.gguf"
    path.write_bytes(os.urandom(100_000))
    with running(make_app(path, bytes_per_second=100_000)) as served:
        assert get(served.port, "/models/m.gguf")[2] == path.read_bytes()


def test_who_stops_reading_is_cut_off(large, monkeypatch):
    monkeypatch.setattr(link, "SEND_SECONDS", 0.5)
    with running(make_app(large)) as served, connection(served.port) as s:
        begin(s)
        wait_until(lambda: served.connections == 1)
        wait_until(lambda: served.connections == 0 and not open_files(large / "m.gguf"))


def test_who_stops_reading_a_list_of_a_slow_link_is_cut_off(folder, monkeypatch, caplog):
    monkeypatch.setattr(link, "SEND_SECONDS", 0.5)
    monkeypatch.setattr(describe, "describe", lambda path: {"title": "x" * (16 << 20)})
    with running(make_app(folder, bytes_per_second=1 << 30)) as served, connection(served.port) as s:
        begin(s, "/models")
        wait_until(lambda: served.connections == 1)
        wait_until(lambda: served.connections == 0)
    assert caplog.text == ""


def test_who_stops_reading_at_the_very_end_is_cut_off(tmp_path, monkeypatch):
    """All of the answer is in buffers by then, and nobody waits for it but the connection."""
    monkeypatch.setattr(server, "IDLE_SECONDS", 1)
    monkeypatch.setattr(server, "FLUSH_SECONDS", 0.5)
    monkeypatch.setattr(files, "PIECE_BYTES", 64 << 20)
    path = tmp_path / "m.gguf"
    path.write_bytes(bytes(32 << 20))
    with running(make_app(path)) as served, connection(served.port) as s:
        begin(s)
        wait_until(lambda: served.connections == 1)
        wait_until(lambda: served.connections == 0)


# Files that change


def changed_while_served(folder, change, expect_whole=False):
    """Read the beginning of an answer, change the file, read the rest; returns the body and what it should have been."""
    path = folder / "m.gguf"
    before = os.urandom(48 << 20)
    path.write_bytes(before)
    time.sleep(0.02)  # the clock of modification times ticks every few milliseconds
    with running(make_app(folder)) as served, connection(served.port) as s:
        begin(s)
        got = s.recv(1 << 16)
        change(path)
        got += until_closed(s) if not expect_whole else read_rest(s, len(before), got)
        wait_until(lambda: not open_files(path))
        after = get(served.port, "/models/m.gguf", "Range: bytes=0-3\r\n") if path.exists() else None
    head, _, body = got.partition(b"\r\n\r\n")
    assert f"content-length: {len(before)}".encode() in head.lower()
    return head, body, before, after


def read_rest(s, n_bytes, got):
    n_bytes += got.index(b"\r\n\r\n") + 4 - len(got)
    rest = b""
    while len(rest) < n_bytes and (data := s.recv(1 << 20)):
        rest += data
    return rest


def truncate(path):
    os.truncate(path, 1 << 20)


def empty(path):
    path.write_bytes(b"")


def overwrite(path):
    with path.open("r+b") as file:
        file.write(b"other")


def append(path):
    with path.open("ab") as file:
        file.write(b"other")


@pytest.mark.parametrize("change", [truncate, empty, overwrite, append])
def test_a_file_that_is_written_to_breaks_the_answer_off(large, change, caplog):
    """What came is of the one version, and there is too little of it, so that no client takes it for whole."""
    _, body, before, after = changed_while_served(large, change)
    assert len(body) < len(before)
    assert before.startswith(body)
    assert after[0] in (206, 416)
    assert "'m.gguf' changed while it was served" in caplog.text or "'m.gguf' ends at byte" in caplog.text
    assert "Traceback" not in caplog.text


def replace(path):
    other = path.with_name("other")
    other.write_bytes(bytes(100))
    os.replace(other, path)


def delete(path):
    path.unlink()


@pytest.mark.skipif(os.name == "nt", reason="Windows does not let go of a file that is open")
@pytest.mark.parametrize("change", [replace, delete])
def test_a_file_that_is_replaced_is_still_served_to_who_began_with_it(large, change):
    head, body, before, after = changed_while_served(large, change, expect_whole=True)
    assert body == before
    if after:
        (old,), (new,) = (re.findall('etag: (".*?")', text) for text in (head.decode().lower(), after[1]))
        assert old != new


def test_each_version_has_its_own_etag_and_if_range_keeps_them_apart(served, folder):
    path = folder / "m.gguf"
    tags = set()
    for content in (b"GGUFone", b"GGUFtwo", b"GGUFthree"):
        path.write_bytes(content)
        time.sleep(0.02)
        _, head, body = get(served.port, "/models/m.gguf")
        assert body == content
        (tag,) = re.findall('etag: (".*?")', head)
        for old in tags:
            status, _, body = get(served.port, "/models/m.gguf", f"Range: bytes=4-5\r\nIf-Range: {old}\r\n")
            assert (status, body) == (200, content)
        status, _, body = get(served.port, "/models/m.gguf", f"Range: bytes=4-5\r\nIf-Range: {tag}\r\n")
        assert (status, body) == (206, content[4:6])
        tags.add(tag)
    assert len(tags) == 3


@pytest.mark.skipif(os.name == "nt", reason="Windows does not tell when an inode has changed")
def test_a_rewrite_with_the_old_size_and_time_has_another_etag(served, folder):
    """As rsync --inplace --times and cp -p leave it."""
    path, tags = folder / "m.gguf", set()
    for content in (b"GGUFone", b"GGUFtwo"):
        path.write_bytes(content)
        os.utime(path, ns=(10**18, 10**18))
        time.sleep(0.02)
        tags.update(re.findall('etag: (".*?")', get(served.port, "/models/m.gguf", method="HEAD")[1]))
    assert len(tags) == 2


def test_many_at_once_get_the_right_bytes(served, folder):
    data = (folder / "m.gguf").read_bytes()
    wrong = []

    def client(seed):
        for i in range(30):
            start = (seed * 7919 + i * 104729) % (len(data) - 1000)
            if get(served.port, "/models/m.gguf", f"Range: bytes={start}-{start + 999}\r\n")[2] != data[start : start + 1000]:
                wrong.append(start)

    threads = [threading.Thread(target=client, args=(seed,)) for seed in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
