"""The page's modules under node, where there is no page: for what of them is pure."""

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

from tests.conftest import skip_or_fail


def node() -> str:
    """The program; a visible skip where it is not installed."""
    found = shutil.which("node")
    return found or skip_or_fail("page", "node is not here")


def run_beside(folder: Path, head: str, body: str) -> Any:
    """What the body of an async function returns, in a module of `folder` that begins with `head`; bigints are text, "7n"."""
    program = folder / "program.mjs"
    program.write_text(
        f"{head}\nasync function main() {{\n{body}\n}}\n"
        "const bigints = (_, value) => (typeof value === 'bigint' ? `${value}n` : value);\n"
        "const text = JSON.stringify((await main()) ?? null, bigints);\n"
        "process.stdout.write(text, () => process.exit());\n",  # what polls would go on
        encoding="utf-8",
    )
    done = subprocess.run([node(), program], capture_output=True, encoding="utf-8", timeout=60)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout)
