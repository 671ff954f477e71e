"""References to a model hub: hf:owner/repo/path/file.gguf, hf:owner/repo:Q4_K_M, hf:owner/repo; with @revision after the repo.

What a reference means and which file of a list it asks for is decided in pure functions; resolve() asks the hub for the list.
"""

import json
import logging
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urljoin

from wasmrt.errors import SourceError

if TYPE_CHECKING:
    import httpx

log = logging.getLogger("wasmrt")

HUB = "https://huggingface.co"
# Which one a reference without a quant gets: the first of these that there is.
DEFAULT_QUANTS = ("Q4_K_M", "Q4_0", "Q8_0", "Q5_K_M", "Q4_K_S", "Q6_K", "Q5_0", "Q4_1", "Q3_K_M", "Q2_K", "F16", "BF16", "F32")
# Of a list of files. Large repositories have some thousand files of about 300 bytes each.
MAX_PAGES = 20
MAX_PAGE_BYTES = 4 << 20
ATTEMPTS = 3
LIST_SECONDS = 120.0  # for all pages: one that trickles meets no other time-out
SHOWN = 24  # files that an error names

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}")
REVISION = re.compile(r"refs/pr/[0-9]{1,9}|[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
QUANT = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
SHARD = re.compile(r"-(\d{5})-of-(\d{5})\.gguf$", re.IGNORECASE)
# Ggufs that are no language model: of images for one, and what a quantizer used.
NO_MODEL = re.compile(r"(?i)(^|[^a-z0-9])(mmproj|imatrix)([^a-z0-9]|$)")


@dataclass(frozen=True, slots=True)
class HubRef:
    """`file` is a path in the repository, `quant` what its name has to carry; without both, the usual one is meant."""

    owner: str
    repo: str
    revision: str = "main"
    file: str | None = None
    quant: str | None = None

    @property
    def repository(self) -> str:
        at = "" if self.revision == "main" else f"@{self.revision}"
        return f"{self.owner}/{self.repo}{at}"


def is_hub_ref(ref: str) -> bool:
    return ref[:3].lower() == "hf:"


def parse(ref: str) -> HubRef:
    """Raises SourceError for what is not a reference, or has characters by which it could name something else."""
    match = re.fullmatch(r"(?is)hf:([^/@:]*)/([^/@:]*)(?:@(refs/pr/[^/:]*|[^/:]*))?(?:/(.*)|:(.*))?", ref)
    if match is None:
        raise _not_a_ref(ref, "the form is not right")
    owner, repo, revision, file, quant = match.groups()
    rules = (("owner", owner, NAME), ("repository", repo, NAME), ("revision", revision, REVISION), ("quant", quant, QUANT))
    for what, text, rule in rules:
        if text is not None and (not rule.fullmatch(text) or ".." in text):
            raise _not_a_ref(ref, f"{text[:80]!r} is no {what}")
    if file is not None and (reason := wrong_path(file)):
        raise _not_a_ref(ref, f"{file[:80]!r} {reason}")
    return HubRef(owner, repo, revision or "main", file, quant)


def wrong_path(path: str) -> str:
    """Why it is not the path of a GGUF file in a repository, or empty."""
    if not path.isprintable() or re.search(r'[\\:?#%*"<>|]', path) or len(path) > 1024:
        return "has characters that file names do not have here"
    if any(part.strip() in ("", ".", "..") for part in path.split("/")):
        return "is no path inside the repository"
    return "" if path.lower().endswith(".gguf") else "is no .gguf file"


def url_of(ref: HubRef, file: str, endpoint: str = HUB) -> str:
    parts = [quote(part, safe="") for part in (ref.owner, ref.repo, "resolve", ref.revision)]
    return "/".join([endpoint.rstrip("/"), *parts, quote(file, safe="/")])


def choose(ref: HubRef, files: Iterable[str]) -> str:
    """The path that the reference asks for, of those in the repository; of a split model, its first shard's.

    Raises SourceError, which names what there is.
    """
    models = sorted({f for f in files if not wrong_path(f) and not NO_MODEL.search(f.rpartition("/")[2])})
    heads = [f for f in models if not (shard := SHARD.search(f)) or int(shard[1]) == 1]
    if not heads:
        raise SourceError(f"there is no GGUF model in {ref.repository!r}; look for a repository whose name ends in GGUF")
    if ref.quant:
        found = with_quant(ref.quant, heads)
        if len(found) == 1:
            return found[0]
        what = f"no file of {ref.quant!r}" if not found else f"more than one file of {ref.quant!r}"
        raise SourceError(f"there is {what} in {ref.repository!r}; name one of: {_listed(found or heads)}")
    if len(heads) == 1:
        return heads[0]
    for quant in DEFAULT_QUANTS:
        if len(found := with_quant(quant, heads)) == 1:
            more = f"hf:{ref.repository}:QUANT takes another"
            log.warning(f"{ref.repository!r} has {len(heads)} models; taking {found[0]!r} ({more})")
            return found[0]
    raise SourceError(f"there are {len(heads)} models in {ref.repository!r}; name one of: {_listed(heads)}")


def with_quant(quant: str, files: Sequence[str]) -> list[str]:
    """Those whose name carries the quant; if none does, those in a folder that does. Neither Q4_K nor K_M is in IQ4_K_M."""
    token = re.compile(rf"(?i)(?<![a-z0-9])(?<!q[0-9]_){re.escape(quant)}(?![a-z0-9_])")
    return [f for f in files if token.search(f.rpartition("/")[2])] or [f for f in files if token.search(f)]


async def resolve(ref: HubRef, endpoint: str = HUB) -> str:
    """The URL of the file. Asks the hub for its list of files unless the reference names one. Raises SourceError."""
    return url_of(ref, ref.file or choose(ref, await list_files(ref, endpoint)), endpoint)


async def list_files(ref: HubRef, endpoint: str = HUB) -> list[str]:
    """The paths of all files in the repository. Raises SourceError."""
    import asyncio

    try:
        async with asyncio.timeout(LIST_SECONDS):
            return await _list_files(ref, endpoint)
    except TimeoutError as error:
        raise SourceError(
            f"cannot list the files of {ref.repository!r}: that took more than {LIST_SECONDS:g} s; check the connection",
            transient=True,
        ) from error


async def _list_files(ref: HubRef, endpoint: str) -> list[str]:
    import httpx

    from wasmrt.store.http import make_client, parse_url
    from wasmrt.store.http_rules import HttpLimits

    owner, repo, revision = (quote(part, safe="") for part in (ref.owner, ref.repo, ref.revision))
    first = parse_url(f"{endpoint.rstrip('/')}/api/models/{owner}/{repo}/tree/{revision}?recursive=true")
    files: list[str] = []
    async with make_client(first, HttpLimits()) as client:
        url = first
        for _ in range(MAX_PAGES):
            answer, body = await _get_patiently(client, url, ref)
            if answer.is_redirect:  # the repository was renamed
                following = answer.headers.get("location", "")
            else:
                files += paths_of(body, ref)
                following = answer.links.get("next", {}).get("url", "")
                if not following:
                    return files
            try:
                url = httpx.URL(urljoin(str(url), following))
                same_host = (url.scheme, url.host, url.port) == (first.scheme, first.host, first.port)
            except (httpx.InvalidURL, ValueError):
                raise bad_list(ref, "goes on at what is no URL") from None
            if not same_host:
                raise bad_list(ref, f"goes on at another host, {url.host[:80]!r}")
    raise bad_list(ref, f"has more than {MAX_PAGES} pages")


async def _get_patiently(client: "httpx.AsyncClient", url: "httpx.URL", ref: HubRef) -> "tuple[httpx.Response, bytes]":
    """A page of the list, or a redirect; asked for again if the hub is busy. Raises SourceError."""
    import asyncio

    import httpx

    from wasmrt.store.http_rules import HttpLimits, busy

    reason = ""
    for attempt in range(1, ATTEMPTS + 1):
        wait = None
        try:
            answer, body = await _get(client, url, ref)
            trouble = busy(answer.status_code, answer.headers)
            if trouble is None:
                check_status(answer.status_code, url.host, ref)
                return answer, body
            reason, wait = trouble.reason, trouble.retry_after
        except httpx.TransportError as error:
            reason = " ".join(str(error).split()) or type(error).__name__
        except (httpx.InvalidURL, UnicodeError):  # httpx looks at a Location, too
            raise bad_list(ref, "goes on at what is no URL") from None
        if attempt < ATTEMPTS:
            await asyncio.sleep(HttpLimits().pause(attempt, wait))
    raise SourceError(
        f"cannot list the files of {ref.repository!r}: {ATTEMPTS} attempts failed, at last because {reason}; "
        f"check the connection",
        transient=True,
    )


async def _get(client: "httpx.AsyncClient", url: "httpx.URL", ref: HubRef) -> "tuple[httpx.Response, bytes]":
    body = bytearray()
    async with client.stream("GET", url, headers={"Accept-Encoding": "identity", "User-Agent": "wasmrt"}) as answer:
        async for data in answer.aiter_raw():
            body += data
            if len(body) > MAX_PAGE_BYTES:
                raise bad_list(ref, f"has a page of more than {MAX_PAGE_BYTES} bytes")
    return answer, bytes(body)


def check_status(status: int, host: str, ref: HubRef) -> None:
    """Of an answer to the question for a list. Raises SourceError unless it is the list, or a redirect."""
    if status in (401, 403, 404):
        raise SourceError(f"{host} has no {ref.repository!r} that everyone may read (status {status}); check the name")
    if status != 200 and not 300 <= status < 400:
        raise bad_list(ref, f"was answered with status {status}")


def paths_of(body: bytes, ref: HubRef) -> list[str]:
    """The files that one page of the list names. Raises SourceError."""
    try:
        entries: Any = json.loads(body)
        return [entry["path"] for entry in entries if entry["type"] == "file" and isinstance(entry["path"], str)]
    except (ValueError, TypeError, KeyError, RecursionError):
        raise bad_list(ref, "makes no sense") from None


def bad_list(ref: HubRef, why: str) -> SourceError:
    return SourceError(f"the list of the files of {ref.repository!r} {why}; name a file: hf:owner/repo/file.gguf")


def _listed(files: Sequence[str]) -> str:
    more = f" and {len(files) - SHOWN} more" if len(files) > SHOWN else ""
    return ", ".join(files[:SHOWN]) + more


def _not_a_ref(ref: str, why: str) -> SourceError:
    return SourceError(
        f"{ref[:200]!r} names no model on a hub: {why}; write hf:owner/repo/file.gguf or hf:owner/repo:Q4_K_M, "
        f"with @revision after the repo if need be"
    )
