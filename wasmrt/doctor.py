"""wasmrt doctor: what this machine offers, and whether a model runs on it."""

import os
import platform
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import psutil

from wasmrt import __version__
from wasmrt.engine import DEVICES
from wasmrt.errors import WasmrtError
from wasmrt.sync import load

PACKAGES = ("numpy", "jinja2", "psutil", "tqdm")


def examine() -> dict[str, Any]:
    """Versions, memory, devices, and the result of generating a few tokens with the demo model."""
    try:
        with load(device="reference", context=64) as model:
            generation = model.generate("", max_tokens=8)
            works, detail = True, f"the demo model says {''.join(generation)!r}"
    except WasmrtError as error:
        works, detail = False, str(error)
    memory = psutil.virtual_memory()
    return {
        "wasmrt": __version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": {name: _version(name) for name in PACKAGES},
        "cores": os.cpu_count(),
        "memory_bytes": memory.total,
        "memory_available_bytes": memory.available,
        "devices": {name: "numpy, slow and plain" for name in DEVICES if name != "auto"},
        "auto": "reference: the only device of this version",
        "works": works,
        "detail": detail,
    }


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def report(found: dict[str, Any]) -> str:
    """The examination as lines for a person."""
    packages = ", ".join(f"{name} {number or 'missing'}" for name, number in found["packages"].items())
    rows = [
        ("wasmrt", found["wasmrt"]),
        ("python", f"{found['python']} on {found['platform']}"),
        ("packages", packages),
        ("cores", str(found["cores"])),
        ("memory", f"{found['memory_available_bytes'] / 2**30:.1f} of {found['memory_bytes'] / 2**30:.1f} GiB are free"),
        *((f"device {name}", what) for name, what in found["devices"].items()),
        ("auto", found["auto"]),
        ("check", f"{'passed' if found['works'] else 'FAILED'}: {found['detail']}"),
    ]
    return "".join(f"{name:17} {value}\n" for name, value in rows)
