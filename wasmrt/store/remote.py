"""open_remote(ref): a model behind a URL or on a hub, of which each byte is paid for once."""

import logging
import re
from pathlib import Path
from urllib.parse import unquote

from wasmrt.errors import SourceError
from wasmrt.store.cache import CachedFile, open_cached, place_of, url_key
from wasmrt.store.disk_copy import open_kept, read_map
from wasmrt.store.hub import HUB, choose, is_hub_ref, parse, resolve, url_of
from wasmrt.store.room import copies
from wasmrt.store.source import Source

log = logging.getLogger("wasmrt")

# How patiently a server is asked whether its file is still the one that lies here; without it that one is used.
PROBE_ATTEMPTS = 2
PROBE_SECONDS = 5.0


def default_cache() -> Path:
    """The platform's folder for what can be fetched again."""
    from platformdirs import user_cache_path

    return user_cache_path("wasmrt", appauthor=False) / "models"


def is_remote(ref: object) -> bool:
    return isinstance(ref, str) and re.match(r"(?i)https?://|hf:", ref) is not None


async def open_remote(
    ref: str,
    *,
    cache: bool = True,
    cache_dir: Path | None = None,
    endpoint: str = HUB,
    offline: bool = False,
    keep_free: int | None = None,
    max_bytes: int | None = None,
) -> Source:
    """The source that an http or https URL or an hf: reference names, with a copy in `cache_dir` (None: default_cache()).

    A whole copy is used as it is if the server still has that version, or cannot be reached, or `offline` forbids asking it.
    cache False: neither looked for nor made. keep_free, max_bytes: see Room. Raises SourceError.
    """
    from wasmrt.store.http import HttpSource
    from wasmrt.store.http_rules import HttpLimits

    folder = cache_dir or default_cache()
    url = await url_of_ref(ref, cache_dir=folder, endpoint=endpoint, offline=offline)
    if not cache:
        return await HttpSource.open(url)
    if offline:
        return await _open_offline(url, folder, "as was asked for")
    limits = HttpLimits()
    if kept := has_copy(folder, url):
        limits = HttpLimits(
            attempts=PROBE_ATTEMPTS, connect_seconds=PROBE_SECONDS, read_seconds=PROBE_SECONDS, retry_after_cap=PROBE_SECONDS,
            total_seconds=2 * PROBE_ATTEMPTS * PROBE_SECONDS,  # also of a server that trickles
        )
    try:
        inner = await HttpSource.open(url, limits=limits)
    except SourceError as error:
        if not (error.transient and kept):
            raise
        return await _open_offline(url, folder, f"because {error}")
    source = await open_cached(inner, folder, keep_free=keep_free, max_bytes=max_bytes)
    if kept and not isinstance(source, CachedFile):  # another version: what follows is no probe
        await source.close()
        source = await open_cached(await HttpSource.open(url), folder, keep_free=keep_free, max_bytes=max_bytes)
    return source


async def url_of_ref(ref: str, *, cache_dir: Path, endpoint: str = HUB, offline: bool = False) -> str:
    """The URL behind a reference. Where the hub cannot be asked, its file is looked for among the whole copies.

    Raises SourceError.
    """
    if not is_hub_ref(ref):
        return ref
    wanted = parse(ref)
    if wanted.file:
        return url_of(wanted, wanted.file, endpoint)
    cause = None
    if not offline:
        try:
            return await resolve(wanted, endpoint)
        except SourceError as error:
            if not error.transient:
                raise
            cause = error
    above = url_key(url_of(wanted, "", endpoint))
    files = [unquote(url.removeprefix(above)) for url in _urls(cache_dir) if url.startswith(above)]
    if not files:
        raise cause or SourceError(f"no copy of {ref!r} lies in {str(cache_dir)!r}; fetch it while there is a connection")
    return url_of(wanted, choose(wanted, files), endpoint)


def has_copy(folder: Path, url: str) -> bool:
    """Whether a whole copy of some version of it lies here."""
    place = place_of(folder, url_key(url))
    found = read_map(place.map)
    return found is not None and found.identity.url == url_key(url) and found.is_whole(place.path)


def _urls(folder: Path) -> list[str]:
    """Of the copies that are whole."""
    maps = [(place, read_map(place.map)) for place in copies(folder)]
    return [found.identity.url for place, found in maps if found and found.is_whole(place.path)]


async def _open_offline(url: str, folder: Path, why: str) -> Source:
    place = place_of(folder, url_key(url))
    copy = open_kept(place)
    if copy is None:
        raise SourceError(
            f"no whole copy of {url_key(url)!r} lies in {str(folder)!r}, and its server is not asked {why}; "
            f"fetch it while there is a connection"
        )
    log.warning(f"using the copy in {str(place.path)!r} without asking its server, {why}")
    return await CachedFile.of(copy, url)
