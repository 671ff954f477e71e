"""wasmrt runs GGUF language models in a browser tab and on a desktop.

    import wasmrt
    with wasmrt.load("model.gguf") as model:          # nothing: the bundled demo model
        for piece in model.generate("Once upon a time"):
            print(piece, end="", flush=True)

`await wasmrt.open(...)` is the same for async code; both take device, memory, context, threads, kv_type and more, which
engine.open explains. Errors are the classes of wasmrt.errors.
"""

from typing import TYPE_CHECKING, Any

from wasmrt.errors import (
    BudgetError,
    ContextFull,
    DeviceError,
    FormatError,
    SourceError,
    UnsupportedError,
    WasmrtError,
)

if TYPE_CHECKING:
    from wasmrt.engine import open, open_tokenizer
    from wasmrt.sync import load, load_tokenizer

__version__ = "0.1.0"

__all__ = [
    "BudgetError",
    "ContextFull",
    "DeviceError",
    "FormatError",
    "SourceError",
    "UnsupportedError",
    "WasmrtError",
    "__version__",
    "load",
    "load_tokenizer",
    "open",
    "open_tokenizer",
]

_HOMES = {"open": "engine", "open_tokenizer": "engine", "load": "sync", "load_tokenizer": "sync"}


def __getattr__(name: str) -> Any:
    """The engine is imported when it is first asked for: `import wasmrt` needs neither numpy nor any native library."""
    if name not in _HOMES:
        raise AttributeError(f"module 'wasmrt' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"wasmrt.{_HOMES[name]}"), name)
