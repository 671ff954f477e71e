"""From the path of a URL to a file inside a folder, or to nothing.

A path is first judged as text, by rules that are the same on every system, before any of it reaches the file system: on Windows
to look at \\\\host\\share already sends one's credentials there. What is left is resolved and must still lie in the folder.
"""

import re
from pathlib import Path

# What Windows opens as a device, whatever the extension. The last are its superscript digits.
DEVICES = re.compile(r"(con|prn|aux|nul|conin\$|conout\$|clock\$|(com|lpt)[0-9¹²³])( *\..*)?", re.IGNORECASE)
FORBIDDEN = re.compile(r'[\x00-\x1f\x7f\\:*?"<>|]|[ .]$')  # backslashes, drives and streams (C:, x::$DATA), wildcards
LONGEST = 255  # bytes of a name that file systems take


def parts_of(path: str, depth: int) -> tuple[str, ...] | None:
    """"a/b.gguf" as its names, at most `depth` of them; None if one of them is empty, hidden or no plain name of a file."""
    names = tuple(path.split("/"))
    return names if len(names) <= depth and all(map(is_plain, names)) else None


def is_plain(name: str) -> bool:
    """Whether it is a name of a file, on any system, that is not hidden: not empty, "..", ".git", "C:x", "nul.txt", "a\\b"."""
    if not is_text(name) or not 0 < len(name.encode()) <= LONGEST or name[0] == ".":
        return False
    return not FORBIDDEN.search(name) and not DEVICES.fullmatch(name)


def is_text(name: str) -> bool:
    """Names on disk are bytes, and need not be UTF-8."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def inside(root: Path, parts: tuple[str, ...]) -> Path | None:
    """The file itself, links followed; None if there is none, or a link leads out of `root`, which is a resolved path."""
    try:
        path = root.joinpath(*parts).resolve(strict=True)
        return path if path.is_relative_to(root) and path.is_file() else None
    except (OSError, RuntimeError, ValueError):  # links in a circle are a RuntimeError before Python 3.13
        return None
