"""wasmrt export: the page as a static site, and what it does to the folder and the models it is given."""

import asyncio
import hashlib
import http.server
import json
import os
import re
import shutil
import threading
from functools import partial
from pathlib import Path

import httpx
import pytest

from tests.gguf_files import write_llama
from tests.test_split import evenly, split
from wasmrt import cli
from wasmrt import export as module
from wasmrt.errors import FormatError, SourceError
from wasmrt.export import MARK, export
from wasmrt.resources import demo_model
from wasmrt.serve.headers import PAGE_POLICY
from wasmrt.serve.offline import SERVICE_WORKER

INDEX = '<!doctype html>\n<html><head>\n<meta charset="utf-8">\n<link rel="stylesheet" href="a.css">\n</head></html>\n'
PAGE = {"index.html": INDEX, "main.js": "one", "ui/app.js": "two", SERVICE_WORKER: "const LIST = {};\n", "a.css": ""}
BESIDE = {"models.json", "_headers", ".nojekyll", "404.html"}


@pytest.fixture
def page(tmp_path):
    """A page as small as one can be."""
    folder = tmp_path / "page"
    for name, text in PAGE.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return folder


@pytest.fixture
def site(tmp_path):
    return tmp_path / "site"


@pytest.fixture
def model(tmp_path):
    path = tmp_path / "tiny.gguf"
    write_llama(path)
    return path


def names_in(folder):
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def listed(site):
    return json.loads((site / SERVICE_WORKER).read_text().removeprefix("const LIST = ").removesuffix(";\n"))["files"]


def models_of(site):
    return {item["name"]: item for item in json.loads((site / "models.json").read_text())["models"]}


# What is in it


def test_it_is_the_page_the_demo_model_and_what_hosts_want(page, site):
    done = export(site, page=page)
    assert names_in(site) == {*PAGE, *BESIDE, MARK, "models/demo.gguf"}
    assert set(done.files) == names_in(site) - {MARK}
    assert done.n_bytes == sum((site / name).stat().st_size for name in done.files)
    assert (site / "main.js").read_text() == "one"
    assert (site / "models/demo.gguf").read_bytes() == demo_model().read_bytes()
    assert not (site / "models/demo.gguf").samefile(demo_model())
    demo = models_of(site)["demo.gguf"]
    assert (demo["url"], demo["runs"], demo["size"]) == ("models/demo.gguf", True, demo_model().stat().st_size)
    assert "etag" not in demo


def test_the_policy_is_in_the_page_before_anything_else_and_in_the_headers(page, site):
    export(site, page=page)
    head = (site / "index.html").read_text()
    (policy,) = re.findall(r'<meta http-equiv="Content-Security-Policy" content="([^"]*)">', head)
    assert head.index(policy) < head.index("<link")
    assert policy == PAGE_POLICY.removesuffix("; frame-ancestors 'none'")
    lines = (site / "_headers").read_text().splitlines()
    assert lines[0] == "/*"
    assert all(re.fullmatch(r"  [A-Za-z-]+: \S.*", line) for line in lines[1:])
    assert f"  Content-Security-Policy: {PAGE_POLICY}" in lines
    assert "  Cross-Origin-Embedder-Policy: require-corp" in lines


def test_the_guide_has_the_headers_as_they_are():
    text = (Path(__file__).resolve().parents[1] / "docs" / "hosting.md").read_text(encoding="utf-8")
    plain, *servers = text.split("```")[5:-1:2]
    for line in module.HEADERS_FILE.splitlines()[1:]:
        name, _, value = line.strip().partition(": ")
        assert f"{name}: {value}" in plain
        for server in servers[:1] + servers[2:3]:  # nginx, Caddy
            assert re.search(f'{name} "?{re.escape(value)}"?( always;)?\n', server), (name, server)


def test_the_service_worker_lists_the_page_as_it_was_written_and_no_model(page, site):
    export(site, page=page)
    assert set(listed(site)) == set(PAGE) - {SERVICE_WORKER}
    for name, (digest, n_bytes) in listed(site).items():
        content = (site / name).read_bytes()
        assert (digest, n_bytes) == (hashlib.sha256(content).hexdigest(), len(content))


def test_the_same_export_twice_gives_the_same_bytes(page, site, tmp_path):
    export(site, page=page)
    export(tmp_path / "again", page=page)
    assert {name: (site / name).read_bytes() for name in names_in(site)} == {
        name: (tmp_path / "again" / name).read_bytes() for name in names_in(tmp_path / "again")
    }


