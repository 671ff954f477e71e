"""web/index.html names what its first script needs, so that a browser fetches all of it at once."""

import re
from pathlib import Path

WEB = Path(__file__).resolve().parents[1] / "web"
IMPORT = re.compile(
    r"""^(?:import|export)\b[^;]*?\bfrom\s*"(\.[^"]+)"|^import\s*"(\.[^"]+)"|\(await import\("(\.[^"]+)"\)\)""", re.MULTILINE
)
VENDOR = "ui/vendor/"  # made by tools/build_web.py; what its modules need among themselves, index.html may name or not


def imported(name: str) -> set[str]:
    found = IMPORT.findall((WEB / name).read_text(encoding="utf-8"))
    folder = (WEB / name).parent
    return {(folder / (a or b or c)).resolve().relative_to(WEB).as_posix() for a, b, c in found}


def test_the_page_names_exactly_the_modules_that_it_needs():
    html = (WEB / "index.html").read_text(encoding="utf-8")
    scripts = re.findall(r'<script type="module" src="([^"]+)"', html)
    needed, todo = set(scripts), list(scripts)
    while todo:
        name = todo.pop()
        for one in imported(name) - needed:
            needed.add(one)
            if not one.startswith(VENDOR):
                todo.append(one)
    named = re.findall(r'<link rel="modulepreload" href="([^"]+)">', html) + scripts
    assert len(named) == len(set(named))
    assert {name for name in named if not name.startswith(VENDOR)} == {name for name in needed if not name.startswith(VENDOR)}
    assert {name for name in needed if name.startswith(VENDOR)} <= set(named)


def test_the_page_has_all_styles():
    html = (WEB / "index.html").read_text(encoding="utf-8")
    assert set(re.findall(r'<link rel="stylesheet" href="css/([^"]+)">', html)) == {path.name for path in WEB.glob("css/*.css")}
