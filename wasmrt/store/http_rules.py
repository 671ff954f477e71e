"""What an HTTP answer means for a read by range: take its bytes, ask again, find the file anew, or give up. No I/O.

A byte is taken only from an answer that is exactly the range that was asked for, of the file as it was when it was opened.
"""

import email.utils
import enum
import ipaddress
import random
import re
import socket
import time
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import urlsplit

REDIRECTS = frozenset({301, 302, 303, 307, 308})
EXPIRED = frozenset({401, 403, 404, 410})  # what object stores answer when a signed URL's time is over
BUSY = frozenset({408, 425, 429})  # and 500 to 599
RANGE = re.compile(r"bytes (?:([0-9]{1,19})-([0-9]{1,19})|\*)/([0-9]{1,19}|\*)", re.IGNORECASE)


@dataclass(frozen=True)
class HttpLimits:
    """How long a read waits and how often it tries. Defaults suit a home connection and a busy server."""

    connect_seconds: float = 10.0
    read_seconds: float = 20.0  # without a single byte
    attempts: int = 5  # in a row that bring less than `progress_bytes`
    progress_bytes: int = 256 << 10
    backoff_seconds: float = 0.25  # doubles with each attempt; what is waited is a random part of it
    backoff_cap: float = 8.0
    retry_after_cap: float = 30.0
    total_seconds: float = 120.0  # of one read, and ...
    bytes_per_second: float = 16384.0  # ... the time that its bytes take at this speed
    redirects: int = 5
    parallel: int = 8  # requests at once
    part_bytes: int = 8 << 20  # of one request; a larger read is several, side by side

    def deadline(self, n_bytes: int) -> float:
        """Seconds after which a read of so many bytes is given up."""
        return self.total_seconds + n_bytes / self.bytes_per_second

    def pause(self, failed: int, retry_after: float | None) -> float:
        """Seconds to wait after `failed` attempts in a row; at least what the server asks for, up to the cap."""
        longest = min(self.backoff_cap, self.backoff_seconds * 2 ** min(failed - 1, 30))
        return max(random.uniform(0, longest), min(retry_after or 0.0, self.retry_after_cap))


class Next(enum.Enum):
    """What to do about an answer that gave no bytes."""

    AGAIN = "ask again after a pause"
    RENEW = "find out again where the file is"
    CHANGED = "give up: it is not the file that was opened"
    NEVER = "give up"


class Trouble(Exception):
    """One attempt gave nothing, or not all. `reason` completes "reading failed: ..."."""

    def __init__(self, reason: str, then: Next, retry_after: float | None = None) -> None:
        super().__init__(reason)
        self.reason = reason
        self.then = then
        self.retry_after = retry_after


@dataclass(frozen=True)
class Identity:
    """What tells one version of a file from another, as far as the server says it."""

    size: int
    etag: str | None = None  # a strong one
    last_modified: str | None = None
    sha256: str | None = None

    def difference(self, now: "Identity") -> str:
        """In words, or empty if both are the same file. Equal hashes decide alone: stores may name one content differently."""
        if self.size != now.size:
            return f"it had {self.size} bytes when it was opened and has {now.size} now"
        if self.sha256 and now.sha256:
            return compared("SHA-256", self.sha256, now.sha256)
        if self.etag:
            return compared("ETag", self.etag, now.etag)
        if self.last_modified:
            return compared("time of modification", self.last_modified, now.last_modified)
        return ""


def compared(what: str, was: str, now: str | None) -> str:
    return "" if was == now else f"its {what} was {was[:80]} when it was opened and is {(now or 'none')[:80]} now"


def strong_etag(headers: Mapping[str, str]) -> str | None:
    """A weak one (W/"...") allows other bytes under the same tag."""
    etag = headers.get("etag", "").strip()
    return etag if re.fullmatch(r'"[^"]*"', etag) else None


