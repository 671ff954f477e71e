"""axe-core, which looks for what people with a screen reader, a keyboard or weak eyes would stumble over."""

import functools
import tarfile
from typing import Any

from playwright.sync_api import Page

from tools.build_web import ROOT
from tools.web_parts import Part, fetch

AXE = Part(
    "axe-core", "4.14.1", "npm", "axe-core-4.14.1.tgz", "sha512",
    "1477dafa598d8d065f273d6af302aa203c02e83131707b7fa648cd41bd3d6b73"
    "4f8c22a0dab86ee6a6f64b8afbe804b214d36db85a2826965edfb3a0b9d546b5",
)  # fmt: skip
RUN = "async () => (await axe.run(document, { resultTypes: ['violations'] })).violations"
GRAVE = ("serious", "critical")


@functools.cache
def source() -> str:
    with tarfile.open(fetch(AXE, ROOT / "build" / "cache")) as tar:
        script = tar.extractfile("package/axe.min.js")
        assert script is not None
        return script.read().decode()


def grave_issues(page: Page) -> list[str]:
    """In words, what axe-core calls serious or critical in the page as it is now."""
    page.evaluate(source())  # the page's policy lets no script be added; what a debugger evaluates is not its matter
    found: list[dict[str, Any]] = page.evaluate(RUN)
    return [f"{issue['id']} ({issue['impact']}): {node['failureSummary']} in {node['html'][:200]}"
            for issue in found if issue["impact"] in GRAVE for node in issue["nodes"]]