def test_models_are_linked_or_copied_and_listed(page, site, model, monkeypatch):
    done = export(site, [model], demo=False, page=page)
    assert done.linked == ["tiny.gguf"]
    assert (site / "models/tiny.gguf").samefile(model)
    assert list(models_of(site)) == ["tiny.gguf"]
    assert models_of(site)["tiny.gguf"]["architecture"] == "llama"

    def refuse(*_: object) -> None:
        raise OSError("another disk")

    monkeypatch.setattr(os, "link", refuse)
    shutil.rmtree(site)
    progress: list[tuple[int, int]] = []
    done = export(site, [model], page=page, progress=lambda *n: progress.append(n))
    assert done.linked == []
    copy = site / "models/tiny.gguf"
    assert not copy.samefile(model)
    assert copy.read_bytes() == model.read_bytes()
    assert copy.stat().st_mtime_ns == model.stat().st_mtime_ns  # by it a browser knows the file that it has kept
    of = model.stat().st_size + demo_model().stat().st_size
    assert progress == sorted(progress)
    assert progress[-1] == (of, of)
    assert {n for _, n in progress} == {of}


def test_of_a_split_model_all_shards_are_taken(page, site, model):
    split(model, model.parent, evenly(model, 3))
    (shard,) = model.parent.glob("*-00002-of-00003.gguf")
    export(site, [shard], demo=False, page=page)
    found = models_of(site)
    assert len(found) == 3
    assert [item.get("shard", {}).get("number", 1) for item in found.values()] == [1, 2, 3]
    assert found[shard.name.replace("00002-of", "00001-of")]["runs"]


def test_a_demo_model_of_ones_own_goes_before_the_bundled_one(page, site, model):
    own = model.rename(model.with_name("demo.gguf"))
    export(site, [own], page=page)
    assert (site / "models/demo.gguf").samefile(own)


def test_in_a_notebook_whose_loop_runs(page, site, model):
    async def cell():
        return export(site, [model], page=page)

    assert "models/tiny.gguf" in asyncio.run(cell()).files


# The folder


def test_an_earlier_export_is_replaced_and_other_files_stay(page, site, model):
    export(site, [model], page=page)
    (site / "CNAME").write_text("example.org")
    (page / "ui/app.js").rename(page / "ui/other.js")
    (page / "main.js").write_text("three")
    export(site, page=page)
    assert names_in(site) == {*set(PAGE) - {"ui/app.js"}, "ui/other.js", *BESIDE, MARK, "models/demo.gguf", "CNAME"}
    assert (site / "main.js").read_text() == "three"
    assert model.is_file()
    export(site, demo=False, page=page)
    assert not (site / "models").exists()


def test_replacing_a_link_leaves_what_it_was_made_of(page, site, model, tmp_path):
    """It is the person's own model: nothing may be written through its second name."""
    export(site, [model], page=page)
    before = model.read_bytes()
    other = tmp_path / "other" / "tiny.gguf"
    other.parent.mkdir()
    write_llama(other, seed=1)
    export(site, [other], page=page)
    assert model.read_bytes() == before
    assert (site / "models/tiny.gguf").samefile(other)
    export(site, [other], page=page)  # the same once more
    assert (site / "models/tiny.gguf").samefile(other)


def test_a_folder_with_something_else_in_it_is_refused_unless_forced(page, site):
    site.mkdir()
    (site / "thesis.txt").write_text("mine")
    with pytest.raises(SourceError, match="not empty and no earlier export; name an empty folder, or add --force"):
        export(site, page=page)
    assert names_in(site) == {"thesis.txt"}
    export(site, page=page, force=True)
    assert "thesis.txt" in names_in(site)
    assert "index.html" in names_in(site)


def test_a_broken_off_export_can_be_done_again(page, site, model, monkeypatch):
    monkeypatch.setattr(os, "link", lambda *_: (_ for _ in ()).throw(OSError()))

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        export(site, [model], page=page, progress=stop)
    assert not [name for name in names_in(site) if name.endswith(".part")]
    export(site, [model], page=page)


@pytest.mark.parametrize("mark", ["", "{}", "[]", '{"files": 3}'])
def test_a_broken_mark_is_refused_unless_forced(page, site, mark):
    site.mkdir()
    (site / MARK).write_text(mark)
    with pytest.raises(SourceError, match="is broken"):
        export(site, page=page)
    export(site, page=page, force=True)


