"""Compile wasmrt/device/c/*.c to WebAssembly: `python tools/build_kernels.py [--force]`; see docs/kernels.md.

The same sources make three modules in wasmrt/device/wasm. The compiler is Zig's clang, the one release that pyproject.toml
pins, so the same sources give the same bytes everywhere. An editable install and a wheel run this too (hatch_build.py).
"""

import hashlib
import importlib.metadata
import importlib.util
import os
import subprocess
import sys
import tempfile
import time
import tomllib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SOURCES, OUTPUTS = Path("wasmrt", "device", "c"), Path("wasmrt", "device", "wasm")
PAGE = 1 << 16

# No fast-math and no contraction: a result depends on the source, not on what an optimizer finds. -g0 because Zig
# otherwise adds debug information, and the paths that are in it.
COMPILE = [
    *("-std=c17", "-O3", "-g0", "-ffreestanding", "-ffp-contract=off", "-fvisibility=hidden"),
    *("-Wall", "-Wextra", "-Werror"),
]
# The stack comes first, so that running past its end traps. Where instances share a memory, the host gives each a stack of
# its own by setting __stack_pointer. Function names are kept: they make traps readable.
LINK = [
    *("--no-entry", "--import-memory", "--gc-sections", "--fatal-warnings", "--stack-first", "-z", "stack-size=65536"),
    *("--export=__heap_base", "--export=__stack_pointer"),
]
# Every engine that has SIMD has these; with bulk_memory, copying a struct is an instruction and not a call of memcpy.
BASE = "mvp+simd128+bulk_memory+nontrapping_fptoint+sign_ext+mutable_globals"


@dataclass(frozen=True)
class Build:
    """One module: what it is compiled for, and the most pages its shared memory may have (None: unshared, no maximum)."""

    name: str
    arch: str
    cpu: str
    max_pages: int | None
    defines: tuple[str, ...] = ()


