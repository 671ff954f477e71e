"""The page as a static site: files for any host or CDN, none of which has to run anything.

What `wasmrt serve` says in headers a host may not be able to: the policy stands in index.html as well, `_headers` is for hosts
that read it, and the service worker adds what isolation needs (docs/hosting.md). `models.json` says which models there are.
"""

import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote

from wasmrt import __version__, resources
from wasmrt.errors import FormatError, SourceError
from wasmrt.serve.catalog import DEMO, SUFFIX, Entry, shards_of
from wasmrt.serve.describe import describe, outline
from wasmrt.serve.headers import EVERYWHERE, PAGE_POLICY
from wasmrt.serve.offline import SERVICE_WORKER, list_files
from wasmrt.serve.paths import is_plain

Progress = Callable[[int, int], None]

MARK = ".wasmrt-export.json"  # what an export consists of, so that the next one knows what it may replace and delete
MODELS = "models"
CHARSET = '<meta charset="utf-8">'
COPY_BYTES = 4 << 20

# Of Netlify, Cloudflare Pages and others. no-cache: asked about each time, and not sent again while it is the same.
HEADERS_FILE = "/*\n" + "".join(
    f"  {name}: {value}\n"
    for name, value in {
        **EVERYWHERE, "Content-Security-Policy": PAGE_POLICY, "Cache-Control": "no-cache, no-transform"
    }.items()
)  # fmt: skip
# Hosts that have no such file answer with index.html instead, which is no model and no list of models.
NOT_FOUND = '<!doctype html>\n<meta charset="utf-8">\n<title>Not here</title>\n<p>There is no such file.\n'


@dataclass
class Exported:
    """files: by their paths in `folder`; linked: names of the models that are hard links to the files they were made of."""

    folder: Path
    files: list[str] = field(default_factory=list)
    linked: list[str] = field(default_factory=list)
    n_bytes: int = 0


def export(
    where: str | os.PathLike[str],
    models: Sequence[str | os.PathLike[str]] = (),
    *,
    demo: bool = True,
    force: bool = False,
    page: Path | None = None,
    progress: Progress | None = None,
) -> Exported:
    """Write the page into the folder `where`, with these models, of a split one all shards.

    demo: with the demo model. force: into a folder that holds something else, too. page: the page's folder; None: the one that
    was built or installed. progress: of bytes. An earlier export is replaced; files of it that this one lacks are deleted.
    Raises SourceError and FormatError before anything is written, and SourceError where the disk refuses.
    """
    page = (page or resources.page()).resolve()
    named = _named(models, demo)
    folder = Path(where).absolute()
    try:
        earlier = _prepare(folder, page, force)
        _mark(folder, earlier)  # one that is broken off can be done again
        done = Exported(folder)
        before, of = 0, sum(path.stat().st_size for path in named.values())

        def told(n_bytes: int) -> None:
            if progress:
                progress(before + n_bytes, of)

        for name, path in named.items():
            target = folder / MODELS / name
            target.parent.mkdir(exist_ok=True)
            if _put_model(path, target, told):
                done.linked.append(name)
            told(path.stat().st_size)
            before += path.stat().st_size
            done.files.append(f"{MODELS}/{name}")
        with tempfile.TemporaryDirectory(dir=folder, prefix=".wasmrt-export-") as scratch:
            names = _make_page(page, Path(scratch), _list_of(named))
            for name in sorted(names, key=lambda name: name == SERVICE_WORKER):  # it comes last: it tells of the others
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                os.replace(Path(scratch, name), folder / name)
        done.files = sorted([*done.files, *names])
        _delete(folder, set(earlier) - set(done.files))
        _mark(folder, done.files)
        done.n_bytes = sum((folder / name).stat().st_size for name in done.files)
        return done
    except OSError as error:
        raise SourceError(f"cannot write to {str(folder)!r}: {error.strerror or error}; name another folder") from error


def _named(models: Iterable[str | os.PathLike[str]], demo: bool) -> dict[str, Path]:
    """The files, by the names that they get. Raises SourceError, and FormatError for what is no model."""
    named: dict[str, Path] = {}
    for model in models:
        text = os.fsdecode(model)
        path = Path(text).absolute()
        if not path.is_file():
            hint = f"fetch it first: wasmrt pull {text}" if "://" in text or text[:3].lower() == "hf:" else "name a GGUF file"
            raise SourceError(f"cannot export {text!r}: there is no such file on this machine; {hint}")
        if not is_plain(path.name) or not path.name.lower().endswith(SUFFIX):
            raise SourceError(f"cannot export {text!r}: its name has to end in {SUFFIX} and be one on any system; rename it")
        shards = shards_of(path)
        if error := _described(shards[0]).get("error"):
            raise FormatError(f"cannot export {text!r}: {error}")
        for shard in shards:
            if shard.name in named and not named[shard.name].samefile(shard):
                raise SourceError(f"cannot export {text!r}: there is another model of that name, {str(named[shard.name])!r}")
            named[shard.name] = shard
    if demo and DEMO not in named:
        named[DEMO] = resources.demo_model()
    return named


