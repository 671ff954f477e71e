"""tools/build_web.py: the page's folder is whole, pinned, reproducible, and no larger than a page needs."""

import ast
import base64
import hashlib
import io
import json
import re
import shutil
import stat
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from tests.conftest import skip_or_fail
from tools import build_web, web_compile, web_parts, web_wheels
from tools.web_parts import JINJA2, PARTS, PYODIDE, BuildError, fetch
from tools.web_vendor import LIBRARIES, linked
from wasmrt.errors import SourceError
from wasmrt.serve.headers import PAGE_POLICY
from wasmrt.serve.offline import SERVICE_WORKER, list_files

ROOT = Path(__file__).resolve().parents[1]
CACHE = ROOT / "build" / "cache"


@pytest.fixture(scope="module")
def page():
    """build/web, made where it is not up to date; which needs npm and a network the first time."""
    try:
        return build_web.build(ROOT)
    except BuildError as error:
        skip_or_fail("page", str(error))


@pytest.fixture(scope="module")
def wheels(page):
    """The wheels of the page by package: {name: {path in the wheel: content}}."""
    lock = json.loads((page / "pyodide" / "pyodide-lock.json").read_bytes())
    return {name: contents(page / "pyodide" / package["file_name"]) for name, package in lock["packages"].items()}


@pytest.fixture(scope="module")
def one_wheel(tmp_path_factory):
    out = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(out), str(ROOT)]
    subprocess.run(command, check=True, capture_output=True)
    (wheel,) = out.glob("*.whl")
    return wheel


def contents(archive):
    with zipfile.ZipFile(archive) as opened:
        return {name: opened.read(name) for name in opened.namelist()}


# What is in it


def test_the_folder_is_web_and_pyodide(page):
    """web/ as it is, but for a list; of Pyodide what runs; wheels, libraries, licences. Nothing of the build's own."""
    ours = {path.relative_to(ROOT / "web").as_posix() for path in (ROOT / "web").rglob("*") if path.is_file()}
    runtime = {"pyodide.mjs", "pyodide.asm.mjs", "pyodide.asm.wasm", "python_stdlib.zip", "pyodide-lock.json"}
    there = {path.relative_to(page).as_posix() for path in page.rglob("*") if path.is_file()}
    libraries = {f"ui/vendor/{name}" for library in LIBRARIES for name, _ in library.files.values()}
    names = {name.removeprefix("pyodide/") for name in there if name.startswith("pyodide/")}
    assert there - {f"pyodide/{name}" for name in names} == ours | libraries | {"THIRD_PARTY.txt"}
    assert {name for name in names if not name.endswith(".whl")} == runtime
    assert len(names) == len(runtime) + 3
    for name in ours - {SERVICE_WORKER}:
        assert (page / name).read_bytes() == (ROOT / "web" / name).read_bytes()


def test_the_service_worker_has_a_list_of_all_files(page):
    """With their digests, how they are answered, and nothing besides."""
    ours, there = ((folder / SERVICE_WORKER).read_text().splitlines() for folder in (ROOT / "web", page))
    (line,) = (line for line in there if line not in ours)
    assert [line for line in there if line.startswith("const LIST = ")] == [line]
    listed = json.loads(line.removeprefix("const LIST = ").removesuffix(";"))
    assert listed["files"] == {
        name: [hashlib.sha256(path.read_bytes()).hexdigest(), path.stat().st_size]
        for path in build_web.files_of(page)
        if (name := path.relative_to(page).as_posix()) != SERVICE_WORKER
    }
    assert {name.rpartition(".")[2] for name in listed["files"]} <= set(listed["types"])
    assert listed["headers"]["Cross-Origin-Embedder-Policy"] == "require-corp"
    assert listed["headers"]["Content-Security-Policy"] == PAGE_POLICY


def test_the_list_changes_with_any_file_and_nothing_else(tmp_path):
    """By it browsers see that there is another version."""
    worker = tmp_path / SERVICE_WORKER
    shutil.copy(ROOT / "web" / SERVICE_WORKER, worker)
    (tmp_path / "b.js").write_text("two")
    (tmp_path / "a.js").write_text("one")
    list_files(tmp_path, ["b.js", "a.js"])
    first = worker.read_bytes()
    list_files(tmp_path, ["a.js", "b.js"])
    assert worker.read_bytes() == first
    (tmp_path / "a.js").write_text("One")
    list_files(tmp_path, ["a.js", "b.js"])
    assert worker.read_bytes() != first
    list_files(tmp_path, ["a.js"])
    assert b"b.js" not in worker.read_bytes()


