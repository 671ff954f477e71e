"""Make .venv and install wasmrt into it: `python3 tools/setup.py [demo|web|test]`. Needs nothing but Python 3.11 or newer.

Quick when nothing has changed: a stamp in .venv holds what it was made from, one beside the WebAssembly kernels what they
were made from. Some things come from the system: on Debian and Ubuntu the venv module, npm, through which the page gets
Pyodide, the browsers of the tests, and Mesa's software Vulkan, on which the tests of the GPU device run where there is no GPU.
They are installed where that is permitted, and otherwise named.
"""

import hashlib
import os
import runpy
import shutil
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
VENV = ROOT / ".venv"
BIN = VENV / ("Scripts" if os.name == "nt" else "bin")
KERNELS = ROOT / "tools" / "build_kernels.py"
# Where the Vulkan loader looks for drivers; lvp is Mesa's lavapipe, which computes on the CPU.
VULKAN_DRIVERS = tuple(Path(folder, "vulkan", "icd.d") for folder in ("/usr/share", "/usr/local/share", "/etc"))
MESA = "mesa-vulkan-drivers"  # brings the loader (libvulkan1) with it
# Each needs what those before it need, and more.
EXTRAS = {"demo": "", "web": "[web]", "test": "[test]"}
NPM = {"npm": "npm"}
# What the tests of the page run, by package: a program on the PATH, or a file that some folder of libraries has.
BROWSERS = {
    "chromium": "chromium",
    "firefox-esr": "firefox-esr",
    "webkit2gtk-driver": "*/webkit2gtk-4.1/MiniBrowser",
    "xvfb": "Xvfb",  # MiniBrowser wants a display
}
LIBRARIES = Path("/usr/lib")


def main(kind: str) -> None:
    if sys.version_info < (3, 11):  # noqa: UP036  whoever has an older Python meets this file first
        sys.exit(f"error: wasmrt needs Python 3.11 or newer, this is {sys.version.split()[0]}; set PYTHON=python3.x for make")
    if kind not in EXTRAS:
        sys.exit(f"error: unknown set-up {kind!r}; there is: {', '.join(EXTRAS)}")
    install(kind)
    if kind == "web":
        system_packages("the page needs npm, through which Pyodide comes", missing(NPM))
    if kind == "test":
        wanted = missing({**NPM, **BROWSERS}) if sys.platform.startswith("linux") else []
        system_packages("tests of the page need browsers, and npm, through which Pyodide comes", wanted)
        software_vulkan()


def install(kind: str) -> None:
    """The package and what `kind` needs beside it, into .venv."""
    wanted = fingerprint()
    stamps = {k: VENV / f"wasmrt-{k}.stamp" for k in EXTRAS}
    installed = {k for k in EXTRAS if stamps[k].is_file() and stamps[k].read_text() == wanted}
    kinds = list(EXTRAS)
    if installed & set(kinds[kinds.index(kind) :]):
        if kernels_are_current():
            return
        if installed - {"demo"}:  # the compiler is there
            if code := subprocess.run([str(BIN / python_name()), str(KERNELS)]).returncode:
                sys.exit(code)
            return
    started = time.monotonic()
    if not usable():
        say(f"creating {VENV.name} with Python {sys.version.split()[0]}")
        shutil.rmtree(VENV, ignore_errors=True)
        create_venv()
    say(f"installing wasmrt{EXTRAS[kind]} into {VENV.name}")  # which compiles the kernels, see hatch_build.py
    pip("install", "--editable", f".{EXTRAS[kind]}")
    stamps[kind].write_text(wanted)
    say(f"set-up took {time.monotonic() - started:.0f} s")


def fingerprint() -> str:
    """What an installation depends on: the project's metadata, the interpreter, and where the checkout lies."""
    facts = [(ROOT / "pyproject.toml").read_bytes(), sys.version.encode(), str(ROOT).encode()]
    return hashlib.sha256(b"\0".join(facts)).hexdigest()


def kernels_are_current() -> bool:
    """Whether the modules are made of the C files as they are now: a pull or an edit changes those without the metadata."""
    return bool(runpy.run_path(str(KERNELS))["up_to_date"]())


def usable() -> bool:
    """Whether .venv is whole and of this Python: not the rest of an interrupted attempt, nor another version's."""
    check = [str(BIN / python_name()), "-c", "import pip, sys; print(sys.version)"]
    try:
        done = subprocess.run(check, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    except OSError:
        return False
    return done.returncode == 0 and done.stdout.strip() == sys.version


def create_venv() -> None:
    if run(sys.executable, "-m", "venv", str(VENV), quiet=True):
        return
    shutil.rmtree(VENV, ignore_errors=True)
    package = f"python{sys.version_info.major}.{sys.version_info.minor}-venv"
    if may_install():
        say(f"this Python has no venv module: installing {package}")
        if not apt_install(package) and run(sys.executable, "-m", "venv", str(VENV)):
            return
    sys.exit(f"error: {sys.executable} cannot make a virtual environment; on Debian or Ubuntu: sudo apt-get install {package}")


def software_vulkan() -> None:
    """See to it that there is something to run shaders on. Without it their tests are skipped, so this stops nothing."""
    if not sys.platform.startswith("linux"):  # the others come with Metal or Direct3D
        return
    if any(any(folder.glob("lvp_icd*.json")) for folder in VULKAN_DRIVERS) or has_adapter():
        return
    system_packages("tests of the GPU device need a GPU or Mesa's software Vulkan", [MESA])


def missing(packages: dict[str, str]) -> list[str]:
    """Those whose program or file is not here."""
    return [name for name, what in packages.items() if not (shutil.which(what) or ("*" in what and any(LIBRARIES.glob(what))))]


def system_packages(why: str, packages: list[str]) -> None:
    """Install them where that is permitted. Those that are not are named with the command that does it; this stops nothing."""
    if packages and may_install():
        say(f"installing {', '.join(packages)}")
        packages = apt_install(*packages)
    if packages:
        say(f"{why}; on Debian or Ubuntu: sudo apt-get install {' '.join(packages)}")


def has_adapter() -> bool:
    """Whether the device would find a GPU."""
    code = "import sys; from wasmrt.device.gpu_native import adapters; sys.exit(not adapters())"
    return run(str(BIN / python_name()), "-c", code, quiet=True)


def may_install() -> bool:
    return shutil.which("apt-get") is not None and hasattr(os, "geteuid") and os.geteuid() == 0


def apt_install(*packages: str) -> list[str]:
    """Those that could not be installed: one by one, as not every system has all."""
    if not run("apt-get", "update", "-q"):  # a fresh machine or container has no index
        return list(packages)
    return [name for name in packages if not run("apt-get", "install", "-q", "-y", name)]


def pip(*arguments: str) -> None:
    command = [str(BIN / python_name()), "-m", "pip", "--disable-pip-version-check", "--quiet", *arguments]
    if subprocess.run(command, cwd=ROOT).returncode:
        sys.exit("error: pip could not install what is needed (its message is above); check the network and run make again")


def run(*command: str, quiet: bool = False) -> bool:
    """Run a command, its output shown only if it fails (never, if quiet). It is asked nothing."""
    env = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    done = subprocess.run(command, cwd=ROOT, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if done.returncode and not quiet:
        print(done.stdout, file=sys.stderr)
    return done.returncode == 0


def python_name() -> str:
    return "python.exe" if os.name == "nt" else "python"


def say(text: str) -> None:
    print(f"wasmrt: {text}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "demo")
