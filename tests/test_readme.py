"""The README tells the truth: its commands and its Python run as they stand there."""

import inspect
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import wasmrt
from wasmrt.device.choice import CPU_BUILDS, DEVICES
from wasmrt.device.device import FORMATS
from wasmrt.gguf.types import BY_NAME

pytestmark = pytest.mark.usefixtures("cpu")

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language):
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


@pytest.fixture
def folder(tmp_path):
    """A folder with a model of the README's name."""
    shutil.copy(ROOT / "wasmrt" / "data" / "demo.gguf", tmp_path / "model.gguf")
    return tmp_path


def test_the_first_commands_are_make_demo_and_make_test():
    """CI runs both; here, that the README opens with them and the Makefile has them."""
    first = [line.split("#")[0].strip() for line in blocks("sh")[0].splitlines()]
    assert first == ["make demo", "make test"]
    assert "make web " in blocks("sh")[2]
    for target in ("demo", "test", "web"):
        assert subprocess.run(["make", "-n", target], cwd=ROOT, capture_output=True).returncode == 0


def test_every_command_runs(folder):
    """Each `wasmrt ...` line of the README, with the text it would be given at the prompt."""
    commands = [line.split("#")[0].strip() for line in blocks("sh")[1].splitlines()]
    assert len(commands) >= 5
    for command in commands:
        program, *arguments = shlex.split(command)
        assert program == ".venv/bin/wasmrt"
        done = subprocess.run(
            [sys.executable, "-m", "wasmrt", *arguments],
            cwd=folder,
            input="Hello!\n",
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert done.returncode == 0, (command, done.stderr)
        assert done.stdout.strip(), command


def test_the_python_example_runs(folder):
    """As it stands in the README, in a folder with model.gguf."""
    (code,) = blocks("python")
    done = subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert len(done.stdout) > 40


def test_the_formats_and_devices_are_those_there_are():
    """The table of what works, and docs/api.md, name what the code names."""
    (row,) = re.findall(r"\| formats \| (.*) \|", README)
    assert {BY_NAME[name].id for name in row.split()} == FORMATS
    api = (ROOT / "docs" / "api.md").read_text(encoding="utf-8")
    for device in (*DEVICES, *(f"cpu:{build}" for build in CPU_BUILDS)):
        assert f'`"{device}"`' in api
        assert device == "auto" or ":" in device or f"| `{device}` |" in README
    for option in inspect.signature(wasmrt.open).parameters.values():
        assert f"`{option.name}`" in api
        assert option.name == "ref" or f"{option.name}={option.default!r}".replace("'", '"') in api


def test_links_lead_somewhere():
    """Relative links of README and docs name files of the project."""
    for page in (ROOT / "README.md", *(ROOT / "docs").glob("*.md")):
        for target in re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text(encoding="utf-8")):
            assert (page.parent / target).exists(), f"{page.name} links to {target}"
