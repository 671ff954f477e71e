"""What the page consists of that is not ours: which releases, their digests, and how they are fetched.

Everything comes through the ordinary clients of the registries, npm and pip, is checked against the digest below, and is kept
in build/cache under that digest: a second build needs no network. To raise a version, change it and its digest here.
"""

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Part:
    """One file of a registry. client: npm, or pip for a wheel as it is, or pip-source for a package's source archive."""

    name: str
    version: str
    client: str
    file_name: str
    algorithm: str
    digest: str


PYODIDE = Part(
    "pyodide", "314.0.7", "npm", "pyodide-314.0.7.tgz", "sha512",
    "d18bd7c4485f11da4b7dbfd790cd8114078c44eab488c517d9bcf31fda4eb6dc"
    "8c716930abe1db139bb2b860fcd8b37bcb6abe48dbe2ffa579244b0e943d91d4",
)  # fmt: skip
JINJA2 = Part(
    "jinja2", "3.1.6", "pip", "jinja2-3.1.6-py3-none-any.whl", "sha256",
    "85ece4451f492d0c13c5dd7c13a64681a86afae63a5f347908daf103ce6d2f67",
)  # fmt: skip
# Its wheels are compiled, one for each platform, and none is for a page's: the package works without its C part.
MARKUPSAFE = Part(
    "markupsafe", "3.0.4", "pip-source", "markupsafe-3.0.4.tar.gz", "sha256",
    "2e9ad7dd851bf45fab9f75cbff4cb493fee9979e8d8c7c9c3ee119022518edd6",
)  # fmt: skip
PARTS = (PYODIDE, JINJA2, MARKUPSAFE)


class BuildError(Exception):
    """Why there is no page, in one line; and what the program that failed said."""

    def __init__(self, line: str, output: str = "") -> None:
        super().__init__(line)
        self.output = output


def fetch(part: Part, cache: Path) -> Path:
    """The file in `cache`, from there or from its registry. Raises BuildError, also if its content is not the pinned one."""
    kept = cache / part.digest[:16] / part.file_name
    if kept.is_file() and digest(kept, part) == part.digest:
        return kept
    say(f"fetching {part.file_name}")
    kept.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=kept.parent) as name:
        folder = Path(name)
        download(part, folder)
        got = folder / part.file_name
        if not got.is_file():
            there = ", ".join(sorted(path.name for path in folder.iterdir())) or "nothing"
            raise BuildError(f"{part.client} fetched {there} where {part.file_name} was expected; see tools/web_parts.py")
        if (found := digest(got, part)) != part.digest:
            raise BuildError(
                f"{part.file_name} has {part.algorithm} {found[:16]}..., not the pinned {part.digest[:16]}...: it was changed "
                "on its way or by its registry; try again, and do not raise the pin in tools/web_parts.py without a look at it"
            )
        os.replace(got, kept)
    return kept


def download(part: Part, folder: Path) -> None:
    """Let the registry's client put the file into `folder`."""
    if part.client == "npm":
        npm = shutil.which("npm")
        if npm is None:
            raise BuildError("npm is not here, and Pyodide comes through it; on Debian or Ubuntu: sudo apt-get install npm")
        run(f"npm could not fetch {part.name} {part.version}; check the network",
            [npm, "pack", "--silent", "--pack-destination", str(folder), f"{part.name}@{part.version}"], folder)  # fmt: skip
        return
    # pip checks the digest before it runs anything of a source archive, which it does for the name and version in it.
    wanted = folder / "wanted.txt"
    wanted.write_text(f"{part.name}=={part.version} --hash={part.algorithm}:{part.digest}\n")
    form = "--no-binary" if part.client == "pip-source" else "--only-binary"
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check"]
    run(f"pip could not fetch {part.name} {part.version}; check the network",
        [*pip, "download", "--quiet", "--no-deps", form, ":all:", "-r", str(wanted), "-d", str(folder)], folder)  # fmt: skip


def digest(path: Path, part: Part) -> str:
    return hashlib.new(part.algorithm, path.read_bytes()).hexdigest()


def run(failure: str, command: list[str], folder: Path) -> None:
    done = subprocess.run(command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    if done.returncode:
        raise BuildError(failure, done.stdout.decode(errors="replace"))


def say(text: str) -> None:
    print(f"web: {text}", file=sys.stderr, flush=True)
