"""The key that a server asks for where other machines can come in. It is the first name of the path, or in a header.

In the path, because then all that the page asks for carries it: its links are relative. A cookie would not do: it goes to every
server on that host, whatever the port, and requests that send no credentials, as those for weights, go without.
"""

import re
import secrets

from starlette.types import Scope

KEY = re.compile(r"[A-Za-z0-9_-]{8,128}")  # what needs no escaping in a path, and is no name of ours ("models", "pyodide")


def make_key() -> str:
    """128 random bits."""
    return secrets.token_urlsafe(16)


def checked_key(text: str) -> str:
    """Raises ValueError."""
    if not KEY.fullmatch(text):
        raise ValueError("expected a key of 8 to 128 letters, digits, - and _")
    return text


def entered(scope: Scope, key: str | None) -> Scope | None:
    """The request, with the key in its path as `root_path`, from where routes begin; None if it does not have the key."""
    if key is None:
        return scope
    first = scope["path"].removeprefix("/").partition("/")[0]
    if same(first.encode(errors="surrogatepass"), key):
        return {**scope, "root_path": f"/{key}"}
    header = b"".join(value for name, value in scope["headers"] if name == b"authorization")
    kind, _, given = header.partition(b" ")
    return scope if kind.lower() == b"bearer" and same(given.strip(), key) else None


def same(given: bytes, key: str) -> bool:
    """In a time that does not tell how much of it was right."""
    return secrets.compare_digest(given, key.encode())
