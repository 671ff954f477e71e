"""Build hook: a wheel and an editable install come with the WebAssembly kernels; the sdist has their sources.

The shaders and the page lie beside the package in a checkout and inside it in a wheel. An editable install uses the checkout's:
a copy would grow old.
"""

import runpy
import sys
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

BESIDE = ("shaders/*.wgsl", "web/*.js", "web/*.html", "web/*.css")


class KernelsHook(BuildHookInterface[Any]):
    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Run tools/build_kernels.py; its message is what a failed build ends with. version: standard or editable."""
        script = Path(self.root, "tools", "build_kernels.py")
        if code := runpy.run_path(str(script))["main"]([]):
            sys.exit(code)
        if version != "editable":
            files = [path for pattern in BESIDE for path in sorted(Path(self.root).glob(pattern))]
            build_data["force_include"].update({str(path): f"wasmrt/{path.parent.name}/{path.name}" for path in files})
