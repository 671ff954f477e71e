"""The libraries of the page's own user interface: which files of which npm packages, and how they find one another.

They are modules as released, in ui/vendor/. What they import by a package's name is made a relative path: a page can say where
a name lies in an inline script only, and its policy forbids these.
"""

import re
import tarfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tools.web_parts import BuildError, Part

IMPORTED = re.compile(r"""(\bfrom\s*|\bimport\s*)(["'])(@?[a-z][\w/-]*)\2""")
SOURCE_MAP = re.compile(r"\n?//# sourceMappingURL=\S+\s*\Z")


@dataclass(frozen=True)
class Library:
    """A package, what it is for, and its files: path in the archive -> (name in ui/vendor, name that it is imported by)."""

    part: Part
    what: str
    license: str
    files: dict[str, tuple[str, str]]


def npm(name: str, version: str, digest: str) -> Part:
    archive = f"{name.removeprefix('@').replace('/', '-')}-{version}.tgz"
    return Part(name, version, "npm", archive, "sha512", digest)


LIBRARIES = (
    Library(
        npm("preact", "11.2.0", "fc77c723fecdf387ba1ab581277276f34cf798b6912620dc4af8ff03ecbfe006"
            "cb9cd0ffd549461ded6c47aa18b931b021dd273fb76a0d4f4e9cbc4c3d9ef106"),
        "components", "MIT",
        {"dist/preact.mjs": ("preact.js", "preact"), "hooks/dist/hooks.mjs": ("preact-hooks.js", "preact/hooks")},
    ),
    Library(
        npm("htm", "3.1.1", "f7cdd5ca0f0dc1413b26467a3663aaa4267eb21d5b2afda2613954933956980e"
            "490f669c2a8c5de0a5716cc9b15fff399ad7dd9c399316834a720e43180bf135"),
        "components' markup without a compiler", "Apache-2.0",
        {"dist/htm.module.js": ("htm.js", "htm")},
    ),
    Library(
        npm("@preact/signals-core", "1.14.5", "bdc46fec8b72cf925599e895a8896e2c5cd3fcf0d2fc09611d4a70dff6945aa7"
            "1552ce9b0c620f5c4ffa4520b87af04d598be79e2a338394b27e3df76a5de092"),
        "state", "MIT",
        {"dist/signals-core.mjs": ("signals-core.js", "@preact/signals-core")},
    ),
    Library(
        npm("@preact/signals", "2.11.4", "45bfb944fa3d81649a1edcc979aba11f1882f0a3ff205d8310f9073c43863a7b"
            "b2db09c9cd1ab278b45a9e450261de800eab714ba1a7586bfa21edf8dddf1a63"),
        "state that components follow", "MIT",
        {"dist/signals.mjs": ("signals.js", "@preact/signals")},
    ),
    Library(
        npm("marked", "18.2.1", "8a2e1bc424c2aaac294fce9765680936cf999c021992c98b19831589603b3c32"
            "1760878da35c7a703757dc93a2a7d34cfdc23aa7ccf9ec5c6588009ba13aee30"),
        "Markdown", "MIT",
        {"lib/marked.esm.js": ("marked.js", "marked")},
    ),
    Library(
        npm("dompurify", "3.5.0", "2d80b466413c3f5578d89b11613c0c7667bfd844fc4a939ce4003678e1633ff2"
            "1a76f45dd9fc224f84d5cf9be47f2d17531d76692d946919139df54f34ebfdbf"),
        "HTML made harmless", "MPL-2.0 OR Apache-2.0",
        {"dist/purify.es.mjs": ("purify.js", "dompurify")},
    ),
    Library(
        npm("uplot", "1.6.32", "2883159c6ebccefbb95d751b0b82d010f9e1c0ec41b8bc96d401eda66e882935"
            "c89a46cb824332fa369b8cb8122cc6ac36e186cd09bf7a9ded3a4c93c6989023"),
        "plots", "MIT",
        {"dist/uPlot.esm.js": ("uplot.js", "uplot"), "dist/uPlot.min.css": ("uplot.css", "")},
    ),
)  # fmt: skip


def vendor(folder: Path, fetched: Callable[[Part], Path]) -> dict[str, str]:
    """Write all files into `folder`. Each package's licence text, by its name. BuildError where a release has other files."""
    folder.mkdir(parents=True)
    names = {imported: name for library in LIBRARIES for name, imported in library.files.values() if imported}
    licenses = {}
    for library in LIBRARIES:
        with tarfile.open(fetched(library.part)) as tar:
            for member, (name, _) in library.files.items():
                text = _read(tar, library.part, member)
                (folder / name).write_text(linked(text, names, library.part), encoding="utf-8", newline="\n")
            licenses[library.part.name] = _read(tar, library.part, "LICENSE")
    return licenses


def linked(text: str, names: dict[str, str], part: Part) -> str:
    """A module that imports the others as files beside it, and names no source map, which is not there."""

    def path(match: re.Match[str]) -> str:
        before, quote, name = match.groups()
        if name not in names:
            raise BuildError(f"{part.name} {part.version} imports {name!r}, which is not vendored; see tools/web_vendor.py")
        return f"{before}{quote}./{names[name]}{quote}"

    return SOURCE_MAP.sub("\n", IMPORTED.sub(path, text))


def _read(tar: tarfile.TarFile, part: Part, member: str) -> str:
    try:
        content = tar.extractfile(f"package/{member}")
    except KeyError:
        content = None
    if content is None:
        raise BuildError(f"{part.file_name} has no {member}; see tools/web_vendor.py")
    return content.read().decode()