def test_a_mark_that_names_files_elsewhere_deletes_none(page, site, tmp_path):
    site.mkdir()
    (tmp_path / "mine.txt").write_text("mine")
    (site / "models").mkdir()
    names = ["../mine.txt", str(tmp_path / "mine.txt"), str(site / "index.html"), "", ".", "models", "a\0b", 7]
    (site / MARK).write_text(json.dumps({"files": names}))
    linked = tmp_path / "linked"
    linked.symlink_to(site)
    export(linked, page=page)
    assert (tmp_path / "mine.txt").is_file()
    assert "index.html" in names_in(site)


def test_a_mark_that_is_a_link_is_not_written_through(page, site, tmp_path):
    mine = tmp_path / "mine.json"
    mine.write_text('{"files": []}')
    site.mkdir()
    (site / MARK).symlink_to(mine)
    export(site, page=page)
    assert mine.read_text() == '{"files": []}'
    assert "index.html" in json.loads((site / MARK).read_text())["files"]


def test_what_cannot_be_written_to_is_one_line(page, tmp_path, model):
    with pytest.raises(SourceError, match="it is a file; name a folder"):
        export(model, page=page)
    for inside in (page, page / "ui"):
        with pytest.raises(SourceError, match="the page itself is there"):
            export(inside, page=page)
    with pytest.raises(SourceError, match="cannot write to") as caught:
        export(model / "site", page=page)
    assert "\n" not in str(caught.value)


# The models


@pytest.mark.parametrize(("name", "why"), [
    ("none.gguf", "no such file"),
    ("hf:owner/repo", "fetch it first: wasmrt pull hf:owner/repo"),
    ("https://example.org/a.gguf", "fetch it first: wasmrt pull"),
    ("notes.txt", "has to end in .gguf"),
])  # fmt: skip
def test_what_is_no_model_of_this_machine_is_refused_before_anything_is_written(page, site, tmp_path, monkeypatch, name, why):
    monkeypatch.chdir(tmp_path)
    Path("notes.txt").write_text("not a model")
    with pytest.raises(SourceError, match=re.escape(why)):
        export(site, [name], page=page)
    assert not site.exists()


def test_a_file_that_is_no_model_is_refused(page, site, tmp_path):
    broken = tmp_path / "broken.gguf"
    broken.write_bytes(b"no model at all, whatever its name is")
    with pytest.raises(FormatError, match=r"cannot export .*broken\.gguf"):
        export(site, [broken], page=page)
    assert not site.exists()


def test_two_models_of_one_name_are_refused(page, site, model, tmp_path):
    other = tmp_path / "other" / "tiny.gguf"
    other.parent.mkdir()
    shutil.copy(model, other)
    with pytest.raises(SourceError, match="another model of that name"):
        export(site, [model, other], page=page)
    export(site, [model, model], page=page)


def test_a_page_without_a_place_for_the_policy_is_refused(page, site):
    (page / "index.html").write_text("<!doctype html>")
    with pytest.raises(SourceError, match="build it again"):
        export(site, page=page)


# The command


def test_the_command_prints_the_folder(page, site, model, monkeypatch, capsys):
    monkeypatch.setattr(module.resources, "page", lambda: page)
    assert cli.main(["export", str(site), "--model", str(model), "--no-demo"]) == 0
    out, err = capsys.readouterr()
    assert out == f"{site}\n"
    assert "tiny.gguf is there as a hard link" in err
    assert names_in(site) == {*PAGE, *BESIDE, MARK, "models/tiny.gguf"}
    (site / MARK).unlink()
    assert cli.main(["export", str(site)]) == 1
    assert capsys.readouterr().err.startswith("error: cannot export to")
    assert cli.main(["export", str(site), "--force"]) == 0
    assert "models/demo.gguf" in names_in(site)


def test_a_server_of_files_gives_it_out(page, site):
    """With the types that browsers want of scripts."""
    export(site, page=page)

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, format: str, *args: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(site))) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            url = f"http://127.0.0.1:{server.server_address[1]}/"
            assert httpx.get(url).text == (site / "index.html").read_text()
            assert "javascript" in httpx.get(url + SERVICE_WORKER).headers["content-type"]
            assert httpx.get(url + "models.json").headers["content-type"] == "application/json"
            got = httpx.get(url + "models/demo.gguf", headers={"Range": "bytes=0-9"})
            assert (got.status_code, len(got.content)) == (200, demo_model().stat().st_size)
        finally:
            server.shutdown()