@pytest.mark.parametrize("text", ["", "const LIST = {};\nconst LIST = {};\n", None])
def test_a_service_worker_without_a_place_for_the_list_is_refused(tmp_path, text):
    if text is not None:
        (tmp_path / SERVICE_WORKER).write_text(text)
    with pytest.raises(SourceError, match=r"service-worker\.js.*build the page again"):
        list_files(tmp_path, [])


def test_pyodide_is_what_its_makers_released(page):
    """But for the standard library, which is compiled: the same modules."""
    with tarfile.open(fetch(PYODIDE, CACHE)) as tar:

        def released(name):
            return tar.extractfile(f"package/{name}").read()

        for name in ("pyodide.mjs", "pyodide.asm.mjs", "pyodide.asm.wasm"):
            assert (page / "pyodide" / name).read_bytes() == released(name)
        library = {name for name in contents(io.BytesIO(released("python_stdlib.zip"))) if not name.endswith("/")}
        assert {sources(name) for name in contents(page / "pyodide" / "python_stdlib.zip")} == library
        info = json.loads(released("pyodide-lock.json"))["info"]
    assert json.loads((page / "pyodide" / "pyodide-lock.json").read_bytes())["info"] == info


def sources(name):
    """The name of the .py file that a .pyc was made of; other names as they are."""
    return name[:-1] if name.endswith(".pyc") else name


def test_all_python_is_compiled(page, wheels):
    """Where there is node; then no source is left beside its module."""
    if not web_compile.can_compile():
        skip_or_fail("page", "node is not here")
    for files in (*wheels.values(), contents(page / "pyodide" / "python_stdlib.zip")):
        modules = [name for name in files if name.endswith((".py", ".pyc"))]
        assert modules
        assert all(name.endswith(".pyc") for name in modules)
    magic = {data[:4] for files in wheels.values() for name, data in files.items() if name.endswith(".pyc")}
    assert len(magic) == 1


def test_the_lock_file_names_the_wheels_beside_it_and_their_digests(page):
    packages = json.loads((page / "pyodide" / "pyodide-lock.json").read_bytes())["packages"]
    assert set(packages) == {"wasmrt", "jinja2", "markupsafe"}
    for name, package in packages.items():
        content = (page / "pyodide" / package["file_name"]).read_bytes()  # a name, so of the page's own origin
        assert package["sha256"] == hashlib.sha256(content).hexdigest()
        assert package["file_name"] == f"{name}-{package['version']}-py3-none-any.whl"
        assert package["imports"] == [name]
    assert {name: package["depends"] for name, package in packages.items()} == {
        "wasmrt": ["jinja2"],
        "jinja2": ["markupsafe"],
        "markupsafe": [],
    }


def test_every_wheel_is_pure_and_its_record_is_right(wheels):
    for name, files in wheels.items():
        (record,) = (path for path in files if path.endswith(".dist-info/RECORD"))
        lines = dict(line.split(",", 1) for line in files[record].decode().splitlines())
        assert lines.pop(record) == ","
        assert set(lines) == set(files) - {record}
        for path, line in lines.items():
            digest = base64.urlsafe_b64encode(hashlib.sha256(files[path]).digest()).decode().rstrip("=")
            assert line == f"sha256={digest},{len(files[path])}", (name, path)
        assert b"Root-Is-Purelib: true" in files[record.replace("RECORD", "WHEEL")]
        assert b"Tag: py3-none-any" in files[record.replace("RECORD", "WHEEL")]
        assert not [path for path in files if path.endswith((".c", ".pyi", ".so", ".pyd"))]


def test_markupsafe_does_without_its_c_part(wheels):
    modules = {sources(path) for path in wheels["markupsafe"] if path.startswith("markupsafe/")}
    assert modules == {"markupsafe/__init__.py", "markupsafe/_native.py"}


