"""The page's JavaScript that Python needs: modules of web/, imported into this thread, and scripts of workers.

A page of ours says where its files are (globalThis.wasmrtScripts); elsewhere they are made of the texts in this package.

Python cannot import a module without evaluating JavaScript; a page that forbids that gives it globalThis.wasmrtImport, which is
`(url) => import(url)`. Nothing here works outside a page.
"""

import sys
from typing import Any

from wasmrt.errors import BudgetError, DeviceError, FormatError, SourceError, UnsupportedError, WasmrtError
from wasmrt.resources import script

IN_PAGE = sys.platform == "emscripten"
KINDS: dict[str, type[WasmrtError]] = {
    kind.__name__: kind for kind in (BudgetError, DeviceError, FormatError, SourceError, UnsupportedError)
}

_modules: dict[str, Any] = {}
_urls: dict[str, str] = {}


async def load(*names: str) -> None:
    """Import modules of web/ by name, each once. Raises UnsupportedError where the page does not allow it."""
    import js
    from pyodide.code import run_js

    for name in names:
        if name not in _modules:
            try:
                import_module = getattr(js, "wasmrtImport", None) or run_js("(url) => import(url)")
                _modules[name] = await import_module(script_url(name))
            except Exception as error:
                refused = f"this page does not let {name}.js be imported ({error})"
                raise UnsupportedError(f"{refused}; see docs/browser.md") from error


def module(name: str) -> Any:
    """A module that was loaded."""
    return _modules[name]


def script_url(name: str) -> str:
    """Where web/NAME.js is imported from, or a worker started."""
    import js
    from pyodide.ffi import to_js

    if base := getattr(js, "wasmrtScripts", None):
        return f"{base}{name}.js"
    if name not in _urls:
        options = to_js({"type": "text/javascript"}, dict_converter=js.Object.fromEntries)
        _urls[name] = js.URL.createObjectURL(js.Blob.new(to_js([script(name).read_text(encoding="utf-8")]), options))
    return _urls[name]


def translated(error: Exception, kind: type[WasmrtError] = DeviceError) -> WasmrtError:
    """What JavaScript threw, as an error of ours: of the class that it names, else of `kind`."""
    thrown = getattr(error, "js_error", error)
    text = str(getattr(thrown, "message", None) or error).splitlines()
    found = KINDS.get(str(getattr(thrown, "kind", "")), kind)
    line = " ".join(text)[:600]
    return SourceError(line, bool(getattr(thrown, "transient", False))) if found is SourceError else found(line)