BUILDS = (
    Build("wasm64", "wasm64", BASE + "+relaxed_simd+atomics", 2**40 // PAGE),
    Build("wasm32", "wasm32", BASE + "+relaxed_simd+atomics", 2**32 // PAGE),
    Build("plain", "wasm32", BASE, None, ("-DPLAIN",)),
)
LINKER_MAX_PAGES = 2**34 // PAGE  # wasm-ld accepts no more; set_max_pages then writes what is meant


class BuildError(Exception):
    """Why there are no kernels, in one line; and what the compiler said."""

    def __init__(self, line: str, output: str = "") -> None:
        super().__init__(line)
        self.output = output


def main(arguments: list[str]) -> int:
    if set(arguments) - {"--force"}:
        print(f"error: unknown arguments {' '.join(arguments)!r}; there is: --force", file=sys.stderr)
        return 2
    try:
        build(force=bool(arguments))
    except BuildError as error:
        print(f"{error.output}error: {error}", file=sys.stderr)
        return 1
    return 0


def build(root: Path = ROOT, force: bool = False) -> None:
    """Make the modules of the checkout `root` unless they are up to date; print one line. Raises BuildError."""
    if not force and up_to_date(root):
        print("kernels: up to date", flush=True)
        return
    started = time.monotonic()
    zig = find_zig(root)
    inputs = input_hash(root)  # taken before compiling: after an edit in the meantime the stamp is stale, not wrong
    files = sorted((root / SOURCES).glob("*.c"))
    if not files:
        raise BuildError(f"there are no C files in {root / SOURCES}; is the checkout whole?")
    with tempfile.TemporaryDirectory(prefix="wasmrt-kernels-") as name, ThreadPoolExecutor(os.cpu_count()) as pool:
        scratch = Path(name)
        objects = {b: [pool.submit(compile_file, zig, b, file, scratch) for file in files] for b in BUILDS}
        try:
            modules = {b: link(zig, b, [job.result() for job in objects[b]], scratch) for b in BUILDS}
        finally:
            pool.shutdown(cancel_futures=True)  # after one error the rest need not run
    for b, module in modules.items():
        write(root / OUTPUTS / f"{b.name}.wasm", module)
    write(root / OUTPUTS / ".stamp", stamp(inputs, list(modules.values())))
    sizes = ", ".join(f"{b.name} {len(module) / 1000:.1f} kB" for b, module in modules.items())
    print(f"kernels: {sizes} from {len(files)} C files in {time.monotonic() - started:.1f} s", flush=True)


def up_to_date(root: Path = ROOT) -> bool:
    """Whether the modules are whole and made of the sources as they are now. Needs no compiler."""
    out = root / OUTPUTS
    try:
        modules = [(out / f"{b.name}.wasm").read_bytes() for b in BUILDS]
        return (out / ".stamp").read_bytes() == stamp(input_hash(root), modules)
    except FileNotFoundError:
        return False


def stamp(inputs: bytes, modules: list[bytes]) -> bytes:
    """It holds the outputs too, so that builds that run at once, or one that was cut short, cannot leave a mixture for good."""
    parts = [inputs, *(hashlib.sha256(module).digest() for module in modules)]
    return hashlib.sha256(b"".join(parts)).hexdigest().encode()


def input_hash(root: Path) -> bytes:
    """Of the sources, of this file with its flags, and of the compiler's release."""
    files = [*sorted((root / SOURCES).glob("*.[ch]")), Path(__file__)]
    digest = hashlib.sha256(zig_requirement(root).encode())
    for file in files:
        content = file.read_bytes()
        digest.update(f"\0{file.name} {len(content)}\0".encode() + content)
    return digest.digest()


def zig_requirement(root: Path) -> str:
    """The pin, as pyproject.toml has it: "ziglang==0.17.0"."""
    required = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["build-system"]["requires"]
    return str(next(r for r in required if r.startswith("ziglang")))


def find_zig(root: Path) -> str:
    """The compiler's path, from the package ziglang. Raises BuildError where it is missing or not the pinned release."""
    required = zig_requirement(root)
    spec = importlib.util.find_spec("ziglang")
    if spec is None or spec.origin is None:
        raise BuildError(f'the C compiler is missing; install it with: pip install "{required}"')
    found = importlib.metadata.version("ziglang")
    if f"ziglang=={found}" != required:
        raise BuildError(f'the C compiler is ziglang {found}, which is not the pinned one: pip install "{required}"')
    return str(Path(spec.origin).with_name("zig"))


def compile_file(zig: str, b: Build, file: Path, scratch: Path) -> Path:
    """One object. It is compiled by its name in its folder, so that no path gets into it."""
    out = scratch / f"{b.name}-{file.stem}.o"
    target = ["-target", f"{b.arch}-freestanding", f"-mcpu={b.cpu}", *b.defines]
    run(f"{file.name} does not compile for {b.name}", [zig, "cc", *target, *COMPILE, "-c", file.name, "-o", str(out)],
        file.parent, scratch)  # fmt: skip
    return out


def link(zig: str, b: Build, objects: list[Path], scratch: Path) -> bytes:
    """One module. A function that no file defines is an error: the modules import a memory and nothing else."""
    out = scratch / f"{b.name}.wasm"
    memory = []
    if b.max_pages is not None:
        memory = ["--shared-memory", f"--max-memory={min(b.max_pages, LINKER_MAX_PAGES) * PAGE}"]
    flags = [f"-m{b.arch}", *memory, *LINK]
    # Not `zig cc -Wl,...`: that reads --max-memory as 32 bits.
    command = [zig, "wasm-ld", *flags, *(o.name for o in objects), "-o", out.name]
    run(f"the objects do not link for {b.name}", command, scratch, scratch)
    module = out.read_bytes()
    return module if b.max_pages is None else set_max_pages(module, b.max_pages)


def run(failure: str, command: list[str], folder: Path, scratch: Path) -> None:
    # A cache that goes with the build: always writable, and nobody else's. A cold one costs nothing that can be measured.
    cache = {"ZIG_GLOBAL_CACHE_DIR": str(scratch / "cache"), "ZIG_LOCAL_CACHE_DIR": str(scratch / "cache")}
    done = subprocess.run(command, cwd=folder, env={**os.environ, **cache}, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    if done.returncode:
        raise BuildError(failure, done.stdout.decode(errors="replace"))


def set_max_pages(module: bytes, pages: int) -> bytes:
    """The module with another maximum on the memory that it imports, which must have one.

    Format: WebAssembly core specification, binary format; section 2 is the imports, and limits are flags, minimum, maximum.
    """
    at = 8
    while module[at] != 2:
        size, start = leb128(module, at + 1)
        at = start + size
    size, start = leb128(module, at + 1)
    field = b"\x03env\x06memory\x02"
    flags = module.index(field, start, start + size) + len(field)
    _, maximum = leb128(module, flags + 1)
    _, rest = leb128(module, maximum)
    body = module[start:maximum] + to_leb128(pages) + module[rest : start + size]
    return module[: at + 1] + to_leb128(len(body)) + body + module[start + size :]


def leb128(data: bytes, at: int) -> tuple[int, int]:
    """An unsigned number, seven bits a byte with the lowest first, and the offset after it."""
    value = shift = 0
    while True:
        byte = data[at]
        value |= (byte & 127) << shift
        at, shift = at + 1, shift + 7
        if byte < 128:
            return value, at


def to_leb128(value: int) -> bytes:
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    return bytes([*out, value])


def write(path: Path, content: bytes) -> None:
    """In one step, so that nobody reads half a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    temporary.write_bytes(content)
    os.replace(temporary, path)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