def test_licences_come_along(page, wheels):
    text = (page / "THIRD_PARTY.txt").read_text(encoding="utf-8")
    for part in PARTS:
        assert re.search(rf"(?i)\b{part.name} {re.escape(part.version)}\b", text), part.name
    for licence in ("Mozilla Public License Version 2.0", "PYTHON SOFTWARE FOUNDATION LICENSE VERSION 2"):
        assert licence in text
    for files in wheels.values():
        assert [path for path in files if ".dist-info/licenses/LICENSE" in path]


# The lean wheel


def holds(test):
    """Whether a condition holds in a page; None where that depends on more than the platform."""
    match test:
        case ast.Compare(
            left=ast.Attribute(attr="platform"), ops=[ast.Eq() | ast.NotEq() as op], comparators=[ast.Constant(name)]
        ):
            return (name == "emscripten") == isinstance(op, ast.Eq)
        case ast.Name("IN_PAGE") | ast.Attribute(attr="IN_PAGE"):
            return True
        case ast.Name("TYPE_CHECKING"):
            return False
    return None


def reached(block):
    """The statements of a block, and of the blocks in them, that a page may come to."""
    for statement in block:
        if isinstance(statement, ast.FunctionDef) and statement.name.startswith("_native"):
            continue  # called where a platform is chosen, beside its twin for a page
        known = holds(statement.test) if isinstance(statement, ast.If) else None
        yield statement
        if known is not False:
            yield from reached(getattr(statement, "body", []))
        if known is not True:
            yield from reached(getattr(statement, "orelse", []))
        for part in (*getattr(statement, "handlers", []), *getattr(statement, "cases", [])):
            yield from reached(part.body)
        yield from reached(getattr(statement, "finalbody", []))
        if known and isinstance(statement.body[-1], ast.Return | ast.Raise):
            return


# Not followed, though the walk comes by. remote: a page's open_source has left by then, unless it was given bytes. The others:
# how hub.py asks a hub natively; a page asks by its own fetch.
NOT_IN_A_PAGE = {"wasmrt.store.remote", "wasmrt.store.http", "wasmrt.store.http_rules"}


def reachable(*modules):
    """The files of the package that a page may import, also in functions, starting from these modules."""
    found, todo = set(), list(modules)
    while todo:
        name = todo.pop()
        path = next(
            (p for p in (ROOT / f"{name.replace('.', '/')}.py", ROOT / name.replace(".", "/") / "__init__.py") if p.is_file()),
            None,
        )
        if path is None or path in found or name in NOT_IN_A_PAGE:
            continue
        found.add(path)
        todo += [".".join(name.split(".")[:i]) for i in range(1, name.count(".") + 1)]
        for statement in reached(ast.parse(path.read_text(encoding="utf-8")).body):
            if isinstance(statement, ast.Import):
                todo += [alias.name for alias in statement.names]
            elif isinstance(statement, ast.ImportFrom):
                todo += [statement.module, *(f"{statement.module}.{alias.name}" for alias in statement.names)]
    return {path.relative_to(ROOT).as_posix() for path in found}


def test_the_lean_wheel_has_what_a_page_imports_and_nothing_else(wheels):
    """page is what our page starts, the rest what `wasmrt.open` and its like are taken from."""
    there = {sources(path) for path in wheels["wasmrt"] if path.endswith((".py", ".pyc"))}
    assert there == reachable("wasmrt", "wasmrt.page", "wasmrt.engine", "wasmrt.sync")
    assert "wasmrt/engine.py" in there
    assert not there & {"wasmrt/cli.py", "wasmrt/serve/app.py", "wasmrt/device/cpu_native.py", "wasmrt/device/reference.py"}


def test_the_lean_wheel_has_the_kernels_the_shaders_and_the_scripts_for_python(wheels):
    data = {path for path in wheels["wasmrt"] if not path.endswith((".py", ".pyc")) and ".dist-info/" not in path}
    shaders = {f"wasmrt/shaders/{path.name}" for path in (ROOT / "shaders").glob("*.wgsl")}
    kernels = {f"wasmrt/device/wasm/{build}.wasm" for build in ("wasm64", "wasm32", "plain")}
    scripts = data - shaders - kernels
    assert shaders | kernels <= data
    assert {f"wasmrt/web/{name}.js" for name in scripts_of_python()} <= scripts
    assert scripts <= {f"wasmrt/web/{path.name}" for path in (ROOT / "web").glob("*.js")}
    assert not scripts & {f"wasmrt/web/{name}.js" for name in ("main", "wasmrt", "engine-worker", "service-worker")}


