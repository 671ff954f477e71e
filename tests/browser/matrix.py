"""What computes in which browser: every engine, kind of page and device, and what comes of it. An outcome that is not the one
written here fails, whichever way it differs: a browser that can do more than it could is to be noticed too.

A page is "isolated" (COOP and COEP) or "plain". Without a name for its build, "cpu" takes the one that fits best.
"""

from dataclasses import dataclass

RUNS = "runs"
NO_SHARING = "this page has no memory that workers share"
NO_GPU = "the browser gives this page no GPU"
NO_NUMPY = "the reference device needs numpy"


@dataclass(frozen=True)
class Case:
    """outcome: RUNS, with so many threads; or a part of the message of the DeviceError."""

    engine: str
    page: str
    device: str
    threads: int | None
    outcome: str = RUNS
    used: int = 1

    def __str__(self) -> str:
        return f"{self.engine}-{self.page}-{self.device}-{self.threads}"


# device, threads asked for: what comes of it in an isolated page of Chromium or Firefox; and where nothing is shared.
SHARED = [
    ("cpu", 1, RUNS, 1),
    ("cpu", 2, RUNS, 2),
    ("cpu:wasm32", 2, RUNS, 2),
    ("cpu:wasm64", 1, RUNS, 1),
    ("cpu:wasm64", 2, RUNS, 2),
    ("cpu:plain", None, RUNS, 1),
    ("reference", None, NO_NUMPY, 0),
]
UNSHARED = [
    ("cpu", 2, RUNS, 1),
    ("cpu:plain", None, RUNS, 1),
    ("cpu:wasm32", 2, NO_SHARING, 0),
    ("cpu:wasm64", 1, NO_SHARING, 0),
    ("reference", None, NO_NUMPY, 0),
]
GPU = [("gpu", None, RUNS, 1)]
WITHOUT_GPU = [("gpu", None, NO_GPU, 0)]

MATRIX = [
    Case(engine, page, *row)
    for (engine, page), rows in {
        ("chromium", "isolated"): SHARED + GPU,
        ("chromium", "plain"): UNSHARED + GPU,
        ("firefox", "isolated"): SHARED + GPU,
        ("firefox", "plain"): UNSHARED + GPU,
        # Isolated, but without SharedArrayBuffer.
        ("webkit", "isolated"): UNSHARED + WITHOUT_GPU,
        ("webkit", "plain"): UNSHARED + WITHOUT_GPU,
    }.items()
    for row in rows
]
