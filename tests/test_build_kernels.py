"""tools/build_kernels.py: the same bytes from the same sources, one line for whatever is wrong, and modules that run."""

import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import wasmtime
from wasmtime import _ffi as ffi

from tools import build_kernels
from tools.build_kernels import BUILDS, OUTPUTS, SOURCES, BuildError, build, up_to_date

ROOT = Path(__file__).resolve().parents[1]
NAMES = [b.name for b in BUILDS]
PAGE = 65536

# Two files, so that there is something to link; data and zeroed memory; a struct copied, a stack used, a lane of SIMD.
TOY = {
    "toy.h": """
#include <stddef.h>
#include <stdint.h>
#include <wasm_simd128.h>
#define EXPORT(name) __attribute__((export_name(#name)))
struct row { float x[64]; };
void fill(struct row *row, float value);
""",
    "fill.c": """
#include "toy.h"
void fill(struct row *row, float value) { for (int i = 0; i < 64; i++) row->x[i] = value; }
""",
    "toy.c": """
#include "toy.h"
static struct row last;
static const float table[4] = {1, 2, 4, 8};
EXPORT(lookup) float lookup(uint32_t i);
float lookup(uint32_t i) { return table[i & 3]; }
EXPORT(keep) float keep(struct row *row, float value);
float keep(struct row *row, float value) {
    struct row before = last, now;
    fill(&now, value);
    last = now;
    *row = before;
    return wasm_f32x4_extract_lane(wasm_f32x4_add(wasm_v128_load(now.x), wasm_v128_load(before.x)), 3);
}
#ifndef PLAIN
EXPORT(count) int32_t count(int32_t *at);
int32_t count(int32_t *at) { return __atomic_fetch_add(at, 1, __ATOMIC_SEQ_CST); }
EXPORT(madd) float madd(float a, float b, float c);
float madd(float a, float b, float c) {
    return wasm_f32x4_extract_lane(wasm_f32x4_relaxed_madd(wasm_f32x4_splat(a), wasm_f32x4_splat(b), wasm_f32x4_splat(c)), 0);
}
#endif
""",
}


class Shared(wasmtime.SharedMemory):
    """wasmtime-py passes the address of the pointer, where the pointer itself is meant."""

    def _as_extern(self):
        of = ffi.wasmtime_extern_union(sharedmemory=self.ptr())
        return ffi.wasmtime_extern_t(ffi.WASMTIME_EXTERN_SHAREDMEMORY, of)


def checkout(folder, **files):
    """A folder with what a build reads: the pin of the compiler and C files, the toy's unless others are named."""
    (folder / SOURCES).mkdir(parents=True)
    shutil.copy(ROOT / "pyproject.toml", folder)
    for name, text in {**TOY, **files}.items():
        (folder / SOURCES / name).write_text(text)
    return folder


def command_line(root, *arguments, python=(sys.executable,)):
    """The tool as it is called by hand, on the checkout that it lies in."""
    (root / "tools").mkdir(exist_ok=True)
    tool = shutil.copy(build_kernels.__file__, root / "tools")
    return subprocess.run([*python, tool, *arguments], capture_output=True, text=True, env={**os.environ, "PYTHONPATH": ""})


def outputs(root):
    return {name: (root / OUTPUTS / f"{name}.wasm").read_bytes() for name in NAMES}


@pytest.fixture(scope="module")
def toy(tmp_path_factory):
    root = checkout(tmp_path_factory.mktemp("toy"))
    build(root)
    return root


@pytest.fixture(scope="module")
def engine():
    config = wasmtime.Config()
    config.shared_memory = True
    return wasmtime.Engine(config)


def memory_for(engine, store, name, n_pages, max_pages):
    limits = wasmtime.Limits(n_pages, max_pages)
    if name == "plain":
        return wasmtime.Memory(store, wasmtime.MemoryType(limits))
    return Shared(engine, wasmtime.MemoryType(limits, is_64=name == "wasm64", shared=True))