def scripts_of_python():
    """The modules of web/ that Python loads or starts workers from, by name."""
    calls = re.compile(r"\b(?:load|module|script_url)\(([^)]*)\)")
    for path in (ROOT / "wasmrt").rglob("*browser*.py"):
        for call in calls.findall(path.read_text(encoding="utf-8")):
            yield from re.findall(r'"([\w-]+)"', call)


def test_python_calls_for_scripts_by_names_that_are_found():
    assert {"cpu", "cpu-worker", "memory", "gpu", "source", "prefetch-worker"} <= set(scripts_of_python())


def test_the_lean_wheel_keeps_the_version_and_the_requirements(wheels, one_wheel):
    def headers(files):
        (metadata,) = (data for path, data in files.items() if path.endswith(".dist-info/METADATA"))
        return metadata.decode().partition("\n\n")[0].strip().splitlines()

    assert headers(wheels["wasmrt"]) == headers(contents(one_wheel))
    assert not [path for path in wheels["wasmrt"] if path.endswith("entry_points.txt")]


def test_the_same_files_give_the_same_bytes(one_wheel, tmp_path):
    """Whatever their order and their times were."""
    other = tmp_path / one_wheel.name
    with zipfile.ZipFile(other, "w") as archive:
        for name, data in reversed(contents(one_wheel).items()):
            archive.writestr(zipfile.ZipInfo(name, (2020, 1, 2, 3, 4, 6)), data)
    assert web_wheels.page_wheel(other) == web_wheels.page_wheel(one_wheel)


@pytest.mark.slow
def test_a_release_wheel_serves_the_page(page, one_wheel, tmp_path):
    """It is the one wheel and the page, and what is installed from it finds the page there."""
    wheel = build_web.release_wheel(ROOT, page, tmp_path / "dist")
    assert wheel.name == one_wheel.name
    found, own = contents(wheel), contents(one_wheel)
    served = {f"wasmrt/web/{path.relative_to(page).as_posix()}": path.read_bytes() for path in build_web.files_of(page)}
    (record,) = (name for name in own if name.endswith(".dist-info/RECORD"))
    recorded = found.pop(record).decode().splitlines()
    assert {line.split(",")[0] for line in recorded} == {record, *found}
    own.pop(record)
    assert found == own | served
    target = tmp_path / "installed"
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "install", "--quiet", "--no-deps", "--no-index"]
    subprocess.run([*pip, "--target", str(target), str(wheel)], check=True)
    code = "import sys; sys.path.insert(0, sys.argv[1]); from wasmrt import resources; print(resources.page())"
    command = [sys.executable, "-c", code, str(target)]
    assert subprocess.run(command, check=True, capture_output=True, text=True, cwd=tmp_path).stdout.strip() == str(
        target / "wasmrt" / "web"
    )


@pytest.mark.slow
def test_two_builds_give_the_same_folder(page, tmp_path, monkeypatch):
    """The second compiles anew."""
    cache = tmp_path / "cache"
    shutil.copytree(CACHE, cache, ignore=shutil.ignore_patterns("pyc", "page-*"))
    monkeypatch.setattr(build_web, "STAMP", tmp_path / "stamp")
    build_web.make(ROOT, tmp_path / "web", cache)
    files = {path.relative_to(page): path.read_bytes() for path in build_web.files_of(page)}
    assert files == {path.relative_to(tmp_path / "web"): path.read_bytes() for path in build_web.files_of(tmp_path / "web")}


PROGRAM = """
import { pathToFileURL } from "node:url";
const [folder, ...modules] = process.argv.slice(2);
const { loadPyodide } = await import(pathToFileURL(folder + "/pyodide.mjs").href);
const python = await loadPyodide({ indexURL: folder, packages: ["wasmrt"] });
for (const name of modules) python.runPython(`import ${name}`);
console.log(python.runPython("import jinja2, markupsafe, wasmrt; ' '.join(m.__version__ for m in (wasmrt, jinja2))"));
console.log(python.runPython("markupsafe.escape.__module__ + ' ' + markupsafe._escape_inner.__module__"));
console.log(python.runPython("wasmrt.resources.kernels('plain').stat().st_size > 10_000"));
try { python.runPython("wasmrt.load()"); } catch (error) { console.log(String(error).trim().split("\\n").pop()); }
"""


