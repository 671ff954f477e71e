"""Make build/web, the folder of the page: `python tools/build_web.py [--force] [--wheel]`; see docs/web-build.md.

It holds web/ as it is, in pyodide/ Pyodide, the wheels and a lock file that names them with their digests, and in ui/vendor/
the libraries of the user interface; its service worker has a list of all files. Nothing in it asks another origin for anything.
With --wheel also dist/*.whl, the one wheel with that folder in it.
"""

import hashlib
import json
import os
import shutil
import sys
import tarfile
import tempfile
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # run as a script, from any folder

from tools.web_compile import can_compile, compile_archives  # noqa: E402
from tools.web_parts import JINJA2, MARKUPSAFE, PARTS, PYODIDE, BuildError, fetch, run, say  # noqa: E402
from tools.web_vendor import LIBRARIES, vendor  # noqa: E402
from tools.web_wheels import MARKUPSAFE_WHEEL, markupsafe_wheel, pack, page_wheel  # noqa: E402
from wasmrt.serve.offline import SERVICE_WORKER, list_files  # noqa: E402
from wasmrt.store.lock import FileLock  # noqa: E402

STDLIB, LOCK = "python_stdlib.zip", "pyodide-lock.json"
RUNTIME = ("pyodide.mjs", "pyodide.asm.mjs", "pyodide.asm.wasm", STDLIB)
STAMP, LICENSES = Path("build", "web.stamp"), Path("tools", "web_licenses")


def main(arguments: list[str]) -> int:
    if set(arguments) - {"--force", "--wheel"}:
        print(f"error: unknown arguments {' '.join(arguments)!r}; there are: --force, --wheel", file=sys.stderr)
        return 2
    try:
        page = build(force="--force" in arguments)
        if "--wheel" in arguments:
            say(str(release_wheel(ROOT, page, ROOT / "dist")))
    except BuildError as error:
        print(f"{error.output}error: {error}", file=sys.stderr)
        return 1
    return 0


def build(root: Path = ROOT, force: bool = False) -> Path:
    """Make the page of the checkout `root` unless it is up to date; its folder. Raises BuildError. One build at a time: another
    waits, and finds it done."""
    cache = root / "build" / "cache"
    cache.mkdir(parents=True, exist_ok=True)
    waited = False
    while (lock := FileLock.acquire(cache / "web.lock")) is None:
        if not waited:
            say("waiting for another build")
        waited = True
        time.sleep(0.1)
    try:
        out = root / "build" / "web"
        if not force and up_to_date(root):
            say("up to date")
        else:
            make(root, out, cache)
        return out
    finally:
        lock.release()


def make(root: Path, out: Path, cache: Path) -> None:
    started = time.monotonic()
    inputs = input_hash(root)  # taken before building: after an edit in the meantime the stamp is stale, not wrong
    with tempfile.TemporaryDirectory(dir=cache, prefix="page-") as name:
        page = Path(name, "web")
        shutil.copytree(root / "web", page)
        runtime = page / "pyodide"
        runtime.mkdir()
        info = unpack_pyodide(fetch(PYODIDE, cache), runtime)
        wheels = [
            write(runtime / JINJA2.file_name, fetch(JINJA2, cache).read_bytes()),
            write(runtime / MARKUPSAFE_WHEEL, markupsafe_wheel(fetch(MARKUPSAFE, cache))),
            own_wheel(root, Path(name), runtime),
        ]
        write_lock(runtime, info, wheels)  # of the sources: pyodide-lock knows a package by its .py files
        compile_archives([runtime / STDLIB, *wheels], runtime, cache)
        update_lock(runtime)
        licenses = vendor(page / "ui" / "vendor", lambda part: fetch(part, cache))
        (page / "THIRD_PARTY.txt").write_text(notices(root, licenses), encoding="utf-8", newline="\n")
        list_files(page, [name for path in files_of(page) if (name := path.relative_to(page).as_posix()) != SERVICE_WORKER])
        replace_folder(page, out)
    (root / STAMP).write_bytes(stamp_of(inputs, out))
    size = sum(path.stat().st_size for path in files_of(out))
    say(f"{out}: {size / 1e6:.1f} MB in {time.monotonic() - started:.1f} s")


def up_to_date(root: Path = ROOT) -> bool:
    """Whether the folder is whole and made of the sources as they are now."""
    try:
        return (root / STAMP).read_bytes() == stamp_of(input_hash(root), root / "build" / "web")
    except FileNotFoundError:
        return False