def test_the_same_sources_give_the_same_bytes_in_any_folder(toy, tmp_path):
    """Neither a path nor a time gets in; nor what another build left in a cache."""
    other = checkout(tmp_path / "another, longer folder")
    build(other)
    assert outputs(other) == outputs(toy)
    build(other, force=True)
    assert outputs(other) == outputs(toy)
    for module in outputs(toy).values():
        assert str(toy).encode() not in module
        assert str(ROOT).encode() not in module
        assert b".debug_" not in module


def test_a_second_build_does_nothing_until_something_changes(tmp_path, capsys):
    root = checkout(tmp_path)
    assert not up_to_date(root)
    build(root)
    assert up_to_date(root)
    assert capsys.readouterr().out.startswith("kernels: wasm64 ")
    written = [(root / OUTPUTS / f"{name}.wasm").stat().st_mtime_ns for name in NAMES]
    build(root)
    assert capsys.readouterr().out == "kernels: up to date\n"
    assert [(root / OUTPUTS / f"{name}.wasm").stat().st_mtime_ns for name in NAMES] == written
    build(root, force=True)
    assert capsys.readouterr().out.startswith("kernels: wasm64 ")


@pytest.mark.parametrize("change", ["header", "new file", "file gone", "module cut", "module gone", "stamp gone", "compiler"])
def test_what_makes_a_build_stale(toy, tmp_path, change):
    root = tmp_path / "copy"
    shutil.copytree(toy, root)
    assert up_to_date(root)
    sources, module = root / SOURCES, root / OUTPUTS / "plain.wasm"
    if change == "header":
        (sources / "toy.h").write_text(TOY["toy.h"] + "// more\n")
    elif change == "new file":
        (sources / "more.c").write_text("")
    elif change == "file gone":
        (sources / "fill.c").unlink()
    elif change == "module cut":
        module.write_bytes(module.read_bytes()[:-1])
    elif change == "module gone":
        module.unlink()
    elif change == "stamp gone":
        (root / OUTPUTS / ".stamp").unlink()
    elif change == "compiler":
        project = (root / "pyproject.toml").read_text(encoding="utf-8")
        (root / "pyproject.toml").write_text(project.replace("ziglang==", "ziglang==1"), encoding="utf-8")
    assert not up_to_date(root)


def test_builds_at_once_leave_whole_modules(toy, tmp_path):
    root = checkout(tmp_path)
    with ThreadPoolExecutor(3) as pool:
        done = list(pool.map(lambda _: command_line(root, "--force"), range(3)))
    assert [d.returncode for d in done] == [0, 0, 0], done
    assert outputs(root) == outputs(toy)
    assert command_line(root).stdout == "kernels: up to date\n"
    assert sorted(path.name for path in (root / OUTPUTS).iterdir()) == sorted([".stamp", *(f"{name}.wasm" for name in NAMES)])


def test_a_broken_file_is_named_with_what_the_compiler_says(tmp_path):
    root = checkout(tmp_path, **{"bad.c": '#include "toy.h"\nint f(void);\nint f(void) { return g(1); }\n'})
    done = command_line(root)
    assert (done.returncode, done.stdout) == (1, "")
    said = done.stderr.splitlines()
    assert any(line.startswith("bad.c:3:") and "'g'" in line for line in said)
    assert said[-1] == "error: bad.c does not compile for wasm64"
    assert not (root / OUTPUTS).exists()


def test_a_warning_is_an_error(tmp_path):
    root = checkout(tmp_path, **{"bad.c": "static int unused(void) { return 1; }\n"})
    with pytest.raises(BuildError, match=r"bad\.c does not compile for wasm64") as caught:
        build(root)
    assert "unused" in caught.value.output


def test_an_undefined_function_is_an_error_and_not_an_import(tmp_path):
    """What is missing here is a libc's: the modules have none."""
    root = checkout(tmp_path, **{"bad.c": '__attribute__((export_name("f"))) float f(float x) { return __builtin_expf(x); }\n'})
    with pytest.raises(BuildError, match="the objects do not link for wasm64") as caught:
        build(root)
    assert "undefined symbol: expf" in caught.value.output


