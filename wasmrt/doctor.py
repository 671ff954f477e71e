"""wasmrt doctor: what this machine offers, and whether a model runs on it."""

import os
import platform
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from wasmrt import __version__
from wasmrt.errors import WasmrtError

PACKAGES = ("numpy", "jinja2", "psutil", "tqdm")


def examine() -> dict[str, Any]:
    """Versions, memory, devices, and the result of generating a few tokens with the demo model."""
    packages = {name: _version(name) for name in PACKAGES}
    found: dict[str, Any] = {
        "wasmrt": __version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": packages,
        "cores": os.cpu_count(),
        "devices": {"reference": "numpy, slow and plain"},
        "auto": "reference: the only device of this version",
    }
    missing = [name for name, number in packages.items() if number is None]
    if missing:
        return {**found, "works": False, "detail": f"missing: {', '.join(missing)}; install wasmrt again"}
    import psutil

    memory = psutil.virtual_memory()
    works, detail = _try_model()
    return {
        **found,
        "memory_bytes": memory.total,
        "memory_available_bytes": memory.available,
        "works": works,
        "detail": detail,
    }


def _try_model() -> tuple[bool, str]:
    from wasmrt.sync import load

    try:
        with load(device="reference", context=64) as model:
            return True, f"the demo model says {''.join(model.generate('Once upon a time', max_tokens=12))!r}"
    except WasmrtError as error:
        return False, str(error)


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def report(found: dict[str, Any]) -> str:
    """The examination as lines for a person."""
    rows = [
        ("wasmrt", found["wasmrt"]),
        ("python", f"{found['python']} on {found['platform']}"),
        ("packages", ", ".join(f"{name} {number or 'missing'}" for name, number in found["packages"].items())),
        ("cores", str(found["cores"])),
        *((f"device {name}", what) for name, what in found["devices"].items()),
        ("auto", found["auto"]),
        ("check", f"{'passed' if found['works'] else 'FAILED'}: {found['detail']}"),
    ]
    if "memory_bytes" in found:
        free, total = found["memory_available_bytes"] / 2**30, found["memory_bytes"] / 2**30
        rows.insert(4, ("memory", f"{free:.1f} of {total:.1f} GiB are free"))
    return "".join(f"{name:17} {value}\n" for name, value in rows)
