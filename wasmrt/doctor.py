"""wasmrt doctor: what this machine offers, whether each device works on it, and which one `auto` takes."""

import functools
import os
import platform
import time
from array import array
from collections.abc import Callable, Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

from wasmrt import __version__
from wasmrt.device.choice import CPU_BUILDS, WASMTIME, WGPU, choose, real_gpus
from wasmrt.errors import WasmrtError
from wasmrt.options import EngineOptions

if TYPE_CHECKING:
    from wasmrt.device.gpu_host import Adapter

PACKAGES = ("jinja2", "numpy", "psutil", "tqdm", "wasmtime", "wgpu")
PROMPT = "Once upon a time"
N_TOKENS = 12
COPY_BYTES, COPIES = 128 << 20, 4  # by which a GPU's memory is measured: more than its caches hold
LARGE = 1 << 40  # bytes of weights: a model that gives every core something to do

PINNED = {"wasmtime": WASMTIME, "wgpu": WGPU}

# NMSE of the cpu device's logits from the reference device's. It rounds activations to 8 bits, which is worth 1.4e-4 for this
# prompt and the demo model; a kernel that goes wrong is off by about 1.
BOUND = 1e-2
# Of the gpu device's, which takes activations as they are: on a software adapter 5e-13. Some GPUs multiply in f16, or with
# activations rounded to 8 bits where that is faster.
GPU_BOUND = BOUND


def examine() -> dict[str, Any]:
    """Versions, memory, devices, and how each computes the demo model. `works`: the device that `auto` takes does."""
    packages = {name: _version(name) for name in PACKAGES}
    reference, truth = _reference()
    devices = {"gpu": _gpu(truth), "cpu": _cpu(truth), "reference": reference}
    choice = _tried(functools.partial(_auto, devices["gpu"]))
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
        wanted = (f'"{PINNED[name]}"' if name in PINNED else name for name in missing)
        detail = f"missing: {', '.join(missing)}; install with: python -m pip install {' '.join(wanted)}"
    elif works:
        detail = f"the demo model says {chosen['text']!r}"
    else:
        detail = chosen["detail"] + ("; meanwhile --device reference works" if reference["works"] else "")
    return {**found, "works": works and not missing, "detail": detail}


def _auto(gpu: dict[str, Any]) -> dict[str, Any]:
    """What device="auto" takes, and why."""
    choice, (_, no_gpu) = choose(EngineOptions()), real_gpus()
    if choice.gpu and gpu["works"]:
        return {"name": "gpu", "detail": f"the GPU {choice.adapter!r} computes what it should"}
    why = f"the GPU {choice.adapter!r} fails, so that the CPU computes" if choice.gpu else no_gpu
    return {"name": "cpu", "detail": f"{why}; 32-bit addresses up to 3.5 GiB, 64-bit ones beyond"}


def _gpu(truth: Sequence[float]) -> dict[str, Any]:
    """The gpu device: what it reaches, best first, and whether the first of it works."""

    def adapters() -> dict[str, Any]:
        from wasmrt.device import gpu_native

        return {"found": gpu_native.adapters()}

    tried = _tried(adapters)
    found = [_adapter(i, adapter, truth) for i, adapter in enumerate(tried.get("found", ()))]
    if not found:
        missing = "no GPU is reached by Vulkan, Metal or DX12: there is none, or its driver is missing"
        return {"works": False, "detail": tried.get("detail", missing), "adapters": []}
    first = found[0]
    kind = "a program that imitates a GPU; taken only if it is asked for by name" if first["software"] else "WGSL shaders"
    detail = kind if first["works"] else first["detail"]
    return {"works": first["works"], "detail": detail, "text": first["text"], "adapters": found}


