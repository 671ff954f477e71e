"""All checks in turn: ruff, mypy, shaders, pytest. `python tools/check.py [pytest arguments]` stops at the first that fails.

Tests in browsers run by themselves: what they wait for is other processes, which other tests would keep waiting.
"""

import os
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
BROWSERS = "tests/browser"


def main(pytest_arguments: list[str]) -> int:
    workers = str(os.cpu_count() or 1)
    pytest = ["pytest", "-n", workers, "--dist", "loadgroup", "--durations=20", "--durations-min=5"]
    checks = {"ruff": ["ruff", "check", "."], "mypy": ["mypy"], "wgsl": ["tools.lint_wgsl"]}
    if pytest_arguments:
        checks["pytest"] = [*pytest, *pytest_arguments]
    else:
        checks |= {"pytest": [*pytest, f"--ignore={BROWSERS}"], "browsers": [*pytest, BROWSERS]}
    for name, command in checks.items():
        started = time.monotonic()
        print(f"== {name}", flush=True)
        code = subprocess.run([sys.executable, "-m", *command], cwd=ROOT).returncode
        print(f"== {name}: {'ok' if code == 0 else 'FAILED'} in {time.monotonic() - started:.0f} s", flush=True)
        if code:
            return code
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