def test_a_failed_build_leaves_the_old_modules_and_stays_stale(toy, tmp_path):
    root = tmp_path / "copy"
    shutil.copytree(toy, root)
    (root / SOURCES / "bad.c").write_text("#error no\n")
    with pytest.raises(BuildError):
        build(root)
    assert outputs(root) == outputs(toy)
    assert not up_to_date(root)


def test_no_sources(tmp_path):
    root = checkout(tmp_path)
    for file in (root / SOURCES).iterdir():
        file.unlink()
    with pytest.raises(BuildError, match="there are no C files in"):
        build(root)


def test_a_missing_compiler_is_named_with_the_command_that_installs_it(tmp_path):
    """-S: a Python without site-packages."""
    root = checkout(tmp_path)
    done = command_line(root, python=[sys.executable, "-S"])
    assert (done.returncode, done.stdout) == (1, "")
    required = build_kernels.zig_requirement(ROOT)
    assert done.stderr == f'error: the C compiler is missing; install it with: pip install "{required}"\n'


def test_another_release_of_the_compiler_is_refused(tmp_path):
    """Its modules would be other bytes than everybody else's."""
    root = checkout(tmp_path)
    project = (root / "pyproject.toml").read_text(encoding="utf-8")
    (root / "pyproject.toml").write_text(project.replace("ziglang==", "ziglang==1"), encoding="utf-8")
    with pytest.raises(BuildError, match=r'which is not the pinned one: pip install "ziglang==10\.'):
        build(root)


def test_unknown_arguments_are_refused(capsys):
    assert build_kernels.main(["--fast"]) == 2
    assert capsys.readouterr().err == "error: unknown arguments '--fast'; there is: --force\n"


def test_the_pin_is_the_same_for_a_wheel_and_for_developers():
    import tomllib

    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    extras = project["project"]["optional-dependencies"]
    assert "wasmrt[web]" in extras["test"]
    assert build_kernels.zig_requirement(ROOT) in extras["web"]


@pytest.mark.parametrize("value", [0, 1, 127, 128, 300, 16384, 2**24, 2**48 - 1])
def test_leb128_there_and_back(value):
    encoded = build_kernels.to_leb128(value)
    assert build_kernels.leb128(b"xx" + encoded + b"\x80", 2) == (value, 2 + len(encoded))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("which", ["toy", "wasmrt"])
def test_a_module_imports_a_memory_and_nothing_else(engine, toy, which, name):
    """Which may have up to 4 GiB, or 2^40 bytes. Exported: functions, and where a host puts stacks and its own data."""
    path = (toy if which == "toy" else ROOT) / OUTPUTS / f"{name}.wasm"
    if which == "wasmrt":
        build()
    module = wasmtime.Module.from_file(engine, str(path))
    (memory,) = module.imports
    assert (memory.module, memory.name) == ("env", "memory")
    assert isinstance(memory.type, wasmtime.MemoryType)
    assert memory.type.is_64 == (name == "wasm64")
    assert memory.type.is_shared == (name != "plain")
    assert memory.type.limits.max == {"wasm64": 2**24, "wasm32": 2**16, "plain": None}[name]
    assert memory.type.limits.min * PAGE >= 65536
    exports = {e.name: e.type for e in module.exports}
    address = wasmtime.ValType.i64() if name == "wasm64" else wasmtime.ValType.i32()
    stack, base = exports.pop("__stack_pointer"), exports.pop("__heap_base")
    assert (stack.content, stack.mutable) == (address, True)
    assert (base.content, base.mutable) == (address, False)
    assert exports
    assert all(isinstance(kind, wasmtime.FuncType) for kind in exports.values())


