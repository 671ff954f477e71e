"""Lower case and letters without accents, by the tables of unicode_folding.py: the same on every interpreter."""

from functools import cache

from wasmrt.tokenizer.unicode_folding import BARE, LOWER

SYLLABLES, LEADING, VOWELS, TRAILING = 0xAC00, 0x1100, 0x1161, 0x11A7  # Hangul: 11172 syllables of 19 x 21 x 28 jamo
N_SYLLABLES, N_VOWELS, N_TRAILING = 11172, 21, 28


@cache
def _lowered() -> dict[int, str]:
    found = {0x130: "i\u0307"}
    for run in LOWER.split(","):
        start, count, step, delta = run.split()
        for i in range(int(count)):
            c = int(start, 16) + i * int(step)
            found[c] = chr(c + int(delta))
    return found


@cache
def _bared() -> dict[int, str]:
    found = {}
    c = 0
    for entry in BARE.split():
        if entry[0] == "+":
            c += int(entry)
        else:
            found[c] = "" if entry == "0" else "".join(chr(int(part, 16)) for part in entry.split("."))
            c += 1
    return found


def lower(text: str) -> str:
    """Each character's lower case, without regard to its neighbours."""
    return text.translate(_lowered())


def bare(character: str) -> str:
    """A character's canonical decomposition (NFD), less what is of class Mn in it. A mark that is not composed stays."""
    syllable = ord(character) - SYLLABLES
    if 0 <= syllable < N_SYLLABLES:
        leading, rest = divmod(syllable, N_VOWELS * N_TRAILING)
        vowel, trailing = divmod(rest, N_TRAILING)
        jamo = chr(LEADING + leading) + chr(VOWELS + vowel)
        return jamo + chr(TRAILING + trailing) if trailing else jamo
    return _bared().get(ord(character), character)
