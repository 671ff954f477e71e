"""Which bytes of a file a request gets, and with which status: the rules of RFC 9110, sections 13 and 14, for one range. Pure.

Where the standard leaves a choice, a client that asked for a part never gets a whole file of many GB: whatever begins with
"bytes" and is not exactly one range inside the file is 416. Another unit must be ignored, and is.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass

RANGE = re.compile(r"([0-9]*)-([0-9]*)")
TAG = re.compile(r'(W/)?("[^"]*")')
LONGEST = 200  # characters of a Range header that can mean one range: two numbers, with zeros and spaces to spare
HUGE = 1 << 64  # stands for each number with more digits than the size of a file has


@dataclass(frozen=True, slots=True)
class Answer:
    """Bytes [start, stop) of the file are the body; a status of 206 says that they are a part."""

    status: int
    start: int = 0
    stop: int = 0


def answer(method: str, headers: Mapping[str, str], size: int, etag: str) -> Answer:
    """headers: by their names in lower case, values of repeated ones joined by commas; etag: strong, in its quotes.

    No Last-Modified is ever sent, so a condition on a date is one that does not hold.
    """
    if "if-match" in headers and not matches(headers["if-match"], etag, strong=True):
        return Answer(412)
    if "if-none-match" in headers and matches(headers["if-none-match"], etag, strong=False):
        return Answer(304)
    wanted = headers.get("range")
    whole = Answer(200, 0, size)
    # Ranges are defined for GET alone; If-Range compares the whole of it, and strongly.
    if wanted is None or method != "GET" or headers.get("if-range", etag).strip() != etag:
        return whole
    unit, equals, ranges = wanted.partition("=")
    if equals and unit.strip().lower() != "bytes":
        return whole
    found = single_range(ranges, size) if equals and len(wanted) <= LONGEST else None
    return Answer(206, *found) if found else Answer(416)


def single_range(text: str, size: int) -> tuple[int, int] | None:
    """"5-9", "5-" or "-5" as [start, stop) of a file of `size` bytes; None if it is not one range, or none inside the file."""
    match = RANGE.fullmatch(text.strip(" \t"))
    if match is None or not (match[1] or match[2]):
        return None
    if not match[1]:
        start, last = max(0, size - number(match[2])), size - 1
    else:
        start, last = number(match[1]), number(match[2]) if match[2] else HUGE
        if last < start:
            return None
    return (start, min(last + 1, size)) if start < size else None


def number(digits: str) -> int:
    digits = digits.lstrip("0")
    return HUGE if len(digits) > 19 else int(digits or "0")


def matches(condition: str, etag: str, *, strong: bool) -> bool:
    """Whether a list of tags, or "*", names this one. A weak tag counts only where the comparison is weak."""
    if condition.strip() == "*":
        return True
    return any(tag == etag and not (strong and weak) for weak, tag in TAG.findall(condition))
