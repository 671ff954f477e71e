"""What the rows of tools/acceptance.py share: models, processes, and how a figure is held against its limit."""

import json
import operator
import shutil
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from tools import make_test_model

ROOT = Path(__file__).resolve().parents[1]
T = TypeVar("T")

SMALL = ("tinyllama-1.1b", "Q4_K_M")
LARGE = ("llama-2-7b", "Q4_K_M")  # 4.1 GB, more than 32-bit addresses are used for
SPARE_DISK = 10**9  # bytes left free beside a new model
SIGNS: dict[str, Callable[[float, float], bool]] = {">=": operator.ge, "<=": operator.le, "<": operator.lt}


class Skip(Exception):
    """A row cannot be measured here; the text says why."""


class Found(NamedTuple):
    """What a row gives."""

    measured: str
    target: str
    ok: bool
    note: str = ""


class Setup(NamedTuple):
    """What the command was told. most_others: cores that other processes may take in a round that counts."""

    models: Path
    large: bool = True
    peer_python: str | None = None
    most_others: float = 0.1


def compared(value: float, sign: str, limit: float, unit: str = "", note: str = "") -> Found:
    """A figure against its limit. What is no number meets none."""
    return Found(f"{value:.2f} {unit}".rstrip(), f"{sign} {limit:g} {unit}".rstrip(), SIGNS[sign](value, limit), note)


def model_file(setup: Setup, shape: str, quant: str) -> Path:
    """A model of this shape, made if it is not there. Raises Skip if the disk has no room for it."""
    path = setup.models.resolve() / f"{shape}.{quant}.gguf"
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        n_bytes = sum(tensor.n_bytes for tensor in make_test_model.tensors(make_test_model.SHAPES[shape], quant))
        free = shutil.disk_usage(path.parent).free
        if free < n_bytes + SPARE_DISK:
            raise Skip(f"{path.name} takes {gb(n_bytes)} of disk, and {gb(SPARE_DISK)} must stay free; {gb(free)} are")
        say(f"making {path}: {gb(n_bytes)}")
        make_test_model.write_model(path, shape, quant)
    return path


def apart(function: Callable[..., T], *arguments: Any) -> T:
    """Call a function in a new process, whose memory is that of the function alone."""
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        return pool.submit(function, *arguments).result()


def bench(file: Path, *options: str) -> dict[str, Any]:
    """The figures of `wasmrt bench` on the cpu device, with its default threads."""
    command = [sys.executable, "-m", "wasmrt", "bench", str(file), "--device", "cpu", "--json", *options]
    found: dict[str, Any] = json.loads(subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, check=True).stdout)
    return found


def gb(n_bytes: int) -> str:
    return f"{n_bytes / 1e9:.1f} GB"


def say(text: str) -> None:
    print(f"acceptance: {text}", file=sys.stderr, flush=True)
