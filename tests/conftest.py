"""What every test shares: the folder of outside truth, the devices, and skips that CI turns into failures."""

import importlib
import itertools
import os
from pathlib import Path
from typing import NoReturn

import pytest
from hypothesis import HealthCheck, settings

from wasmrt.device.choice import CPU_BUILDS
from wasmrt.errors import DeviceError
from wasmrt.resources import kernels

ROOT = Path(__file__).resolve().parents[1]
COUNTER = itertools.count()
REQUIRED = set(filter(None, os.environ.get("WASMRT_REQUIRE", "").split(",")))

# Fixed seeds and no deadline: a shared machine must not decide whether a property holds.
settings.register_profile("wasmrt", derandomize=True, deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("wasmrt")


def skip_or_fail(what: str, why: str) -> NoReturn:
    """Skip visibly; where WASMRT_REQUIRE names `what`, its absence is a failure."""
    if what in REQUIRED:
        pytest.fail(f"WASMRT_REQUIRE names {what!r}, but {why}")
    pytest.skip(why)


def missing_for_cpu() -> str | None:
    """Why the cpu device cannot be made here, or None."""
    try:
        importlib.import_module("wasmtime")
        for build in CPU_BUILDS:
            kernels(build)
    except (ImportError, DeviceError) as error:
        return str(error)
    return None


def missing_for_gpu() -> str | None:
    """Why there is no GPU to compute on here, not even one in software, or None."""
    try:
        importlib.import_module("wgpu.backends.wgpu_native")
    except (ImportError, OSError, RuntimeError) as error:  # RuntimeError: installed, but without its native library
        return f"wgpu cannot be imported: {error}"
    from wasmrt.device.gpu_native import adapters

    return None if adapters() else "there is neither a GPU nor software Vulkan (sudo apt-get install mesa-vulkan-drivers)"


@pytest.fixture(autouse=True)
def _no_user_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """No test reads or writes the user's own cache, or another test's; XDG_CACHE_HOME is for the processes that tests start."""
    folder = tmp_path_factory.getbasetemp() / f"user-cache-{next(COUNTER)}"
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder))
    for module in ("wasmrt.store.remote", "wasmrt.pull"):
        monkeypatch.setattr(f"{module}.default_cache", lambda: folder / "wasmrt" / "models")


@pytest.fixture(scope="session")
def cpu() -> None:
    """For tests that compute on the cpu device, which is also the default one: its kernels and wasmtime."""
    if missing := missing_for_cpu():
        skip_or_fail("cpu", missing)


@pytest.fixture(scope="session")
def gpu() -> None:
    """For tests that compute on a GPU, or on the software adapter that imitates one."""
    if missing := missing_for_gpu():
        skip_or_fail("gpu", missing)


@pytest.fixture(scope="session", params=["reference", "cpu"])
def device(request: pytest.FixtureRequest) -> str:
    """Each device in turn, by name: for what all of them promise."""
    if request.param == "cpu":
        request.getfixturevalue("cpu")
    name: str = request.param
    return name


@pytest.fixture(scope="session")
def reference_dir() -> Path:
    """The folder of outside truth (recorded logits, vocabularies, templates, hostile files); see docs/testing.md."""
    folder = Path(os.environ.get("WASMRT_REFERENCE", ROOT.parent / "shared" / "reference"))
    if not (folder / "README.md").is_file():
        skip_or_fail("reference", f"there is no reference data in {folder} (set WASMRT_REFERENCE)")
    return folder


@pytest.hookimpl(tryfirst=True)  # before pytest-xdist names the groups
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """A file's tests go to one worker, and so do all of one browser engine, one after another: each is started once."""
    engines = {item: item.callspec.params.get("browser", "") if hasattr(item, "callspec") else "" for item in items}
    for item, engine in engines.items():
        item.add_marker(pytest.mark.xdist_group(engine or item.path.name))
    items.sort(key=lambda item: engines[item])
