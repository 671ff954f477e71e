"""BrowserMemory: a WebAssembly memory of the page, outside Python's heap.

Python writes and reads small things in it, by copying.
"""

from typing import Any

from wasmrt import browser
from wasmrt.errors import BudgetError
from wasmrt.store.memory import Allocating, Place, Words


class BrowserMemory(Allocating):
    """Of web/memory.js. `build`: the kernels that run on it; "plain" is not shared with workers."""

    def __init__(self, build: str, capacity: int) -> None:
        self.build = build
        try:
            self.js: Any = browser.module("memory").Memory.new(build, capacity)
        except Exception as error:
            raise browser.translated(error, BudgetError) from error
        super().__init__(int(self.js.start), capacity)

    @property
    def shared(self) -> bool:
        return self.build != "plain"

    def place(self, address: int, n_bytes: int) -> Place:
        self.check(address, n_bytes)
        return Place(self, address, n_bytes)

    def words(self, address: int, n: int) -> Words:
        self.check(address, 8 * n)
        return _Words(self.js, address, n)

    def read(self, address: int, n_bytes: int) -> bytes:
        self.check(address, n_bytes)
        found: bytes = self.js.window(address, n_bytes).to_bytes()
        return found

    def write(self, address: int, data: Any) -> None:
        with memoryview(data).cast("B") as flat:
            self.check(address, len(flat))
            if len(flat):
                self.js.window(address, len(flat)).assign(flat)

    def copy(self, source: int, target: int, n_bytes: int) -> None:
        self.check(source, n_bytes)
        self.check(target, n_bytes)
        self.js.copy(source, target, n_bytes)

    def release(self, address: int, n_bytes: int) -> None:
        """A page can give nothing back of a memory; what a smaller budget leaves unused is not touched any more."""

    def close(self) -> None:
        if self.capacity:
            self.js.close()
        self.capacity = self.used = 0


class _Words:
    """An address table: what is written is kept here as well, since reading it back would cost a call."""

    def __init__(self, js: Any, address: int, n: int) -> None:
        self._js, self._address = js, address
        self._words = [0] * n

    def __getitem__(self, i: int) -> int:
        return self._words[i]

    def __setitem__(self, i: int, word: int) -> None:
        self._words[i] = word
        self._js.setWord(self._address + 8 * i, word)

    def __len__(self) -> int:
        return len(self._words)
