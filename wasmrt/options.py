"""What the user chooses, checked once: EngineOptions when a model is opened, SamplerOptions for a text."""

import math
import os
import re
from dataclasses import dataclass

# What names a model: a path, a URL, or the bytes of a file.
Ref = str | os.PathLike[str] | bytes | bytearray | memoryview

POLICIES = ("plan", "lru", "belady")
KV_TYPES = ("f32", "f16")
MAX_THREADS = 1024  # more is a slip of the hand: each takes memory of its own
_UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12, "ki": 2**10, "mi": 2**20, "gi": 2**30, "ti": 2**40}
_BYTES = re.compile(r"([0-9]{1,18})(\.[0-9]{1,9})?\s*([kmgt]?i?)b?", re.IGNORECASE)


def parse_bytes(value: int | str | None) -> int | None:
    """Bytes from a number or a text such as "700MiB" or "1.5 GB"; None stays None. ValueError otherwise."""
    if value is None or (isinstance(value, int) and not isinstance(value, bool) and value > 0):
        return value
    match = _BYTES.fullmatch(value.strip()) if isinstance(value, str) else None
    unit = _UNITS.get(match[3].lower()) if match else None
    n = int(match[1]) * unit + int(float(match[2] or 0) * unit) if match and unit else 0
    if n < 1:
        raise ValueError(f"{value!r} is no amount of memory; write bytes, or a number with a unit such as 700MiB or 1.5GB")
    return n


@dataclass(frozen=True, slots=True)
class EngineOptions:
    """Options of open() and load(). memory, gpu_memory: bytes, or None for what the machine can spare."""

    device: str = "auto"
    memory: int | None = None
    gpu_memory: int | None = None
    context: int | None = None
    threads: int | None = None
    policy: str = "plan"
    prefetch: int | None = None
    kv_type: str | None = None  # of the key/value cache: "f32", the default, or "f16", half as large
    draft: int | None = None  # tokens guessed and verified in one pass, at most; None: as many as reading leaves time for

    def __post_init__(self) -> None:
        for name in ("context", "threads"):
            value = getattr(self, name)
            if value is not None and (not isinstance(value, int) or isinstance(value, bool) or value < 1):
                raise ValueError(f"{name} must be a whole number from 1 on, not {value!r}")
        if self.threads is not None and self.threads > MAX_THREADS:
            raise ValueError(f"threads must be at most {MAX_THREADS}, not {self.threads}")
        if self.kv_type not in (None, *KV_TYPES):
            raise ValueError(f"kv_type {self.kv_type!r} is unknown; there is: {', '.join(KV_TYPES)}")
        if self.policy not in POLICIES:
            raise ValueError(f"policy {self.policy!r} is unknown; there is: {', '.join(POLICIES)}")
        for name in ("prefetch", "draft"):
            value = getattr(self, name)
            if value is not None and (not isinstance(value, int) or isinstance(value, bool) or value < 0):
                raise ValueError(f"{name} must be a whole number from 0 on, not {value!r}")


@dataclass(frozen=True, slots=True)
class SamplerOptions:
    """How the next token is chosen. Raises ValueError if a number is out of its range."""

    temperature: float = 0.0  # 0: always the likeliest token
    top_k: int = 40  # keep the k likeliest; 0: all
    top_p: float = 0.95  # keep the fewest likeliest tokens that together have this probability; 1: all
    min_p: float = 0.05  # keep tokens at least this probable in relation to the likeliest; 0: all
    repeat_penalty: float = 1.0  # above 1: recent tokens are less likely; 1: off; 0.01 to 100
    seed: int | None = None  # None: from the system's entropy

    def __post_init__(self) -> None:
        for name in ("temperature", "top_p", "min_p", "repeat_penalty"):
            require(is_finite(getattr(self, name)), name, "a finite number", getattr(self, name))
        for name in ("top_k", "seed"):
            value = getattr(self, name)
            require(is_integer(value) or (name == "seed" and value is None), name, "an integer", value)
        require(self.temperature >= 0, "temperature", "0 or more", self.temperature)
        require(self.top_k >= 0, "top_k", "0 (off) or more", self.top_k)
        require(0 < self.top_p <= 1, "top_p", "above 0 and at most 1 (off)", self.top_p)
        require(0 <= self.min_p <= 1, "min_p", "from 0 (off) to 1", self.min_p)
        require(0.01 <= self.repeat_penalty <= 100, "repeat_penalty", "from 0.01 to 100 (1 is off)", self.repeat_penalty)
        require(self.seed is None or 0 <= self.seed < 2**64, "seed", "from 0 to 2**64 - 1, or None", self.seed)


def require(holds: bool, name: str, expected: str, found: object) -> None:
    if not holds:
        raise ValueError(f"{name} must be {expected}, not {found!r}")


def is_finite(value: object) -> bool:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    try:
        return math.isfinite(value)
    except OverflowError:  # an int past the range of float
        return False


def is_integer(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
