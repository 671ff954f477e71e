"""Token by token back to text, never half a character."""

import codecs
from collections.abc import Callable


class Detokenizer:
    """push(id) gives the characters that are complete by now, flush() what never will be, as U+FFFD.

    piece: the bytes of an id, raising ValueError for one that does not exist. is_text: whether an id is part of the text, not
    a control token. strip_space: drop the space that the tokenizer put before the first word.
    """

    def __init__(self, piece: Callable[[int], bytes], is_text: Callable[[int], bool], strip_space: bool) -> None:
        self._piece = piece
        self._is_text = is_text
        self._strip_space = strip_space
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def push(self, id: int) -> str:
        piece = self._piece(id)
        if self._strip_space and self._is_text(id):
            piece = piece.removeprefix(b" ")
            self._strip_space = False
        return self._decoder.decode(piece)

    def flush(self) -> str:
        return self._decoder.decode(b"", final=True)