def _prepare(folder: Path, page: Path, force: bool) -> list[str]:
    """Make sure that it is a folder which may be written to; the files that an earlier export wrote there."""
    real = folder.resolve()
    if real == page or page in real.parents:
        raise SourceError(f"cannot export to {str(folder)!r}: the page itself is there; name another folder")
    if folder.exists() and not folder.is_dir():
        raise SourceError(f"cannot export to {str(folder)!r}: it is a file; name a folder")
    folder.mkdir(parents=True, exist_ok=True)
    try:
        written = json.loads((folder / MARK).read_text(encoding="utf-8"))["files"]
        return [name for name in written if isinstance(name, str) and _is_file_in(real, name)]
    except FileNotFoundError:
        if force or not any(folder.iterdir()):
            return []
        hint = "name an empty folder, or add --force to write among what is there"
        raise SourceError(f"cannot export to {str(folder)!r}: it is not empty and no earlier export; {hint}") from None
    except (ValueError, KeyError, TypeError) as error:
        if force:
            return []
        raise SourceError(f"cannot export to {str(folder)!r}: its {MARK} is broken; delete it, and add --force") from error


def _is_file_in(folder: Path, name: str) -> bool:
    """Whether a mark, which may be anybody's, names a file of this very folder."""
    path = folder / name
    return not Path(name).is_absolute() and path.is_file() and path.resolve().is_relative_to(folder)


def _mark(folder: Path, files: list[str]) -> None:
    """Replaced as a whole: half of one would be in the way of the next export, and a link there is not written through."""
    part = folder / f"{MARK}.part"
    part.unlink(missing_ok=True)
    part.write_text(json.dumps({"wasmrt": __version__, "files": files}, indent=1) + "\n", encoding="utf-8")
    os.replace(part, folder / MARK)


def _put_model(path: Path, target: Path, progress: Callable[[int], None]) -> bool:
    """A hard link where both are on one disk, else a copy; whether it is linked. The package's own is copied: it is no one's to
    change. A copy that is there already stays.

    With the time of modification: hosts that send no ETag are known by it, and what browsers keep of a model stays good.
    """
    path = path.resolve()
    if target.exists():
        if target.samefile(path):
            return True
        there, wanted = target.stat(), path.stat()
        if (there.st_size, there.st_mtime_ns) == (wanted.st_size, wanted.st_mtime_ns):
            return False
    part = target.with_name(f"{target.name}.part")
    part.unlink(missing_ok=True)
    try:
        linked = path.parent != resources.DATA and _linked(path, part)
        if not linked:
            _copy(path, part, progress)
        os.replace(part, target)
        return linked
    finally:
        part.unlink(missing_ok=True)


def _linked(path: Path, target: Path) -> bool:
    try:
        os.link(path, target)
    except OSError:  # another disk, or one without links: what keeps a copy from being made is said then
        return False
    return True


def _copy(path: Path, target: Path, progress: Callable[[int], None]) -> None:
    done = 0
    with path.open("rb") as source, target.open("wb") as copy:
        while piece := source.read(COPY_BYTES):
            copy.write(piece)
            done += len(piece)
            progress(done)
    shutil.copystat(path, target)


def _make_page(page: Path, scratch: Path, models: list[dict[str, Any]]) -> list[str]:
    """All files but the models, in `scratch`; their names."""
    shutil.copytree(page, scratch, dirs_exist_ok=True)
    names = [path.relative_to(scratch).as_posix() for path in scratch.rglob("*") if path.is_file()]
    index = scratch / "index.html"
    text = index.read_text(encoding="utf-8") if index.is_file() else ""
    if text.count(CHARSET) != 1:
        raise SourceError(f"the page in {str(page)!r} has no index.html with {CHARSET}; build it again")
    index.write_text(text.replace(CHARSET, f"{CHARSET}\n{policy_tag()}"), encoding="utf-8", newline="\n")
    list_files(scratch, [name for name in names if name != SERVICE_WORKER])
    others = {
        "models.json": json.dumps({"models": models}, indent=1) + "\n",
        "_headers": HEADERS_FILE,
        ".nojekyll": "",  # GitHub Pages would leave out what begins with "_"
        "404.html": NOT_FOUND,
    }
    for name, content in others.items():
        (scratch / name).write_text(content, encoding="utf-8", newline="\n")
    return [*names, *others]


def policy_tag() -> str:
    """The page's policy for its head; a tag cannot say who may frame the page."""
    policy = "; ".join(part for part in PAGE_POLICY.split("; ") if not part.startswith("frame-ancestors"))
    return f'<meta http-equiv="Content-Security-Policy" content="{policy}">'


def _list_of(named: dict[str, Path]) -> list[dict[str, Any]]:
    """As the server's /models, with paths from the page on, and without ETags, which are the host's."""
    models = []
    for name, path in sorted(named.items()):
        item = outline(Entry(name, path)) | {"url": f"{MODELS}/{quote(name)}"}
        item.pop("etag", None)
        models.append(item if "shard" in item else item | _described(path))
    return models


def _described(path: Path) -> dict[str, Any]:
    """In a thread: whoever calls us, as a notebook does, may have an event loop in its own."""
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(describe, path).result()


def _delete(folder: Path, names: Iterable[str]) -> None:
    """Files of an earlier export, and folders that are empty then."""
    for name in sorted(names, reverse=True):
        path = folder / name
        path.unlink(missing_ok=True)
        for parent in path.relative_to(folder).parents:
            if parent.parts and not any((folder / parent).iterdir()):
                (folder / parent).rmdir()
