"""hf: references: what they mean, what they cannot smuggle, which file of a repository they take; and a hub that goes wrong."""

import asyncio
import json
import re
from urllib.parse import urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.range_server import Fault, RangeServer, redirect
from wasmrt.errors import SourceError
from wasmrt.store import hub
from wasmrt.store.http import HttpSource
from wasmrt.store.hub import HubRef, choose, list_files, parse, resolve, url_of

REF = HubRef("o", "r")
TREE = "/api/models/o/r/tree/main"


def run(coroutine):
    return asyncio.run(asyncio.wait_for(coroutine, 20))


def tree(*paths, kind="file"):
    return json.dumps([{"type": kind, "path": path, "size": 1, "oid": "x"} for path in paths]).encode()


def endpoint(server):
    return server.url_of("").rstrip("/")


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr("wasmrt.store.http_rules.HttpLimits.pause", lambda *_: 0.0)


# References


@pytest.mark.parametrize(("ref", "means"), [
    ("hf:o/r", HubRef("o", "r")),
    ("HF:TheBloke/Llama-2.7B-GGUF", HubRef("TheBloke", "Llama-2.7B-GGUF")),
    ("hf:o/r:Q4_K_M", HubRef("o", "r", quant="Q4_K_M")),
    ("hf:o/r/m.gguf", HubRef("o", "r", file="m.gguf")),
    ("hf:o/r/a b/ü.GGUF", HubRef("o", "r", file="a b/ü.GGUF")),
    ("hf:o/r@v1.0/a/m.gguf", HubRef("o", "r", "v1.0", file="a/m.gguf")),
    ("hf:o/r@refs/pr/3/m.gguf", HubRef("o", "r", "refs/pr/3", file="m.gguf")),
    ("hf:o/r@0123abc:UD-Q2_K_XL", HubRef("o", "r", "0123abc", quant="UD-Q2_K_XL")),
    ("hf:o/r/a@b.gguf", HubRef("o", "r", file="a@b.gguf")),
])
def test_what_a_reference_means(ref, means):
    assert parse(ref) == means


@pytest.mark.parametrize("ref", [
    "hf:", "hf:o", "hf:o/", "hf:/r", "hf://o/r", "hf:o/r/", "hf:o/r:", "hf:o/r@", "hf:o/r@/m.gguf", "hf:o/r/m.bin", "hf:o/..",
    "hf:../r", "hf:o/r/../m.gguf", "hf:o/r/a/../../m.gguf", "hf:o/r//m.gguf", "hf:o/r/./m.gguf", "hf:o/r/a\\m.gguf",
    "hf:o/r/%2e%2e/m.gguf", "hf:o/r/m.gguf?x=1.gguf", "hf:o/r/m.gguf#.gguf", "hf:o/r/a\nb.gguf", "hf:o/r/a\0.gguf", "hf:o r/r",
    "hf:o/r\n:Q4_0", "hf:o/r@a b/m.gguf", "hf:o/r@../m.gguf", "hf:o/r:Q4_0/../x", "hf:http://evil/m.gguf", "hf:o/http://e/m.gguf",
    "hf:o/r/http://evil/m.gguf", "hf:-o/r", "hf:.o/r", "hf:o/r/" + "a" * 2000 + ".gguf", "hf:" + "o" * 200 + "/r",
    "hf:o/r/ /m.gguf", "hf:o/r/\u202em.gguf", "o/r", "hf:o@evil.org/r",
])
def test_what_is_no_reference(ref):
    with pytest.raises(SourceError) as caught:
        parse(ref)
    message = str(caught.value)
    assert "\n" not in message
    assert "\0" not in message
    assert "hf:owner/repo" in message
    assert len(message) < 600


TEXT = st.text(st.sampled_from("aZ0._-/@:%?#\\ \n\0~ü=&"), max_size=20)


@given(owner=TEXT, repo=TEXT, rest=TEXT)
def test_a_reference_stays_in_its_repository(owner, repo, rest):
    """Whatever parses gives a URL of the hub, below that owner's repository, with no query and nothing to normalise."""
    for ref in (f"hf:{owner}/{repo}/{rest}.gguf", f"hf:o/r/{rest}.gguf", f"hf:o/r@{repo}/{rest}.gguf"):
        try:
            parsed = parse(ref)
        except SourceError:
            continue
        url = urlsplit(url_of(parsed, parsed.file or "m.gguf"))
        assert (url.scheme, url.netloc, url.query, url.fragment) == ("https", "huggingface.co", "", "")
        assert url.path.startswith(f"/{parsed.owner}/{parsed.repo}/resolve/")
        assert not {"", ".", ".."} & set(url.path.split("/")[1:])
        assert re.fullmatch(r"[A-Za-z0-9._~%/-]*", url.path)