def linked_sha256(headers: Mapping[str, str]) -> str | None:
    """The content's hash, which a model hub names when it sends a reader on to its store."""
    value = headers.get("x-linked-etag", "").strip().removeprefix("W/").strip('"').lower()
    return value if re.fullmatch(r"[0-9a-f]{64}", value) else None


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds from now on; the header has a number or a date."""
    value = headers.get("retry-after", "").strip()
    if re.fullmatch(r"[0-9]{1,9}", value):
        return float(value)
    try:
        return max(0.0, email.utils.parsedate_to_datetime(value).timestamp() - time.time())
    except (ValueError, OverflowError, OSError):  # the last is Windows's, for years it does not know
        return None


def identity_at_open(status: int, headers: Mapping[str, str], sha256: str | None) -> Identity:
    """Which file it is, from the answer to a request for its first byte. Raises Trouble."""
    if trouble := busy(status, headers):
        raise trouble
    if status in (401, 403):
        raise Trouble(f"access was denied (status {status}); it may need a token, or the link may have expired", Next.NEVER)
    if status in (404, 410):
        raise Trouble(f"there is no such file (status {status}); check the URL", Next.NEVER)
    _, total = content_range(headers)
    if (status == 416 and total == 0) or (status == 200 and headers.get("content-length", "").strip() == "0"):
        return Identity(0, strong_etag(headers), headers.get("last-modified"), sha256)
    if status == 200:
        raise Trouble(
            "the server does not do ranges: it answered with the whole file; download the file and give its path", Next.NEVER
        )
    if status != 206:
        raise Trouble(f"it answered with status {status}; check the URL", Next.NEVER)
    if reason := wrong_encoding(headers):
        raise Trouble(reason, Next.AGAIN)
    span, total = content_range(headers)
    if span == (0, 1) and total is None:
        raise Trouble("the server does not say how large the file is; download the file and give its path", Next.NEVER)
    if span != (0, 1) or not total:
        raise Trouble(f"asked for byte 0, it answered with Content-Range {shown(headers, 'content-range')}", Next.AGAIN)
    return Identity(total, strong_etag(headers), headers.get("last-modified"), sha256)


def check_part(status: int, headers: Mapping[str, str], was: Identity, start: int, end: int) -> None:
    """Whether the body of this answer is bytes `start` to `end` (the first one after) of the file. Raises Trouble if not."""
    if trouble := busy(status, headers):
        raise trouble
    if status in EXPIRED or status in REDIRECTS:
        raise Trouble(f"it answered with status {status}", Next.RENEW)
    span, total = content_range(headers)
    if status == 416:
        if total == was.size:
            raise Trouble(f"it answered that bytes {start} to {end} are not in the file (status 416)", Next.AGAIN)
        has = "fewer" if total is None else total
        raise Trouble(f"it had {was.size} bytes when it was opened and has {has} now", Next.CHANGED)
    if status == 200:
        length = headers.get("content-length", "").strip()
        total = int(length) if re.fullmatch(r"[0-9]{1,19}", length) else None
    elif status != 206:
        raise Trouble(f"it answered with status {status}; check the URL", Next.NEVER)
    now = Identity(was.size if total is None else total, strong_etag(headers), headers.get("last-modified"))
    check_same(was, now)
    if status == 200:
        raise Trouble("the server no longer does ranges: it answered with the whole file", Next.AGAIN)
    if reason := wrong_encoding(headers):
        raise Trouble(reason, Next.AGAIN)
    if span != (start, end) or total is None:
        raise Trouble(
            f"asked for bytes {start}-{end - 1}, it answered with Content-Range {shown(headers, 'content-range')}", Next.AGAIN
        )
    length = headers.get("content-length", str(end - start)).strip()
    if length != str(end - start):
        raise Trouble(f"asked for {end - start} bytes, it answered with {length[:20]}", Next.AGAIN)


def check_same(was: Identity, now: Identity) -> None:
    """Raises Trouble unless it is the same file, as far as the server has said."""
    if not (was.sha256 and now.sha256):
        if was.etag and now.etag is None:
            raise Trouble("the answer has no ETag, so its bytes may be another file's", Next.AGAIN)
        if was.etag is None and was.last_modified and now.last_modified is None:
            raise Trouble("the answer has no Last-Modified, so its bytes may be another file's", Next.AGAIN)
    if difference := was.difference(now):
        raise Trouble(difference, Next.CHANGED)


def busy(status: int, headers: Mapping[str, str]) -> Trouble | None:
    if status in BUSY or 500 <= status <= 599:
        return Trouble(f"it answered with status {status}", Next.AGAIN, retry_after(headers))
    return None


def content_range(headers: Mapping[str, str]) -> tuple[tuple[int, int] | None, int | None]:
    """First byte and the one after the last, and the size of the file; None for what is not said or makes no sense."""
    match = RANGE.fullmatch(headers.get("content-range", "").strip())
    if match is None:
        return None, None
    span = (int(match[1]), int(match[2]) + 1) if match[1] else None
    return span, None if match[3] == "*" else int(match[3])


def wrong_encoding(headers: Mapping[str, str]) -> str:
    if headers.get("content-type", "").lower().startswith("multipart/"):
        return "it answered one range with several parts (multipart)"
    encoding = headers.get("content-encoding", "identity").strip().lower()
    return "" if encoding == "identity" else f"it answered with compressed bytes (Content-Encoding {encoding[:20]!r})"


def shown(headers: Mapping[str, str], name: str) -> str:
    value = headers.get(name)
    return "missing" if value is None else repr(value[:80])


def redirect_refused(original: str, url: str, target: str) -> str:
    """Why a redirect from `url` to `target` is not followed, or empty. `original` is what the user named.

    A server out there must not make us ask machines behind the user's firewall, nor give up encryption.
    """
    here, there = urlsplit(url), urlsplit(target)
    if there.scheme not in ("http", "https") or not there.hostname:
        return f"to a {there.scheme!r} address"
    if here.scheme == "https" and there.scheme == "http":
        return f"from https to http, at {there.hostname}"
    if is_local(there.hostname) and not is_local(urlsplit(original).hostname or ""):
        return f"from a public address to a local one, {there.hostname}"
    return ""


def is_local(host: str) -> bool:
    """Whether it is written as an address of this machine or of a private network. Names are not looked up."""
    host = host.rstrip(".").lower()
    if host == "localhost" or host.endswith(".localhost"):
        return True
    ip = address(host)
    return ip is not None and not ip.is_global


def is_loopback(host: str) -> bool:
    host = host.rstrip(".").lower()
    ip = address(host)
    return host == "localhost" or (ip is not None and ip.is_loopback)


def address(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        ip = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        try:
            return ipaddress.IPv4Address(socket.inet_aton(host))  # 127.1, 0x7f000001: systems take them for addresses, too
        except (OSError, ValueError):
            return None
    return getattr(ip, "ipv4_mapped", None) or ip