def test_pyodide_loads_it_from_the_lock_file_and_every_module_can_be_imported(page, wheels, tmp_path):
    """Under node, without a browser; the browsers' own tests are in tests/browser."""
    node = shutil.which("node")
    if node is None:
        skip_or_fail("page", "node is not here")
    modules = sorted(
        sources(path)[:-3].removesuffix("/__init__").replace("/", ".")
        for path in wheels["wasmrt"]
        if path.endswith((".py", ".pyc"))
    )
    assert len(modules) > 60
    program = tmp_path / "program.mjs"
    program.write_text(PROGRAM)
    done = subprocess.run([node, program, page / "pyodide", *modules, "wasmrt.resources"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    import wasmrt

    versions, escape, kernels, load = done.stdout.splitlines()[-4:]
    assert versions == f"{wasmrt.__version__} {JINJA2.version}"
    assert escape == "markupsafe markupsafe._native"
    assert kernels == "true"
    assert load.startswith("wasmrt.errors.UnsupportedError: ")
    assert "await wasmrt.open" in load


# How it is made


@pytest.fixture
def client(tmp_path, monkeypatch):
    """A folder of programs that stands alone in PATH, and what puts one in."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder))

    def add(name, script):
        program = folder / name
        program.write_text(f"#!{sys.executable}\nimport sys\nfrom pathlib import Path\n{script}\n")
        program.chmod(program.stat().st_mode | stat.S_IXUSR)

    return add


unix = pytest.mark.skipif(sys.platform == "win32", reason="the client is a script")
# npm pack ... --pack-destination FOLDER NAME@VERSION
PACK = "folder = Path(sys.argv[sys.argv.index('--pack-destination') + 1])\n(folder / '{name}').write_bytes({content!r})"


@unix
def test_a_part_is_fetched_once(client, tmp_path, monkeypatch):
    content = b"what was released"
    part = web_parts.Part("some", "1.2", "npm", "some-1.2.tgz", "sha512", hashlib.sha512(content).hexdigest())
    client("npm", PACK.format(name="some-1.2.tgz", content=content))
    assert fetch(part, tmp_path).read_bytes() == content
    client("npm", "sys.exit('there is no network')")
    assert fetch(part, tmp_path).read_bytes() == content
    fetch(part, tmp_path).write_bytes(b"cut short")
    with pytest.raises(BuildError, match=r"npm could not fetch some 1\.2; check the network") as caught:
        fetch(part, tmp_path)
    assert "there is no network" in caught.value.output


@unix
def test_another_content_than_the_pinned_is_refused_and_not_kept(client, tmp_path):
    client("npm", PACK.format(name=PYODIDE.file_name, content=b"somebody's"))
    with pytest.raises(
        BuildError, match=r"^pyodide-.* has sha512 [0-9a-f]{16}\.\.\., not the pinned d18bd7c4485f11da"
    ) as caught:
        fetch(PYODIDE, tmp_path)
    assert "\n" not in str(caught.value)
    assert not [path for path in tmp_path.rglob("*") if path.name == PYODIDE.file_name]


@unix
def test_another_file_than_the_expected_is_named(client, tmp_path):
    client("npm", PACK.format(name="other.tgz", content=b""))
    with pytest.raises(BuildError, match=r"npm fetched other\.tgz where pyodide-"):
        fetch(PYODIDE, tmp_path)


def test_without_npm_it_says_which_package_has_it(client, tmp_path):
    with pytest.raises(BuildError, match=r"npm is not here.*sudo apt-get install npm$"):
        fetch(PYODIDE, tmp_path)


def test_every_pin_is_whole():
    """An exact version, and a digest of its algorithm's length."""
    for part in PARTS:
        assert re.fullmatch(r"\d+\.\d+\.\d+", part.version)
        assert len(part.digest) == 2 * hashlib.new(part.algorithm).digest_size
        assert part.version in part.file_name
    assert (PYODIDE.version, PYODIDE.algorithm) == ("314.0.7", "sha512")


def test_without_node_the_sources_stay_and_it_says_so(client, tmp_path, capsys):
    archive = tmp_path / "some.zip"
    archive.write_bytes(web_wheels.pack_zip({"some.py": b"x = 1\n"}))
    before = archive.read_bytes()
    web_compile.compile_archives([archive], tmp_path, tmp_path)
    assert archive.read_bytes() == before
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert "node is not here" in err


@pytest.fixture
def checkout(tmp_path):
    """A checkout with a finished page, as far as the stamp looks."""
    root = tmp_path / "checkout"
    for name in ("web/main.js", "wasmrt/engine.py", "shaders/rope.wgsl", "tools/web_licenses/X.txt", "tools/web_parts.py"):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)
    for name in ("pyproject.toml", "hatch_build.py", "LICENSE", "README.md"):
        (root / name).write_text(name)
    page = root / "build" / "web" / "pyodide" / "wheel.whl"
    page.parent.mkdir(parents=True)
    page.write_text("a wheel")
    (root / build_web.STAMP).write_bytes(build_web.stamp_of(build_web.input_hash(root), root / "build" / "web"))
    return root


@pytest.mark.parametrize(
    "name",
    ["web/main.js", "web/new.js", "wasmrt/engine.py", "wasmrt/new.py", "shaders/rope.wgsl", "tools/web_parts.py", "README.md",
     "pyproject.toml", "hatch_build.py", "tools/web_licenses/X.txt", "build/web/pyodide/wheel.whl", "build/web/new"],
)  # fmt: skip
def test_a_page_is_up_to_date_until_something_it_is_made_of_changes(checkout, name):
    assert build_web.up_to_date(checkout)
    assert build_web.build(checkout) == checkout / "build" / "web"
    (checkout / name).write_text("changed")
    assert not build_web.up_to_date(checkout)


@pytest.mark.parametrize("name", ["web/main.js", "build/web/pyodide/wheel.whl", "build/web.stamp"])
def test_a_page_that_lost_a_file_is_not_up_to_date(checkout, name):
    (checkout / name).unlink()
    assert not build_web.up_to_date(checkout)


def test_node_matters(checkout, monkeypatch):
    """With it, a page that was made without is compiled."""
    monkeypatch.setattr(build_web, "can_compile", lambda: not web_compile.can_compile())
    assert not build_web.up_to_date(checkout)


def test_what_python_leaves_behind_does_not_matter(checkout):
    cached = checkout / "wasmrt" / "__pycache__" / "engine.cpython-311.pyc"
    cached.parent.mkdir()
    cached.touch()
    assert build_web.up_to_date(checkout)


def test_a_second_build_says_that_it_waits(tmp_path, capsys, monkeypatch):
    (tmp_path / "build" / "cache").mkdir(parents=True)
    held = build_web.FileLock.acquire(tmp_path / "build" / "cache" / "web.lock")
    monkeypatch.setattr(build_web.time, "sleep", lambda _: held.release())
    monkeypatch.setattr(build_web, "up_to_date", lambda root: True)
    build_web.build(tmp_path)
    assert capsys.readouterr().err == "web: waiting for another build\nweb: up to date\n"


def test_an_error_is_one_line(monkeypatch, capsys):
    def fails(force):
        raise BuildError("npm could not fetch it", "what npm said\n")

    monkeypatch.setattr(build_web, "build", fails)
    assert build_web.main([]) == 1
    assert capsys.readouterr().err == "what npm said\nerror: npm could not fetch it\n"
    assert build_web.main(["--fast"]) == 2
    assert capsys.readouterr().err == "error: unknown arguments '--fast'; there are: --force, --wheel\n"


def test_a_library_that_imports_another_is_refused():
    """Rather than that the page asks for a file which is not there."""
    part = LIBRARIES[0].part
    assert linked('import{a as b}from"preact";\n//# sourceMappingURL=x.map', {"preact": "preact.js"}, part) == (
        'import{a as b}from"./preact.js";\n'
    )
    with pytest.raises(BuildError, match="imports 'left-pad', which is not vendored"):
        linked("import x from 'left-pad'", {}, part)
