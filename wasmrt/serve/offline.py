"""The list of the page's files in its service worker, which keeps them for when there is no network (web/service-worker.js)."""

import hashlib
import json
import re
from pathlib import Path
from typing import Any

from wasmrt.errors import SourceError
from wasmrt.serve.headers import EVERYWHERE, MEDIA_TYPES, PAGE_POLICY

SERVICE_WORKER = "service-worker.js"
LINE = re.compile(r"^const LIST = .*;$", re.MULTILINE)


def list_files(folder: Path, names: list[str]) -> None:
    """Write the list of these files of a page, "/" between their names, into the service worker in that folder.

    The same files give the same bytes, and other files others, which is how browsers see that there is a new version. Raises
    SourceError if the service worker there has no place for a list.
    """
    path = folder / SERVICE_WORKER
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeError) as error:
        raise SourceError(f"cannot read {str(path)!r}: {error}; build the page again") from error
    lines = LINE.findall(text)
    if len(lines) != 1:
        raise SourceError(f"{str(path)!r} has {len(lines)} lists of files where one was expected; build the page again")
    found = {name: (folder / name).read_bytes() for name in sorted(names)}
    headers = EVERYWHERE | {"Content-Security-Policy": PAGE_POLICY}
    content = {
        "form": _digest([headers, MEDIA_TYPES])[:8],
        "headers": headers,
        "types": MEDIA_TYPES,
        "files": {name: [hashlib.sha256(data).hexdigest(), len(data)] for name, data in found.items()},
    }
    written = json.dumps(content, sort_keys=True)
    path.write_text(text.replace(lines[0], f"const LIST = {written};"), encoding="utf-8", newline="\n")


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
