"""Which of the kernels that give the same product a GPU runs: for each format and row length, what was found fastest there.

Without measurements every GPU has the same defaults, and programs that imitate one have others. What was measured
(gpu_autotune.py) is kept for the process and on disk, so that the same model gives the same bits again.
"""

import hashlib
import json
import os
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from functools import cache
from pathlib import Path
from typing import Any

from wasmrt.device.gpu_host import Adapter
from wasmrt.resources import shader

LONG_UNITS = 96  # of 32 weights: from so many on, a row is long
ANY_NUMBER = 1 << 30
Key = tuple[str, bool]  # a format's name, and whether rows are long


@dataclass(frozen=True, slots=True)
class Variant:
    """A kernel for a few rows of x. WG threads; LANES of them share ROWS rows of the weight."""

    wg: int = 64
    lanes: int = 8
    rows: int = 4
    subgroup: bool = False  # sums over lanes by reduce_subgroup.wgsl
    ints: bool = False  # products of x as i8: x is rounded to a 127th of the largest of 32

    def is_valid(self) -> bool:
        """Whether the shaders take it."""
        powers = all(n > 0 and n & (n - 1) == 0 for n in (self.wg, self.lanes, self.rows))
        return powers and self.lanes <= self.wg <= 256 and self.wg >= 16 and self.rows <= 4


@dataclass(frozen=True, slots=True)
class Tuning:
    """What a GPU runs."""

    one: Variant = Variant()  # for one row of x, where nothing was measured
    chosen: Mapping[Key, Variant] = field(default_factory=dict)
    few: Variant = Variant()  # for more of them, four at a time
    most_few: int = 16  # rows of x, at most, that are taken so; more go through tiles
    tile: int = 64  # columns and rows of x that a workgroup makes: 64 or 32
    half: bool = False  # tiles in f16: x and weights are rounded to it
    least_subgroup: int = 4  # threads

    def for_one(self, name: str, units: int) -> Variant:
        return self.chosen.get((name, units >= LONG_UNITS), self.one)

    def for_few(self, name: str, units: int) -> Variant:
        """Its numbers are its own; that x is rounded, it has from the other, so that a token does not depend on its company."""
        return replace(self.few, ints=self.for_one(name, units).ints)


REAL = Tuning()
# A program pays for every load and for every barrier: many sums in registers for each load, and no tiles. (llvmpipe, two cores,
# 128 rows of x with 1024 x 256 in Q4_K: 39 ms with tiles of 32, 8 ms so.)
SOFTWARE = Tuning(few=Variant(64, 1, 8), most_few=ANY_NUMBER, tile=32)

_found: dict[str, Tuning] = {}  # by adapter, in this process


def tuning_of(adapter: Adapter) -> Tuning:
    """What an adapter runs: what was measured in this process or before it, or the defaults."""
    key = name_of(adapter)
    if key not in _found:
        chosen = {} if adapter.software else read(key)
        _found[key] = replace(defaults(adapter), chosen=chosen)
    return _found[key]


def defaults(adapter: Adapter) -> Tuning:
    return SOFTWARE if adapter.software else replace(REAL, least_subgroup=least_subgroup(adapter))


def remember(adapter: Adapter, chosen: Mapping[Key, Variant]) -> None:
    """Add what was measured; formats that had been measured keep what they have, so that models agree."""
    tuning = tuning_of(adapter)
    together = {**chosen, **tuning.chosen}
    if together != tuning.chosen:
        _found[name_of(adapter)] = replace(tuning, chosen=together)
        write(name_of(adapter), together)


def least_subgroup(adapter: Adapter) -> int:
    """Threads that a subgroup has at least; what adapters report of it holds no real values in wgpu."""
    vendor = adapter.vendor.lower()
    return 32 if any(name in vendor for name in ("nvidia", "0x10de", "4318", "apple")) else 4


# On disk


def name_of(adapter: Adapter) -> str:
    """Of an adapter with its driver and these kernels: what was measured is true of nothing else."""
    known = adapter.name, adapter.vendor, adapter.driver, adapter.backend, sorted(adapter.features), kernels()
    return hashlib.sha256(json.dumps(known).encode()).hexdigest()[:32]


@cache
def kernels() -> str:
    """Stands for what the shaders of matmuls say."""
    text = hashlib.sha256()
    for path in sorted(shader("common").parent.glob("*.wgsl")):
        if path.name.startswith(("common", "gates", "matmul", "dot_", "quant", "x_", "pick_", "reduce_", "out_", "tile_")):
            text.update(path.name.encode() + b"\0" + path.read_bytes())
    return text.hexdigest()


def folder() -> Path:
    from platformdirs import user_cache_dir

    return Path(user_cache_dir("wasmrt", appauthor=False)) / "tuning"


def read(key: str) -> dict[Key, Variant]:
    """What was measured before; nothing where a file is missing, damaged or another version's."""
    try:
        found = json.loads((folder() / f"{key}.json").read_text(encoding="utf-8"))
    except (OSError, ValueError, ImportError):  # the last in a page, which has no such folder
        return {}
    try:
        return {_key(name): _variant(row) for name, row in found["chosen"].items()}
    except (KeyError, TypeError, ValueError, AttributeError):
        return {}


def _key(text: str) -> Key:
    name, length = text.split(" ")
    if length not in ("short", "long"):
        raise ValueError(length)
    return name, length == "long"


def _variant(row: dict[str, Any]) -> Variant:
    made = Variant(**row)
    for f in fields(Variant):
        if type(getattr(made, f.name)) is not type(f.default):
            raise TypeError(f.name)
    if not made.is_valid():
        raise ValueError(row)
    return made


def write(key: str, chosen: Mapping[Key, Variant]) -> None:
    """Whole or not at all; where nothing may be written, it is measured again the next time."""
    rows = {f"{name} {'long' if is_long else 'short'}": asdict(variant) for (name, is_long), variant in sorted(chosen.items())}
    text = json.dumps({"chosen": rows}, indent=1)
    temporary = None
    try:
        folder().mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile("w", encoding="utf-8", dir=folder(), suffix=".part", delete=False) as file:
            temporary = Path(file.name)
            file.write(text)
        os.replace(temporary, folder() / f"{key}.json")
    except (OSError, ImportError):
        if temporary is not None:
            temporary.unlink(missing_ok=True)


def lengths(weights: Iterable[tuple[str, int]]) -> dict[Key, int]:
    """Of (format, units of a row): the classes that occur, each with the units of its longest rows."""
    found: dict[Key, int] = {}
    for name, units in weights:
        key = name, units >= LONG_UNITS
        found[key] = max(found.get(key, 0), units)
    return found
