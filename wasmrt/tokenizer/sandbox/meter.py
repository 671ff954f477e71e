"""What is left of one rendering's limits: steps, bytes and time are paid here, and containers weighed.

Relies on limits.py alone. Everything that does work or makes a value calls `Meter.spend` first; `weigh` says how large a value
is where that decides the price.
"""

import time
from collections.abc import Callable, Mapping
from typing import Any

from wasmrt.tokenizer.sandbox.limits import BYTES, MAX_NESTING, MAX_WEIGHT, CapExceeded, Limits

PIECE_BYTES = 80                    # a short string in a list: 8 of pointer, up to 72 of object
_VIEWS: tuple[type[Any], ...] = (type({}.keys()), type({}.values()), type({}.items()))
_SEQUENCES: tuple[type[Any], ...] = (list, tuple, set, *_VIEWS)
CONTAINERS: tuple[Any, ...] = (dict, *_SEQUENCES)


def _clock() -> Callable[[], float]:
    """Of what this thread computes; of all time where there is no such clock, as in a page."""
    try:
        time.thread_time()
    except (AttributeError, OSError):
        return time.perf_counter
    return time.thread_time


COMPUTED = _clock()


class Meter:
    """Counts down what one compilation or rendering may use; raises CapExceeded where too little is left.

    The time starts when it is made, and is what its thread computes: a busy machine takes nothing from a template.
    """

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.steps_left = limits.steps
        self.bytes_left = limits.n_bytes
        self.next_look = limits.steps                   # the clock is looked at when steps_left falls to this
        self.deadline, self.computed = time.perf_counter() + limits.seconds, COMPUTED() + limits.seconds
        self.known: dict[int, int] = {}                 # weights of the input's containers, by id
        self.learning = False

    def spend(self, steps: int, n_bytes: int = 0) -> None:
        """Pays for work about to be done and bytes about to be made. A negative price would be a gift, so it counts as none."""
        self.steps_left -= max(steps, 0)
        self.bytes_left -= max(n_bytes, 0)
        if self.steps_left < 0:
            raise CapExceeded(f"it needs more than {self.limits.steps:,} steps")
        if self.bytes_left < 0:
            raise CapExceeded(f"it makes more than {self.limits.n_bytes:,} bytes of values")
        if self.steps_left <= self.next_look:
            self.next_look = self.steps_left - 2000
            self.look()

    def look(self) -> None:
        """Looks at the clock."""
        if time.perf_counter() > self.deadline and COMPUTED() > self.computed:  # the second costs ten times as much
            raise CapExceeded(f"it takes more than {self.limits.seconds:.1f} s")

    def weigh(self, value: Any, depth: int = 0) -> int:
        """Bytes of a value written out as a tree; pays for the walk and raises CapExceeded above MAX_WEIGHT or MAX_NESTING."""
        if isinstance(value, str):
            return value.__sizeof__()
        if isinstance(value, dict):
            parts: Any = value.items()
        elif isinstance(value, _SEQUENCES):
            parts = value
        else:
            return 64                                   # numbers are bounded; iterators, macros and the like are leaves
        if id(value) in self.known:
            return self.known[id(value)]
        self.spend(4 + 3 * len(parts))
        if depth == MAX_NESTING:
            raise CapExceeded(f"it nests lists more than {MAX_NESTING} deep")
        total = 64
        for part in parts:
            # A dict's pairs are containers too, and are where its level is counted.
            total += 8 + self.weigh(part, depth if isinstance(value, dict) else depth + 1)
            if total > MAX_WEIGHT + self.limits.n_bytes - BYTES:
                raise CapExceeded(f"it makes a list or dict of more than {MAX_WEIGHT:,} bytes")
        if self.learning and not isinstance(value, tuple):     # the pairs of a dict are gone when this returns, their ids free
            self.known[id(value)] = total
        return total

    def learn(self, variables: Mapping[str, Any]) -> None:
        """Weighs the input once: it does not change while it is rendered, and templates copy lists of messages often."""
        self.learning = True
        for value in variables.values():
            self.weigh(value)
        self.learning = False

    def made(self, value: Any) -> Any:
        """`value`, after paying for it if it is a container, which was just made."""
        if isinstance(value, CONTAINERS):
            self.weigh(value)
            self.spend(0, (200 if isinstance(value, dict) else 64) + 16 * len(value))
        return value

    def listed(self, value: Any) -> Any:
        """An iterable as something with a length that can be weighed, paid for; dicts and strings are kept as they are."""
        if isinstance(value, (str, *CONTAINERS)):
            return value
        return self.made(list(value))
