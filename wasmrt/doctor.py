"""wasmrt doctor: what this machine offers, whether each device works on it, and which one `auto` takes."""

import functools
import os
import platform
from array import array
from collections.abc import Callable, Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from wasmrt import __version__
from wasmrt.device.choice import CPU_BUILDS, WASMTIME, choose
from wasmrt.errors import WasmrtError
from wasmrt.options import EngineOptions

PACKAGES = ("jinja2", "numpy", "psutil", "tqdm", "wasmtime")
PROMPT = "Once upon a time"
N_TOKENS = 12
LARGE = 1 << 40  # bytes of weights: a model that gives every core something to do

# NMSE of the cpu device's logits from the reference device's. It rounds activations to 8 bits, which is worth 1.4e-4 for this
# prompt and the demo model; a kernel that goes wrong is off by about 1.
BOUND = 1e-2


def examine() -> dict[str, Any]:
    """Versions, memory, devices, and how each computes the demo model. `works`: the device that `auto` takes does."""
    packages = {name: _version(name) for name in PACKAGES}
    reference, truth = _reference()
    devices = {"cpu": _cpu(truth), "reference": reference}
    choice = _tried(_auto)
    auto = choice.get("name")
    missing = [name for name, number in packages.items() if number is None]
    found: dict[str, Any] = {
        "wasmrt": __version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": packages,
        "cores": os.cpu_count(),
        "devices": devices,
        "auto": auto,
        "auto_why": choice["detail"],
    }
    if packages["psutil"] is not None:
        import psutil

        memory = psutil.virtual_memory()
        found |= {"memory_bytes": memory.total, "memory_available_bytes": memory.available}
    chosen = devices[auto or "cpu"]
    works = auto is not None and chosen["works"]
    if missing:
        wanted = (f'"{WASMTIME}"' if name == "wasmtime" else name for name in missing)
        detail = f"missing: {', '.join(missing)}; install with: python -m pip install {' '.join(wanted)}"
    elif works:
        detail = f"the demo model says {chosen['text']!r}"
    else:
        detail = chosen["detail"] + ("; meanwhile --device reference works" if reference["works"] else "")
    return {**found, "works": works and not missing, "detail": detail}


def _auto() -> dict[str, Any]:
    """What device="auto" takes, and why."""
    why = "the fastest device of this version; 32-bit addresses up to 3.5 GiB, 64-bit ones beyond"
    return {"name": choose(EngineOptions()).name, "detail": why}


def _cpu(truth: Sequence[float]) -> dict[str, Any]:
    """The cpu device: its threads, and for each build whether it computes what the reference device does."""

    def threads() -> dict[str, Any]:
        choose(EngineOptions(device="cpu"))  # says it where wasmtime is missing
        from wasmrt.device.cpu_native import default_threads

        return {"threads": default_threads(LARGE)}

    def compute(build: str) -> dict[str, Any]:
        text, logits = _try_model(f"cpu:{build}")
        error = _nmse(logits, truth) if truth else None
        works = error is None or error < BOUND
        off = f"its logits are off by {error} (NMSE) from the reference device's; please report this machine"
        return {"works": works, "detail": "" if works else off, "nmse": error, "text": text}

    first = _tried(threads)
    if "threads" not in first:  # without wasmtime, every build would say the same
        return {**first, "builds": {}}
    builds = {build: _tried(functools.partial(compute, build)) for build in CPU_BUILDS}
    broken = [f"{name}: {build['detail']}" for name, build in builds.items() if not build["works"]]
    text = next((build["text"] for build in builds.values() if build["works"]), "")
    detail = broken[0] if broken else "WebAssembly kernels"
    return {"works": not broken, "detail": detail, "text": text, **first, "builds": builds}


def _reference() -> tuple[dict[str, Any], Sequence[float]]:
    """The reference device, and its logits for the demo model, which others are held against; none if it does not work."""
    truth: list[float] = []

    def compute() -> dict[str, Any]:
        text, logits = _try_model("reference")
        truth.extend(logits)
        return {"works": True, "detail": "numpy, slow and plain", "text": text}

    return _tried(compute), truth


def _tried(attempt: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """What an attempt found, or its failure as one: whatever is wrong with a machine, the examination goes on."""
    try:
        return attempt()
    except Exception as error:
        known = isinstance(error, WasmrtError)
        return {"works": False, "detail": str(error) if known else f"{type(error).__name__}: {error}; install wasmrt again"}


def _try_model(device: str) -> tuple[str, list[float]]:
    """What the demo model says on a device, and its logits for every token of the prompt, one row after another."""
    from wasmrt.sync import call, load

    with load(device=device, context=64) as model:
        logits = call(model.engine.logits(model.tokenize(PROMPT)))
        return "".join(model.generate(PROMPT, max_tokens=N_TOKENS)), array("f", logits.tobytes()).tolist()


def _nmse(got: Sequence[float], wanted: Sequence[float]) -> float:
    """Mean squared error over mean square."""
    return sum((g - w) ** 2 for g, w in zip(got, wanted, strict=True)) / sum(w * w for w in wanted)


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
    ]
    if "memory_bytes" in found:
        free, total = found["memory_available_bytes"] / 2**30, found["memory_bytes"] / 2**30
        rows.append(("memory", f"{free:.1f} of {total:.1f} GiB are free"))
    for name, device in found["devices"].items():
        threads = device.get("threads")
        default = f", {threads} thread{'s' * (threads > 1)} unless told otherwise" if threads and device["works"] else ""
        rows.append((f"device {name}", f"{'works' if device['works'] else 'FAILS'}: {device['detail']}{default}"))
        rows += [(f"  cpu:{build}", _build(tried)) for build, tried in device.get("builds", {}).items()]
    rows += [
        ("auto", f"{found['auto'] or 'nothing'}: {found['auto_why']}"),
        ("check", f"{'passed' if found['works'] else 'FAILED'}: {found['detail']}"),
    ]
    return "".join(f"{name:17} {value}\n" for name, value in rows)


def _build(tried: dict[str, Any]) -> str:
    if not tried["works"]:
        return f"FAILS: {tried['detail']}"
    error = tried["nmse"]
    return "works" if error is None else f"works: logits {error:.1e} (NMSE) from the reference device's"