@pytest.mark.parametrize("name", NAMES)
def test_modules_run_on_a_stack_of_the_hosts_choice(engine, toy, name):
    """Values in data, in zeroed memory and on the stack; a pushed value lies below the stack pointer that was set."""
    module = wasmtime.Module.from_file(engine, str(toy / OUTPUTS / f"{name}.wasm"))
    store = wasmtime.Store(engine)
    memory = memory_for(engine, store, name, 40, 80)
    exports = wasmtime.Instance(store, module, [memory]).exports(store)
    row = exports["__heap_base"].value(store) + 15 & ~15
    top = 39 * PAGE
    value = wasmtime.Val.i64(top) if name == "wasm64" else wasmtime.Val.i32(top)
    exports["__stack_pointer"].set_value(store, value)
    data = memory.data_ptr() if name != "plain" else memory.data_ptr(store)
    assert not any(data[top - 256 : top])
    assert exports["lookup"](store, 3) == 8.0
    assert exports["keep"](store, row, 1.5) == 1.5
    assert exports["keep"](store, row, 2.0) == 3.5
    assert bytes(data[row : row + 4]) == b"\0\0\xc0\x3f"
    assert any(data[top - 1024 : top])
    assert exports["__stack_pointer"].value(store) == top


@pytest.mark.parametrize("name", ["wasm64", "wasm32"])
def test_stores_share_one_memory(engine, toy, name):
    """A later instance does not clear what an earlier one wrote, growing reaches all, and each has its own stack pointer."""
    module = wasmtime.Module.from_file(engine, str(toy / OUTPUTS / f"{name}.wasm"))
    memory = memory_for(engine, None, name, 40, 80)
    at, stores = 30 * PAGE, [wasmtime.Store(engine) for _ in range(3)]
    instances = []
    for store in stores:
        exports = wasmtime.Instance(store, module, [memory]).exports(store)
        exports["keep"](store, at + 64, 1.0 + len(instances))
        assert exports["count"](store, at) == len(instances)
        instances.append(exports)
    # `last` is one variable for all of them: zeroed once, then what the previous instance left in it.
    assert bytes(memory.data_ptr()[at + 64 : at + 68]) == b"\0\0\0\x40"
    assert memory.grow(20) == 40
    assert memory.data_len() == 60 * PAGE
    for n, (store, exports) in enumerate(zip(stores, instances, strict=True)):
        assert exports["count"](store, 60 * PAGE - 4) == n
        with pytest.raises(wasmtime.Trap, match=r"wasm!count"):  # by its name
            exports["count"](store, 60 * PAGE)
    assert instances[0]["madd"](stores[0], 2.0, 3.0, 4.0) == 10.0


def test_a_stack_that_overflows_traps(engine, tmp_path):
    """It does not run down into data: it lies at the bottom of memory."""
    deep = """
#include "toy.h"
EXPORT(deep) float deep(int n);
float deep(int n) { struct row row; fill(&row, (float)n); return n ? deep(n - 1) + row.x[n & 63] : row.x[0]; }
"""
    root = checkout(tmp_path, **{"deep.c": deep})
    build(root)
    module = wasmtime.Module.from_file(engine, str(root / OUTPUTS / "plain.wasm"))
    store = wasmtime.Store(engine)
    memory = memory_for(engine, store, "plain", 4, 8)
    exports = wasmtime.Instance(store, module, [memory]).exports(store)
    assert exports["deep"](store, 200) == 200 * 201 / 2
    with pytest.raises(wasmtime.Trap, match=r"memory fault|out of bounds"):
        exports["deep"](store, 400)
    assert [exports["lookup"](store, i) for i in range(4)] == [1.0, 2.0, 4.0, 8.0]


def test_no_maximum_smaller_than_what_the_file_says_is_needed(engine, toy):
    """set_max_pages changes that one number: the module is whole after it, and 2^40 bytes is what it says."""
    module = (toy / OUTPUTS / "wasm64.wasm").read_bytes()
    small = build_kernels.set_max_pages(module, 100)
    assert wasmtime.Module(engine, small).imports[0].type.limits.max == 100
    assert build_kernels.set_max_pages(small, 2**24) == module
