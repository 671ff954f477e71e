"""Finds the files that ship with the package, in a checkout, an editable install and a wheel alike."""

from pathlib import Path

from wasmrt.errors import DeviceError, SourceError

PACKAGE = Path(__file__).resolve().parent
DATA = PACKAGE / "data"
SHADERS = PACKAGE.parent / "shaders"  # of a checkout; a wheel has them in the package


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


def shader(name: str) -> Path:
    """The WGSL file shaders/NAME.wgsl. Raises DeviceError where it is missing."""
    for folder in (PACKAGE / "shaders", SHADERS):
        if (path := folder / f"{name}.wgsl").is_file():
            return path
    raise DeviceError(f"the shader {name!r} is not in this installation ({PACKAGE}); install wasmrt again")
