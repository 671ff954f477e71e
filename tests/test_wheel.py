"""The wheel: one file for every platform, complete, and enough to generate from in a fresh environment."""

import email
import os
import subprocess
import sys
import tarfile
import venv
import zipfile
from pathlib import Path

import httpx
import pytest

ROOT = Path(__file__).resolve().parents[1]


SHADERS = sorted((ROOT / "shaders").glob("*.wgsl"))
PAGE = sorted(path for suffix in ("js", "html", "css") for path in (ROOT / "web").glob(f"*.{suffix}"))
KERNELS = {f"wasmrt/device/wasm/{build}.wasm" for build in ("wasm64", "wasm32", "plain")}


def build(*arguments):
    """Run the build with what is installed here, so that it needs no network."""
    command = [sys.executable, "-m", "build", "--no-isolation", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    out = tmp_path_factory.mktemp("dist")
    build("--wheel", "--outdir", out, ROOT)
    (built,) = out.glob("*.whl")
    return built


def test_the_wheel_is_pure_and_complete(wheel):
    """Every module of the package, the kernels, the shaders, the page and the demo model, nothing else; for any platform."""
    assert wheel.name.endswith("-py3-none-any.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if ".dist-info/" not in name}
        info = {name.split("/")[1]: archive.read(name) for name in archive.namelist() if ".dist-info/" in name}
        assert all(archive.read(name).startswith(b"\0asm") for name in KERNELS)
    tracked = {path.relative_to(ROOT).as_posix() for path in (ROOT / "wasmrt").rglob("*.py")}
    shaders = {f"wasmrt/shaders/{path.name}" for path in SHADERS}
    page = {f"wasmrt/web/{path.name}" for path in PAGE}
    assert page
    assert names == tracked | KERNELS | shaders | page | {"wasmrt/data/demo.gguf", "wasmrt/py.typed"}
    assert b"Root-Is-Purelib: true" in info["WHEEL"]
    assert b"Tag: py3-none-any" in info["WHEEL"]
    assert b"wasmrt = wasmrt.cli:main" in info["entry_points.txt"]
    assert "licenses" in info or "LICENSE" in info


def test_the_source_archive_has_the_kernels_as_sources_and_makes_the_same_wheel(wheel, tmp_path):
    build("--outdir", tmp_path, ROOT)  # the archive, and a wheel from it
    (archive,) = tmp_path.glob("*.tar.gz")
    with tarfile.open(archive) as tar:
        names = {name.partition("/")[2] for name in tar.getnames()}
    sources = {path.relative_to(ROOT).as_posix() for path in (ROOT / "wasmrt" / "device" / "c").iterdir()}
    sources |= {path.relative_to(ROOT).as_posix() for path in SHADERS + PAGE}
    assert sources | {"hatch_build.py", "tools/build_kernels.py", "pyproject.toml"} <= names
    assert not any(name.endswith(".wasm") for name in names)
    (built,) = tmp_path.glob("*.whl")
    assert built.read_bytes() == wheel.read_bytes()


def test_a_server_from_the_wheel_says_that_it_has_no_page(wheel, tmp_path):
    """There is no make where it was installed."""
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path)
    code = "import sys; sys.path.insert(0, sys.argv.pop(1)); from wasmrt.cli import main; sys.exit(main())"
    command = [sys.executable, "-u", "-c", code, str(tmp_path), "serve", "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=tmp_path) as server:
        assert server.stdout is not None
        address = server.stdout.readline().strip()
        page, model = httpx.get(address), httpx.head(f"{address}models/demo.gguf")
        server.kill()
        _, says = server.communicate()
    assert (page.status_code, model.status_code) == (404, 200)
    for text in (page.text, says):
        assert "a checkout of wasmrt has it after: make web" in text
    assert says.count("\n") == 1


def test_shaders_are_found_in_the_wheel(wheel, tmp_path):
    """Away from the checkout, whose own stand elsewhere."""
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path)
    code = (
        "import sys\n"
        "sys.path.insert(0, sys.argv[1])\n"
        "from wasmrt.resources import shader\n"
        "print(*(shader(name) for name in sys.argv[2:]), sep='\\n')\n"
    )
    assert SHADERS
    command = [sys.executable, "-c", code, str(tmp_path), *(path.stem for path in SHADERS)]
    found = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=True).stdout.splitlines()
    assert [Path(path) for path in found] == [tmp_path / "wasmrt" / "shaders" / path.name for path in SHADERS]
    assert [Path(path).read_bytes() for path in found] == [path.read_bytes() for path in SHADERS]


def test_nothing_native_is_required_in_a_browser(wheel):
    """Of the requirements, Pyodide's platform gets jinja2 alone."""
    from packaging.requirements import Requirement

    with zipfile.ZipFile(wheel) as archive:
        metadata = next(archive.read(name) for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
    required = [Requirement(line) for line in email.message_from_bytes(metadata).get_all("Requires-Dist")]
    there = {"sys_platform": "emscripten", "extra": ""}
    assert [r.name for r in required if r.marker is None or r.marker.evaluate(there)] == ["jinja2"]


@pytest.mark.slow
def test_a_fresh_environment_generates_from_the_wheel(wheel, tmp_path):
    """Installed with nothing but what the wheel asks for, away from the checkout."""
    venv.create(tmp_path / "venv", with_pip=True)
    bin = tmp_path / "venv" / ("Scripts" if os.name == "nt" else "bin")
    install = [bin / "python", "-m", "pip", "install", "--quiet", "--disable-pip-version-check", wheel]
    done = subprocess.run(install, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    run = [bin / "wasmrt", "run", "-p", "Once upon a time", "-n", "24", "--temp", "0"]
    done = subprocess.run(run, capture_output=True, text=True, cwd=tmp_path, env={**os.environ, "PYTHONPATH": ""})
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("Once upon a time")
    assert len(done.stdout.split()) > 12
    assert "24 tokens" in done.stderr