def _adapter(number: int, adapter: "Adapter", truth: Sequence[float]) -> dict[str, Any]:
    """What is known of an adapter, how fast its memory is, and whether it computes what the reference device does."""
    device = f"gpu:{number}"

    def check() -> dict[str, Any]:
        """All ops and formats; of a program that imitates a GPU those of the demo model, which are checked as it is loaded."""
        from wasmrt.sync import call

        choice = choose(EngineOptions(device=device))
        if choice.check is not None and not adapter.software:
            call(choice.check(None))
        text, logits = _try_model(device)
        error = _nmse(logits, truth) if truth else None
        works = error is None or error < GPU_BOUND
        detail = "" if works else f"its logits are off by {error} (NMSE) from the reference device's; please report this GPU"
        return {"works": works, "detail": detail, "nmse": error, "text": text}

    def bandwidth() -> dict[str, Any]:
        from wasmrt.sync import call

        return {"bytes_per_second": call(_copy_rate(adapter))}

    limits = adapter.limits
    return {
        "name": adapter.name,
        "device": device,
        "backend": adapter.backend,
        "driver": adapter.driver,
        "software": adapter.software,
        "integrated": adapter.integrated,
        "features": sorted(adapter.features),
        "limits": {"binding": limits.binding, "buffer": limits.buffer, "workgroup_bytes": limits.workgroup_bytes},
        "bytes_per_second": _tried(bandwidth).get("bytes_per_second"),
        "nmse": None,
        "text": "",
        **_tried(check),
    }


async def _copy_rate(adapter: "Adapter") -> float:
    """Bytes per second that a GPU reads and writes as it copies a large buffer."""
    from wasmrt.device.gpu_native import WgpuHost

    host = WgpuHost(adapter)
    try:
        n_bytes = min(COPY_BYTES, adapter.limits.buffer)
        source, target = host.buffer(n_bytes), host.buffer(n_bytes)
        copy = source, 0, target, 0, n_bytes
        host.submit((), [copy])  # pages are there afterwards
        await host.done()
        started = time.perf_counter()
        host.submit((), [copy] * COPIES)
        await host.done()
        return 2 * COPIES * n_bytes / (time.perf_counter() - started)
    finally:
        host.close()


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
        absent = name == "gpu" and not device["adapters"]  # which most machines without a GPU are
        state = "works" if device["works"] else "not there" if absent else "FAILS"
        rows.append((f"device {name}", f"{state}: {device['detail']}{default}"))
        rows += [(f"  cpu:{build}", _build(tried)) for build, tried in device.get("builds", {}).items()]
        rows += [(f"  {tried['device']}", line) for tried in device.get("adapters", ()) for line in _adapter_lines(tried)]
    rows += [
        ("auto", f"{found['auto'] or 'nothing'}: {found['auto_why']}"),
        ("check", f"{'passed' if found['works'] else 'FAILED'}: {found['detail']}"),
    ]
    return "".join(f"{name:17} {value}\n" for name, value in rows)


def _adapter_lines(tried: dict[str, Any]) -> list[str]:
    limits, rate = tried["limits"], tried["bytes_per_second"]
    kind = "software" if tried["software"] else "integrated" if tried["integrated"] else "a GPU of its own"
    speed = f"{rate / 1e9:.1f} GB/s" + (" (of the CPU's memory)" if tried["software"] else "") if rate else "unknown"
    binding, buffer = limits["binding"] / 2**20, limits["buffer"] / 2**20
    sizes = f"bindings of {binding:.0f} MiB, buffers of {buffer:.0f} MiB, {limits['workgroup_bytes'] >> 10} KiB a workgroup"
    return [
        f"{tried['name']}, {tried['backend']}, {tried['driver']}: {kind}",
        f"{sizes}; {', '.join(tried['features']) or 'no features'}; copies at {speed}",
        _build(tried),
    ]


def _build(tried: dict[str, Any]) -> str:
    if not tried["works"]:
        return f"FAILS: {tried['detail']}"
    error = tried["nmse"]
    return "works" if error is None else f"works: logits {error:.1e} (NMSE) from the reference device's"