def test_urls_are_percent_encoded():
    assert url_of(HubRef("o", "r", "refs/pr/1"), "a b/ü.gguf") == "https://huggingface.co/o/r/resolve/refs%2Fpr%2F1/a%20b/%C3%BC.gguf"


# Choosing

FILES = [
    "README.md", "m-Q4_K_M.gguf", "m-Q4_K_S.gguf", "m.IQ4_K.gguf", "m_q8_0.gguf", "mmproj-m-Q8_0.gguf", "imatrix.gguf",
    "big-F16-00001-of-00002.gguf", "big-F16-00002-of-00002.gguf", "BF16/x-00001-of-00003.gguf", "BF16/x-00002-of-00003.gguf",
]


@pytest.mark.parametrize(("quant", "file"), [
    ("Q4_K_M", "m-Q4_K_M.gguf"), ("q4_k_s", "m-Q4_K_S.gguf"), ("IQ4_K", "m.IQ4_K.gguf"), ("Q8_0", "m_q8_0.gguf"),
    ("F16", "big-F16-00001-of-00002.gguf"), ("BF16", "BF16/x-00001-of-00003.gguf"),
])
def test_the_file_that_carries_the_quant(quant, file):
    assert choose(HubRef("o", "r", quant=quant), FILES) == file


@pytest.mark.parametrize("quant", ["Q4_K", "Q4", "4_K_M", "K_M", "Q8", "_0", "Q4.K.M"])
def test_part_of_a_quant_is_no_quant(quant):
    with pytest.raises(SourceError, match="no file of") as caught:
        choose(HubRef("o", "r", quant=quant), FILES)
    assert "m-Q4_K_M.gguf" in str(caught.value)
    assert "mmproj" not in str(caught.value)
    assert "00002-of" not in str(caught.value)


def test_two_files_of_one_quant():
    with pytest.raises(SourceError, match=r"more than one file.*a/m-Q4_0.gguf, b/m-Q4_0.gguf"):
        choose(HubRef("o", "r", quant="Q4_0"), ["b/m-Q4_0.gguf", "a/m-Q4_0.gguf", "x-Q8_0.gguf"])


def test_the_usual_one(caplog):
    assert choose(REF, FILES) == "m-Q4_K_M.gguf"
    assert "taking 'm-Q4_K_M.gguf'" in caplog.text
    caplog.clear()
    assert choose(REF, ["only-this.gguf", "mmproj.gguf"]) == "only-this.gguf"
    assert not caplog.text
    assert choose(REF, ["a-Q8_0.gguf", "a-Q4_0.gguf", "a-Q2_K.gguf"]) == "a-Q4_0.gguf"
    with pytest.raises(SourceError, match=r"2 models.*a\.gguf, b\.gguf"):
        choose(REF, ["b.gguf", "a.gguf"])


@pytest.mark.parametrize("files", [[], ["model.safetensors"], ["mmproj.gguf"], ["../m.gguf", "a\\b.gguf"]])
def test_nothing_to_choose_from(files):
    with pytest.raises(SourceError, match="no GGUF model"):
        choose(REF, files)


def test_an_error_stays_short():
    with pytest.raises(SourceError, match="and 976 more") as caught:
        choose(REF, [f"m{i}.gguf" for i in range(1000)])
    assert len(str(caught.value)) < 1000


# The hub


def test_the_list_comes_in_pages():
    second = TREE + "2"
    with RangeServer({TREE: tree("a.txt"), second: tree("dir/b-Q4_0.gguf", "c-Q8_0.gguf")}) as server:
        link = f"<{server.url_of(second)}?cursor=x>; rel=\"next\""
        server.faults.append(Fault(headers={"Link": link}))
        assert run(list_files(REF, endpoint(server))) == ["a.txt", "dir/b-Q4_0.gguf", "c-Q8_0.gguf"]
        assert [r.target for r in server.requests] == [TREE + "?recursive=true", second + "?cursor=x"]
        server.faults.append(Fault(headers={"Link": link}))
        url = run(resolve(HubRef("o", "r", quant="q8_0"), endpoint(server) + "/"))
        assert url == server.url_of("/o/r/resolve/main/c-Q8_0.gguf")


def test_a_named_file_needs_no_list():
    with RangeServer(b"x") as server:
        assert run(resolve(parse("hf:o/r/m.gguf"), endpoint(server))) == server.url_of("/o/r/resolve/main/m.gguf")
        assert not server.requests


