"""What a template may use: the caps on its source and its values, the limits of one rendering, and what is raised at them.

Relies on nothing. Whoever makes something checks it against these first; what adds up over a rendering, meter.py counts.
"""

import operator
from dataclasses import dataclass
from typing import Any

# The largest template of 83 published ones: 17 KB, 1,600 tokens, syntax 18 deep, 42 KB of Python.
MAX_SOURCE = 256 * 1024             # characters
MAX_TOKENS = 10_000
MAX_DEPTH = 100                     # nodes from the template down to a constant; also the branches of one `if`
MAX_PYTHON = 768 * 1024             # characters of Python made from the source

# What one rendering may use, and how that grows with its input: long conversations are legitimate.
STEPS, STEPS_PER_BYTE, STEPS_PER_ITEM = 2_000_000, 4, 2_000     # a step: about 0.1 to 0.2 us
BYTES, BYTES_PER_BYTE = 20 << 20, 24
SECONDS, SECONDS_PER_STEP = 0.7, 4e-7
MAX_OUTPUT, OUTPUT_PER_BYTE = 4 << 20, 4                        # characters
MAX_WEIGHT = 4 << 20                # bytes of one container, written out as a tree
MAX_NESTING = 64                    # containers within one another
MAX_CALLS = 40                      # macros and recursive loops within one another
MAX_COUNT = 100_000                 # of range(), batch and slice, padding widths
MAX_BITS = 2_048                    # of an integer


class CapExceeded(Exception):
    """A template asked for more than the caps above."""


class Refused(Exception):
    """The template called raise_exception; the message is its own."""


@dataclass(frozen=True)
class Limits:
    """What one rendering may use: steps, bytes made, seconds, characters of output."""

    steps: int
    n_bytes: int
    seconds: float
    n_output: int

    @classmethod
    def for_input(cls, n_bytes: int, n_items: int) -> "Limits":
        """Limits for an input of so many bytes of text in so many strings, numbers and containers."""
        more = STEPS_PER_BYTE * n_bytes + STEPS_PER_ITEM * n_items
        return cls(
            steps=STEPS + more,
            n_bytes=BYTES + BYTES_PER_BYTE * n_bytes,
            seconds=SECONDS + SECONDS_PER_STEP * more,
            n_output=MAX_OUTPUT + OUTPUT_PER_BYTE * n_bytes,
        )


def counted(value: Any) -> int:
    """How many of something to make, not below 0: a price must not be negative. Raises CapExceeded above MAX_COUNT."""
    number = operator.index(value)
    if number > MAX_COUNT:
        raise CapExceeded(f"it asks for more than {MAX_COUNT:,} of something")
    return max(number, 0)
