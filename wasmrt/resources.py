"""Finds the files that ship with the package, in a checkout, an editable install and a wheel alike."""

from pathlib import Path

from wasmrt.errors import DeviceError, SourceError, UnsupportedError

PACKAGE = Path(__file__).resolve().parent
DATA = PACKAGE / "data"
SHADERS = PACKAGE.parent / "shaders"  # of a checkout; a wheel has them in the package
PAGES = PACKAGE.parent / "build" / "web", PACKAGE / "web"  # of a checkout, where it is built; of a wheel


def demo_model() -> Path:
    """The bundled model. Raises SourceError where a trimmed package has none."""
    path = DATA / "demo.gguf"
    if not path.is_file():
        raise SourceError(f"the demo model is not in this installation ({path}); name a GGUF file instead")
    return path


def kernels(build: str) -> Path:
    """The WebAssembly module of `build`: wasm64, wasm32 or plain. Raises DeviceError where it was never compiled."""
    path = PACKAGE / "device" / "wasm" / f"{build}.wasm"
    if not path.is_file():
        raise DeviceError(
            f"the {build} kernels are not in this installation ({path}); build them with: python tools/build_kernels.py"
        )
    return path


def script(name: str) -> Path:
    """The JavaScript file web/NAME.js. Raises UnsupportedError where it is missing."""
    for folder in (PACKAGE / "web", PACKAGE.parent / "web"):
        if (path := folder / f"{name}.js").is_file():
            return path
    raise UnsupportedError(f"the script {name!r} is not in this installation ({PACKAGE}); install wasmrt again")


def shader(name: str) -> Path:
    """The WGSL file shaders/NAME.wgsl. Raises DeviceError where it is missing."""
    for folder in (PACKAGE / "shaders", SHADERS):
        if (path := folder / f"{name}.wgsl").is_file():
            return path
    raise DeviceError(f"the shader {name!r} is not in this installation ({PACKAGE}); install wasmrt again")


def page() -> Path:
    """The folder of the page, with its scripts, Pyodide and the wheels. Raises SourceError where it was never built."""
    for folder in PAGES:
        if (folder / "pyodide" / "pyodide.mjs").is_file():  # a wheel may have the scripts alone
            return folder
    if (PACKAGE.parent / "tools" / "build_web.py").is_file():
        raise SourceError(f"the page was not built ({PAGES[0]}); build it with: make web")
    raise SourceError(f"the page is not in this installation ({PAGES[1]}); a checkout of wasmrt has it after: make web")
