"""Build hook: a wheel and an editable install come with the WebAssembly kernels; the sdist has their sources."""

import runpy
import sys
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class KernelsHook(BuildHookInterface[Any]):
    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Run tools/build_kernels.py; its message is what a failed build ends with."""
        script = Path(self.root, "tools", "build_kernels.py")
        if code := runpy.run_path(str(script))["main"]([]):
            sys.exit(code)