def stamp_of(inputs: bytes, out: Path) -> bytes:
    """It holds the outputs too, so that a folder somebody has changed or half deleted is made again."""
    digest = hashlib.sha256(inputs)
    for path in files_of(out):
        digest.update(f"\0{path.relative_to(out).as_posix()}\0".encode() + hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest().encode()


def input_hash(root: Path) -> bytes:
    """Of everything that the page is made of: the package, what is beside it, and these tools with their pins."""
    folders = ("web", "wasmrt", "shaders", str(LICENSES))
    files = [path for folder in folders for path in files_of(root / folder) if path.suffix not in (".pyc", ".gguf")]
    files += [root / name for name in ("pyproject.toml", "hatch_build.py", "LICENSE", "README.md")]
    files += sorted((root / "tools").glob("*web*.*"))
    digest = hashlib.sha256(repr((PARTS, LIBRARIES, can_compile())).encode())
    for path in files:
        content = path.read_bytes()
        digest.update(f"\0{path.relative_to(root).as_posix()} {len(content)}\0".encode() + content)
    return digest.digest()


def files_of(folder: Path) -> Iterator[Path]:
    yield from sorted(path for path in folder.rglob("*") if path.is_file())


def unpack_pyodide(archive: Path, folder: Path) -> dict[str, str]:
    """Write the files that run into `folder`. The info block of Pyodide's own lock file: which Python and ABI this is."""
    with tarfile.open(archive) as tar:

        def member(name: str) -> bytes:
            content = tar.extractfile(f"package/{name}")
            assert content is not None
            return content.read()

        for name in RUNTIME:
            write(folder / name, member(name))
        info: dict[str, str] = json.loads(member(LOCK))["info"]
    say(f"{PYODIDE.name} {PYODIDE.version} with Python {info['python']}")
    return info


def own_wheel(root: Path, scratch: Path, folder: Path) -> Path:
    """Of the one wheel what a page needs."""
    wheel = one_wheel(root, scratch)
    lean = write(folder / wheel.name, page_wheel(wheel))
    say(f"{lean.name}: {lean.stat().st_size / 1000:.0f} of {wheel.stat().st_size / 1000:.0f} kB")
    return lean


def release_wheel(root: Path, page: Path, folder: Path) -> Path:
    """The one wheel with the page inside, in `folder`: where it is installed, `wasmrt serve` needs no checkout, no network."""
    with tempfile.TemporaryDirectory() as name:
        wheel = one_wheel(root, Path(name))
        with zipfile.ZipFile(wheel) as archive:
            files = {info.filename: archive.read(info) for info in archive.infolist() if not info.is_dir()}
    files |= {f"wasmrt/web/{path.relative_to(page).as_posix()}": path.read_bytes() for path in files_of(page)}
    folder.mkdir(exist_ok=True)
    return write(folder / wheel.name, pack(files))


def one_wheel(root: Path, folder: Path) -> Path:
    """As `python -m build` makes it, in an empty folder."""
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder), str(root)]
    run("the wheel could not be built", command, root)
    (wheel,) = folder.glob("*.whl")
    return wheel


def write_lock(folder: Path, info: dict[str, str], wheels: list[Path]) -> None:
    """A lock file that has these wheels of `folder` and nothing else: their names, requirements and SHA-256."""
    from pyodide_lock.spec import InfoSpec, PyodideLockSpec
    from pyodide_lock.utils import add_wheels_to_spec

    # This release of pyodide-lock wants a version that Pyodide's info block no longer has; what is written is Pyodide's block.
    empty = PyodideLockSpec(info=InfoSpec(version=PYODIDE.version, **info), packages={})  # type: ignore[arg-type]
    spec = add_wheels_to_spec(empty, wheels)
    spec.check_wheel_filenames()
    write(folder / LOCK, as_json({"info": info, "packages": spec.model_dump()["packages"]}))


def update_lock(folder: Path) -> None:
    """The digests, of the wheels as they are now."""
    content = json.loads((folder / LOCK).read_bytes())
    for package in content["packages"].values():
        package["sha256"] = hashlib.sha256((folder / package["file_name"]).read_bytes()).hexdigest()
    write(folder / LOCK, as_json(content))


def as_json(content: dict[str, Any]) -> bytes:
    return (json.dumps(content, indent=1, sort_keys=True) + "\n").encode()


def notices(root: Path, of_libraries: dict[str, str]) -> str:
    """Who made what is in pyodide/ and ui/vendor/, under which licences, and these in full."""
    texts = {path.stem: path.read_text(encoding="utf-8") for path in files_of(root / LICENSES)} | of_libraries
    licenses = "\n\n".join(f"{'=' * 80}\n{name}\n{'=' * 80}\n\n{text}" for name, text in texts.items())
    libraries = "\n".join(
        f"{library.part.name} {library.part.version}, {library.what}: {library.license}" for library in LIBRARIES
    )
    return f"""The folder pyodide/ beside this file holds software of others:

Pyodide {PYODIDE.version}, Mozilla Public License 2.0 (MPL-2.0)
    pyodide.mjs, pyodide.asm.mjs, pyodide.asm.wasm, unchanged, and in python_stdlib.zip its Python part.
    Copyright (C) the Pyodide contributors and Mozilla. Source: https://github.com/pyodide/pyodide, tag {PYODIDE.version}

CPython, the Python interpreter and its standard library, Python Software Foundation License 2 (PSF-2.0)
    in pyodide.asm.wasm and python_stdlib.zip. Changed: the library's files are compiled, nothing else.
    Copyright (C) 2001 Python Software Foundation. Source: https://github.com/python/cpython
    With it in pyodide.asm.wasm come Emscripten's C library (MIT), libffi (MIT), zlib (Zlib), bzip2 (bzip2-1.0.6), liblzma
    (0BSD), Zstandard (BSD-3-Clause), expat (MIT), mpdecimal (BSD-2-Clause), SQLite (public domain) and HACL* (MIT).

Jinja2 {JINJA2.version}, BSD 3-Clause License
    Copyright 2007 Pallets. Source: https://github.com/pallets/jinja. Changed: its files are compiled.

MarkupSafe {MARKUPSAFE.version}, BSD 3-Clause License
    Copyright 2010 Pallets. Source: https://github.com/pallets/markupsafe. Changed: without its C part; its files are compiled.

The folder ui/vendor/ holds libraries of the page, from npm; changed: what they import by name they import from there.

{libraries}

wasmrt itself, in this folder and in its wheel, is under the MIT License.


{licenses}"""


def write(path: Path, content: bytes) -> Path:
    """The path, for what comes next."""
    path.write_bytes(content)
    return path


def replace_folder(new: Path, out: Path) -> None:
    """In two renames, so that a server finds whole files all the time but for an instant."""
    old = new.with_name("old")
    if out.exists():
        os.replace(out, old)
    os.replace(new, out)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