def test_a_list_that_trickles_ends(monkeypatch):
    monkeypatch.setattr("wasmrt.store.hub.LIST_SECONDS", 0.3)
    with RangeServer({TREE: tree(*(f"{i}.gguf" for i in range(1000)))}) as server:
        server.bytes_per_second = 100
        with pytest.raises(SourceError, match=r"more than 0\.3 s") as caught:
            run(list_files(REF, endpoint(server)))
        assert caught.value.transient


@pytest.mark.parametrize("location", ["http://xn--a/", "javascript:1", "http:x"])
def test_a_list_that_moved_to_what_is_no_url(location):
    with RangeServer({TREE: tree("a.gguf")}) as server:
        server.faults.append(redirect(location))
        with pytest.raises(SourceError, match="the list of the files"):
            run(list_files(REF, endpoint(server)))


def test_a_repository_that_was_renamed():
    with RangeServer({TREE: tree("a.gguf")}) as server:
        server.faults.append(redirect(TREE + "?recursive=true", 307))
        assert run(list_files(HubRef("old", "r"), endpoint(server))) == ["a.gguf"]


def test_folders_are_no_files():
    with RangeServer({TREE: tree("a.gguf", kind="directory")}) as server:
        assert run(list_files(REF, endpoint(server))) == []


NONSENSE = [b"", b"<html>", b"{}x", b'{"error": "x"}', b'[{"type": "file"}]', b"[1]", b"[" * 100000, b"\xff"]


@pytest.mark.parametrize("body", NONSENSE, ids=range(len(NONSENSE)))
def test_a_list_that_makes_no_sense(body):
    with RangeServer({TREE: body}) as server, pytest.raises(SourceError, match="makes no sense"):
        run(list_files(REF, endpoint(server)))


@pytest.mark.parametrize(("status", "says"), [(401, "everyone"), (404, "check the name"), (418, "status 418")])
def test_refusals(status, says):
    with RangeServer({TREE: b""}) as server:
        server.faults.append(Fault(status=status))
        with pytest.raises(SourceError, match=says) as caught:
            run(list_files(REF, endpoint(server)))
        assert not caught.value.transient
        assert len(server.requests) == 1


def test_a_busy_hub_is_asked_again():
    with RangeServer({TREE: tree("a.gguf")}) as server:
        server.faults.extend([Fault(status=503), Fault(no_answer=True)])
        assert run(list_files(REF, endpoint(server))) == ["a.gguf"]
        server.faults.extend([Fault(status=429)] * 3)
        with pytest.raises(SourceError, match=r"3 attempts failed.*429") as caught:
            run(list_files(REF, endpoint(server)))
        assert caught.value.transient
        server.stop()
        with pytest.raises(SourceError, match="attempts failed") as caught:
            run(list_files(REF, endpoint(server)))
        assert caught.value.transient


def test_a_list_without_end(monkeypatch):
    with RangeServer({TREE: tree("a.gguf")}) as server:
        server.faults = lambda request: Fault(headers={"Link": f'<{TREE}>; rel="next"'})
        with pytest.raises(SourceError, match="more than 20 pages"):
            run(list_files(REF, endpoint(server)))
        assert len(server.requests) == 20
        monkeypatch.setattr(hub, "MAX_PAGE_BYTES", 10)
        with pytest.raises(SourceError, match="more than 10 bytes"):
            run(list_files(REF, endpoint(server)))


@pytest.mark.parametrize("target", ["http://example.org/x", "//127.0.0.2/x", "file:///etc/passwd", "http://[", "https://127.0.0.1/x"])
@pytest.mark.parametrize("way", ["link", "redirect"])
def test_a_list_does_not_lead_elsewhere(target, way):
    with RangeServer({TREE: tree("a.gguf")}) as server:
        server.faults.append(redirect(target) if way == "redirect" else Fault(headers={"Link": f'<{target}>; rel="next"'}))
        with pytest.raises(SourceError, match="goes on at"):
            run(list_files(REF, endpoint(server)))
        assert len(server.requests) == 1


def test_reading_on_when_the_signature_expires():
    """The hub's redirect goes to a signed URL that ends; its x-linked-etag names the hash."""
    data = bytes(range(256)) * 100
    path = "/o/r/resolve/main/m.gguf"

    async def check(server):
        source = await HttpSource.open(await resolve(parse("hf:o/r/m.gguf"), endpoint(server)))
        buffer = bytearray(len(data))
        await source.read_into(0, memoryview(buffer)[:10000])
        server.expire_signatures()
        await source.read_into(10000, memoryview(buffer)[10000:])
        assert source.sha256
        await source.close()
        assert buffer == data

    with RangeServer({path: data}, signed=True) as server:
        run(check(server))
        assert 403 in [r.status for r in server.requests]
