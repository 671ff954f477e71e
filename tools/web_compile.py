"""Compile the page's Python ahead of time: a page otherwise does it on every start, which takes most of its start.

A .pyc belongs to one Python, so Pyodide itself compiles, under node. What was compiled is kept in build/cache/pyc under the
digest of its source. Where there is no node the page gets the sources, and starts later.
"""

import hashlib
import io
import shutil
import tempfile
import zipfile
from collections.abc import Sequence
from pathlib import Path

from tools.web_parts import PYODIDE, BuildError, run, say
from tools.web_wheels import pack, pack_zip

SCRIPT = Path(__file__).with_suffix(".mjs")


def can_compile() -> bool:
    return shutil.which("node") is not None


def compile_archives(archives: Sequence[Path], runtime: Path, cache: Path) -> None:
    """Replace the .py files in these archives by .pyc files. runtime: Pyodide's folder, its own library as yet uncompiled."""
    node = shutil.which("node")
    if node is None:
        say("node is not here: Python's files stay uncompiled, and the page starts seconds later; sudo apt-get install nodejs")
        return
    kept = cache / "pyc"
    kept.mkdir(parents=True, exist_ok=True)
    sources = {archive: archive.read_bytes() for archive in archives}
    places = {archive: kept / f"{key(data)}.zip" for archive, data in sources.items()}
    missing = [archive for archive, place in places.items() if not place.is_file()]
    if missing:
        say(f"compiling {', '.join(archive.name for archive in missing)}")
        with tempfile.TemporaryDirectory(dir=kept) as name:
            command = [node, str(SCRIPT), str(runtime), name, *map(str, missing)]
            run("Pyodide does not compile Python under this node; is it 18 or newer?", command, runtime)
            for archive in missing:
                Path(name, archive.name).replace(places[archive])
    for archive, place in places.items():
        archive.write_bytes(with_modules(sources[archive], place.read_bytes()))
    for old in set(kept.glob("*.zip")) - set(places.values()):
        old.unlink()


def key(source: bytes) -> str:
    """What the modules depend on: the sources, the Python that compiles them, and how it is told to."""
    return hashlib.sha256(source + PYODIDE.digest.encode() + SCRIPT.read_bytes()).hexdigest()[:32]


def with_modules(source: bytes, modules: bytes) -> bytes:
    """The archive with the modules in place of their sources; of a wheel, with its RECORD made anew."""
    with zipfile.ZipFile(io.BytesIO(source)) as archive:
        files = {name: archive.read(name) for name in archive.namelist() if not name.endswith("/")}
    with zipfile.ZipFile(io.BytesIO(modules)) as archive:
        compiled = {name: archive.read(name) for name in archive.namelist()}
    if {name + "c" for name in files if name.endswith(".py")} != set(compiled):
        raise BuildError("Pyodide compiled other files than it was given; delete build/cache/pyc and build again")
    files = {name: data for name, data in files.items() if not name.endswith(".py")} | compiled
    return pack(files) if any(".dist-info/" in name for name in files) else pack_zip(files)
