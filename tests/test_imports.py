"""What importing costs: the layers of the package point one way, and the page needs no numpy."""

import ast
import subprocess
import sys
from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[1] / "wasmrt"

# From the top down; a module may import those before it and its own neighbours.
LAYERS = (
    ("errors", "resources", "options", "browser"),
    ("gguf",),
    ("tokenizer",),
    ("store",),
    ("program",),
    ("device",),
    ("model",),
    ("sampling", "draft"),
    ("generate",),
    ("text",),
    ("speed",),
    ("fit",),
    ("engine",),
    ("planning",),
    ("sync", "page"),
    ("inspect", "bench", "doctor", "pull"),
    ("serve",),
    ("export",),
    ("cli",),
    ("__main__", "__init__"),
)
# Where numpy may be imported: what defines the formats and the ops. (sync.logits makes an array where numpy is.)
NUMPY = {
    "device/reference.py", "device/reference_device.py", "sync.py", "gguf/quants/__init__.py",
    *(f"gguf/quants/{name}.py" for name in ("block", "iq", "k", "legacy", "plain", "ternary")),
}  # fmt: skip


def imports(path):
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module


def test_imports_point_up():
    """No part imports one that stands below it, so that each can be read with what came before."""
    rank = {name: i for i, names in enumerate(LAYERS) for name in names}
    for path in PACKAGE.rglob("*.py"):
        mine = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
        for module in imports(path):
            if module.startswith("wasmrt."):
                other = module.split(".")[1]
                assert rank[other] <= rank[mine], f"{path} imports {module}"


def test_numpy_stays_where_it_belongs():
    """What runs in a page does without it."""
    paths = [p for p in PACKAGE.rglob("*.py") if any(module.split(".")[0] == "numpy" for module in imports(p))]
    users = {p.relative_to(PACKAGE).as_posix() for p in paths}
    assert users == NUMPY


def test_inspect_needs_no_device():
    """Whether a file will run is decided by what the devices have in common, without making one."""
    code = (
        "import asyncio, sys\n"
        "for name in ('numpy', 'wasmtime', 'wgpu', 'tqdm', 'psutil'):\n"
        "    sys.modules[name] = None\n"
        "from wasmrt.inspect import describe\n"
        "from wasmrt.resources import demo_model\n"
        "found = asyncio.run(describe(demo_model()))\n"
        "assert found['runs'], found['why_not']\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_import_wasmrt_needs_nothing_else():
    """`import wasmrt` succeeds with every third-party package hidden, and is quick because it imports none of them."""
    code = (
        "import sys\n"
        "for name in ('numpy', 'jinja2', 'psutil', 'tqdm', 'wgpu', 'wasmtime', 'starlette'):\n"
        "    sys.modules[name] = None\n"
        "import wasmrt\n"
        "assert wasmrt.FormatError\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
