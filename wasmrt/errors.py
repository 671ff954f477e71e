"""Every exception that wasmrt raises on purpose.

WasmrtError
├── FormatError       the file is malformed: it says which field or tensor, and at which offset
├── UnsupportedError  the file is fine, but asks for something that wasmrt does not do (yet)
├── SourceError       bytes cannot be reached, were cut short, or changed while they were being read
├── BudgetError       the request does not fit the memory or context that it was given
│   └── ContextFull   no position is left in the context
└── DeviceError       a GPU, a WebAssembly module or the reference device failed or is missing

A wrong argument of a Python call is a plain ValueError or TypeError. A message is one line: what, where, what was expected,
what was found, and the likely next move.
"""


class WasmrtError(Exception):
    """Base of all errors below; catch this to catch what wasmrt itself reports."""


class FormatError(WasmrtError):
    """A malformed file, template or vocabulary."""


class UnsupportedError(WasmrtError):
    """A good file that needs a feature which is not implemented; the message names it."""


class SourceError(WasmrtError):
    """Bytes are unreachable, fewer than promised, or not of the file that was opened.

    `transient`: the same read may succeed later, as when a connection broke; a file that has changed stays changed.
    """

    def __init__(self, message: str, transient: bool = False) -> None:
        super().__init__(message)
        self.transient = transient


class BudgetError(WasmrtError):
    """Weights, cache and activations exceed a budget; the message states the minimum.

    `needs_bytes`: that minimum, of the `budget` that is meant ("memory" or "gpu_memory"); None: it is not known.
    """

    def __init__(self, message: str, needs_bytes: int | None = None, budget: str = "memory") -> None:
        super().__init__(message)
        self.needs_bytes, self.budget = needs_bytes, budget


class ContextFull(BudgetError):
    """The prompt or the conversation is longer than the context."""


class DeviceError(WasmrtError):
    """The compute device is unknown, missing, lost, or gave numbers that are not numbers."""
