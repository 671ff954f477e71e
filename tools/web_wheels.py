"""The page's wheels: a lean one of wasmrt, MarkupSafe without its C part. The same input gives the same bytes."""

import base64
import fnmatch
import hashlib
import io
import tarfile
import zipfile
from collections.abc import Mapping
from pathlib import Path

from tools.web_parts import MARKUPSAFE

# What a page has no use for: command line, server, native devices and sources, what needs numpy, and the demo model, which the
# page asks its server for. sync.py stays: its functions say what to use instead.
NOT_IN_A_PAGE = (
    "wasmrt/__main__.py", "wasmrt/cli.py", "wasmrt/serve/*", "wasmrt/export.py",
    "wasmrt/bench.py", "wasmrt/doctor.py", "wasmrt/pull.py", "wasmrt/inspect.py",
    "wasmrt/tokenizer/markers.py", "wasmrt/device/gpu_known.py",
    "wasmrt/*_native.py", "wasmrt/device/reference*.py", "wasmrt/gguf/quants/*",
    "wasmrt/store/http.py", "wasmrt/store/remote.py", "wasmrt/store/cache.py", "wasmrt/store/disk_copy.py",
    "wasmrt/store/room.py", "wasmrt/store/lock.py", "wasmrt/store/intervals.py", "wasmrt/store/http_rules.py",
    "wasmrt/data/*.gguf", "wasmrt/py.typed",
    "wasmrt/web/*.html", "wasmrt/web/*.css", "wasmrt/web/main.js", "wasmrt/web/wasmrt.js", "wasmrt/web/engine-worker.js",
    "wasmrt/web/service-worker.js",
    "*.dist-info/entry_points.txt",
)  # fmt: skip
MARKUPSAFE_WHEEL = f"markupsafe-{MARKUPSAFE.version}-py3-none-any.whl"
WHEEL_FILE = "Wheel-Version: 1.0\nGenerator: wasmrt tools/web_wheels.py\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
DATE = (1980, 1, 1, 0, 0, 0)  # the first that a zip can have


def page_wheel(wheel: Path) -> bytes:
    """The one wheel without what NOT_IN_A_PAGE names, and without the long description."""
    with zipfile.ZipFile(wheel) as archive:
        files = {info.filename: archive.read(info) for info in archive.infolist() if not info.is_dir()}
    kept = {name: data for name, data in files.items() if not any(fnmatch.fnmatchcase(name, p) for p in NOT_IN_A_PAGE)}
    for name in kept:
        if name.endswith(".dist-info/METADATA"):
            kept[name] = kept[name].partition(b"\n\n")[0] + b"\n"
    return pack(kept)


def markupsafe_wheel(archive: Path) -> bytes:
    """A pure wheel, from the source archive: the package tries its C part and does without."""
    with tarfile.open(archive) as tar:
        found = {}
        for member in tar.getmembers():
            if member.isfile() and (content := tar.extractfile(member)):
                found[member.name.partition("/")[2]] = content.read()
    info = f"markupsafe-{MARKUPSAFE.version}.dist-info"
    modules = [name for name in found if fnmatch.fnmatchcase(name, "src/markupsafe/*.py")]
    package = {name.removeprefix("src/"): found[name] for name in modules}
    about = {
        f"{info}/METADATA": found["PKG-INFO"],
        f"{info}/WHEEL": WHEEL_FILE.encode(),
        f"{info}/licenses/LICENSE.txt": found["LICENSE.txt"],
    }
    return pack(package | about)


def pack(files: Mapping[str, bytes]) -> bytes:
    """A wheel of these files with a RECORD of them; any that they have is replaced."""
    (info,) = {name.partition("/")[0] for name in files if name.partition("/")[0].endswith(".dist-info")}
    record = f"{info}/RECORD"
    files = {name: data for name, data in files.items() if name != record}
    lines = [f"{name},sha256={url_digest(data)},{len(data)}\n" for name, data in sorted(files.items())]
    return pack_zip({**files, record: "".join([*lines, f"{record},,\n"]).encode()})


def pack_zip(files: Mapping[str, bytes]) -> bytes:
    """A zip archive, sorted and without times; what is about the package comes last, as the standard recommends."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
        for name in sorted(files, key=lambda name: (".dist-info/" in name, name)):
            info = zipfile.ZipInfo(name, DATE)
            info.compress_type = zipfile.ZIP_DEFLATED
            info.create_system = 3  # of files as Unix has them, wherever this runs
            info.external_attr = 0o100644 << 16
            archive.writestr(info, files[name])
    return out.getvalue()


def url_digest(data: bytes) -> str:
    """As RECORD has it: URL-safe base64 without padding."""
    return base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()
