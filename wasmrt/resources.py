"""Finds the files that ship with the package, in a checkout, an editable install and a wheel alike."""

from pathlib import Path

from wasmrt.errors import SourceError

DATA = Path(__file__).resolve().parent / "data"


def demo_model() -> Path:
    """The bundled model. Raises SourceError where a trimmed package has none."""
    path = DATA / "demo.gguf"
    if not path.is_file():
        raise SourceError(f"the demo model is not in this installation ({path}); name a GGUF file instead")
    return path
