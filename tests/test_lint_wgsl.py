"""tools/lint_wgsl.py: each trap is found where it stands, and what looks like it is let pass."""

import subprocess
import sys
from pathlib import Path

import pytest

from tools import lint_wgsl
from tools.lint_wgsl import lint

ROOT = Path(__file__).resolve().parents[1]

COMMON = """// What every kernel begins with.
struct State { n_tokens: u32 }
@group(0) @binding(1) var<uniform> state: State;
const HALF: u32 = 4096u;
"""
SUM = """// Sums over a workgroup.
var<workgroup> part: array<f32, 64>;
fn group_sum(tid: u32, x: f32) -> f32 {
    part[tid] = x;
    workgroupBarrier();
    return workgroupUniformLoad(&part[0]);
}
fn apart(tid: u32) -> f32 { return f32(tid); }
fn twice(tid: u32, x: f32) -> f32 { return 2.0 * group_sum(tid, x); }
"""
OTHERS = {"common": COMMON, "sum": SUM}

HEAD = """// op: y = x
struct Params { n: u32, m: u32 }
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(2) var<storage, read> x: array<f32>;
@group(0) @binding(3) var<storage, read_write> y: array<f32>;
override WG: u32 = 64;
var<workgroup> t: array<f32, WG>;
"""
MAIN = """@compute @workgroup_size(WG)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) tid: u32) {
    %s
}
"""


def found(code, name="op"):
    return lint(name, code, OTHERS)


def in_main(body, more=""):
    """What is found in a kernel with this body; its lines count from 1."""
    before = HEAD + more + MAIN.partition("%s")[0]
    return [(line - before.count("\n"), what.split(":")[0]) for line, what in found(HEAD + more + MAIN % body)]


def test_a_good_kernel_passes():
    assert in_main("y[group.x] = group_sum(tid, x[tid]);") == []


@pytest.mark.parametrize(
    ("bad", "what"),
    [
        ("fn f(p: ptr<function, f32>) -> f32 { return *p; }", "pointer type"),
        ("fn f(v: u32) -> f32 { return f32(bitcast<vec2<f16>>(v).x); }", "bitcast to f16"),
        ("fn f() { var v: vec4<f32>; v.xy = vec2<f32>(); }", "swizzle assignment"),
        ("fn f() { var v: vec4<f32>; v.rgb += vec3<f32>(); }", "swizzle assignment"),
        ("fn f() { var v: vec4<u32>; v.zw <<= vec2<u32>(1u); }", "swizzle assignment"),
        ("var<workgroup> a: atomic<f32>;", "atomic<f32>"),
        ("var<immediate> a: u32;", "immediates"),
        ("var<push_constant> a: u32;", "immediates"),
        ("enable f16;", "directive"),
        ("requires readonly_and_readwrite_storage_textures;", "directive"),
        ("diagnostic(off, derivative_uniformity);", "diagnostic"),
        ("@diagnostic(off, subgroup_uniformity) fn f() {}", "diagnostic"),
        ("fn f() -> bool { return subgroupElect(); }", "subgroupElect"),
        ("fn f(v: f32) -> f32 { return subgroupAdd(v); }", "subgroupAdd"),
        ("fn f(v: f32) -> f32 { return quadBroadcast(v, 1u); }", "quadBroadcast"),
        ("fn f(v: f32) -> f32 { return f32(f16(v)); }", "f16"),
        ("const ONE = 1.0h;", "1.0h"),
        ("fn f() { g(&t[1]); }", "address as argument"),
        ("fn f() { g(1u, &t); }", "address as argument"),
        ("var<workgroup> big: array<vec4<f32>, 1025>;", "16656 bytes of workgroup memory"),
        ("const N = 2 * 512 + 1; var<workgroup> big: array<vec4<f32>, N>;", "16656 bytes of workgroup memory"),
        ("var<workgroup> big: array<f32, HALF>;", "16640 bytes of workgroup memory"),
        ("var<workgroup> big: array<array<f32, 64 + 1>, 64>;", "16896 bytes of workgroup memory"),
        ("struct S { a: vec4<f32>, b: array<u32, 4> } var<workgroup> big: array<S, 513>;", "16672 bytes of workgroup memory"),
        ("@compute @workgroup_size(257) fn g() {}", "257 threads in a workgroup"),
        ("@compute @workgroup_size(16, 32) fn g() {}", "512 threads in a workgroup"),
        ("@compute @workgroup_size(WG * 8) fn g() {}", "512 threads in a workgroup"),
        ("@group(0) @binding(5) var<storage, read> z: array<f32>;", "binding 5 after 3"),
        ("@group(0) @binding(3) var<storage, read> z: array<f32>;", "binding 3 after 3"),
        ("@group(1) @binding(4) var<storage, read> z: array<f32>;", "binding"),
        ("@group(0) @binding(4)\nvar<storage, read> z: array<f32>;", "binding"),
        ("@group(0) @binding(4) var<storage,read> z: array<f32>;", "binding"),
        ("fn f() { for (var i = 0u; i < 4u; i++) { var a: array<f32, 4>; } }", "array without a value in a loop"),
        ("fn f() {", "brackets"),
    ],
)
def test_a_trap_is_found(bad, what):
    line = HEAD.count("\n") + 1
    got = [(n, text.split(":")[0]) for n, text in found(HEAD + bad + "\n" + MAIN % "")]
    if what == "brackets":
        assert got == [(1, what)]
    else:
        assert (line, what) in got


@pytest.mark.parametrize(
    "good",
    [
        "// enable f16; ptr<function, f32> v.xy = 1; subgroupAdd(1)",
        "/* a /* nested */ bitcast<vec2<f16>>(1u)\n v.xy = 2; */",
        "const enabled = 1; const requires_more = 2;",
        "fn f(v: vec4<f32>) -> bool { return v.x == 1.0 || all(v.xy == v.zw) || v.x <= 2.0; }",
        "fn f() { var v: vec4<f32>; v.x = 1.0; v.y += v.xz.x; v[2] = 1.0; }",
        "fn f(v: u32) -> vec2<f32> { return unpack2x16float(v) + bitcast<vec2<f32>>(vec2<u32>(v)); }",
        "var<workgroup> c: array<atomic<u32>, 4>; fn f(i: u32) { atomicAdd(&c[i], 1u); }",
        "fn f() -> u32 { return arrayLength(&x) & (params.n & 3u); }",
        "fn f(a: u32, b: u32) -> u32 { return min(a & b, b) & select(1u, a, a > 0u && b > 0u); }",
        "fn f() -> f32 { return workgroupUniformLoad(&t[0]); }",
        "var<workgroup> big: array<vec4<f32>, 1008>;",
        "var<workgroup> unknown: array<vec4<f32>, ELSEWHERE>;",
        "override N: u32; var<workgroup> unknown: array<vec4<f32>, N>;",
        "@compute @workgroup_size(16, 16) fn g() {}",
        "@compute @workgroup_size(UNKNOWN) fn g() {}",
        "fn f() {\n    const HALF = 9999;\n}\nvar<workgroup> big: array<f32, HALF - 64>;",
        "@group(0) @binding(4) var<storage, read> z: array<vec4<u32>>;  // packed",
        "fn f() { for (var i = 0u; i < 4u; i++) { var a = array<f32, 4>(); var b: f32; } var c: array<f32, 4>; }",
        "const a = 0x1fu; const f16s = 1; fn load_f16() {}",
    ],
)
def test_what_looks_like_a_trap_passes(good):
    assert found(HEAD + good + "\n" + MAIN % "") == []


def test_features_belong_to_files_that_name_them():
    kernel = MAIN % "y[tid] = subgroupAdd(f32(f16(x[tid])));"
    for name, what in {"op_subgroup": ["f16"], "op_f16": ["subgroupAdd"], "op_f16_subgroup": []}.items():
        code = HEAD.replace("// op:", f"// {name}:") + kernel
        assert [text.split(":")[0] for _, text in found(code, name)] == what


def test_at_most_eight_storage_buffers():
    more = "".join(f"@group(0) @binding({n}) var<storage, read> b{n}: array<f32>;\n" for n in range(4, 10))
    assert found(HEAD + more + MAIN % "") == []
    more += "@group(0) @binding(10) var<storage, read> b10: array<f32>;\n"
    assert [text for _, text in found(HEAD + more + MAIN % "")] == ["storage buffer 9: some GPUs have room for 8"]


def test_a_helper_may_fill_a_gap():
    weights = {**OTHERS, "q4_k": "// Q4_K blocks.\n@group(0) @binding(2) var<storage, read> w: array<vec4<u32>>;\n"}
    code = "".join(line for line in HEAD.splitlines(keepends=True) if "binding(2)" not in line) + MAIN % ""
    assert lint("op", code, weights) == []
    assert [text.split(":")[0] for _, text in found(code)] == ["binding 3 after 0"]


@pytest.mark.parametrize(("first", "ok"), [("// op: y = x", True), ("// y = x", False), ("", False), ("// other: y", False)])
def test_a_kernel_says_what_it_is(first, ok):
    code = first + HEAD.removeprefix("// op: y = x") + MAIN % ""
    assert [line for line, _ in found(code)] == ([] if ok else [1])


def test_a_file_of_helpers_says_what_it_is_for():
    assert found("// Sums.\nfn f() {}\n", "sums") == []
    assert [line for line, _ in found("fn f() {}\n", "sums")] == [1]


@pytest.mark.parametrize(
    ("body", "line"),
    [
        ("if (tid < 3u) { workgroupBarrier(); }", 1),
        ("if tid < 3u { storageBarrier(); }", 1),
        ("if (params.n > 1u) { if (tid == 0u) { } else { workgroupBarrier(); } }", 1),
        ("let i = group.x * WG + tid;\nif (i >= params.n) { return; }\nworkgroupBarrier();", 3),
        ("if (t[0] > 0.0) { workgroupBarrier(); }", 1),
        ("if (y[0] > 0.0) { workgroupBarrier(); }", 1),
        ("if (tid == 0u) { y[0] = group_sum(tid, 1.0); }", 1),
        ("if (tid == 0u) { y[0] = twice(tid, 1.0); }", 1),
        ("for (var i = tid; i < params.n; i += WG) { workgroupBarrier(); }", 1),
        ("for (var i = 0u; i < params.n; i += tid) { workgroupBarrier(); }", 1),
        ("var i = 0u;\nwhile (i < params.n) { workgroupBarrier(); i += tid; }", 2),
        ("loop {\nworkgroupBarrier();\nif (x[tid] > 0.0) { break; } }", 2),
        ("loop {\nif (x[tid] > 0.0) { continue; }\nworkgroupBarrier();\nif (params.n > 0u) { break; } }", 3),
        ("loop { workgroupBarrier(); continuing { break if tid > 0u; } }", 1),
        ("switch tid { case 0u: { workgroupBarrier(); } default: {} }", 1),
        ("var n = 0u;\nif (tid == 0u) { n = 1u; }\nif (n == 1u) { workgroupBarrier(); }", 3),
        ("if (tid < 3u) { let v = workgroupUniformLoad(&t[0]); }", 1),
    ],
)
def test_barriers_that_some_threads_miss(body, line):
    got = in_main(body)
    assert len(got) == 1
    assert got[0][0] == line
    assert "only some threads" in got[0][1]


@pytest.mark.parametrize(
    "body",
    [
        "if (group.x >= params.n) { return; }\nworkgroupBarrier();",
        "for (var s = WG >> 1u; s > 0u; s >>= 1u) { if (tid < s) { t[tid] += t[tid + s]; } workgroupBarrier(); }",
        "for (var i = tid; i < params.n; i += WG) { y[i] = 0.0; }\nfor (var i = 0u; i < 4u; i++) { workgroupBarrier(); }",
        "{ let i = tid; y[i] = 1.0; }\nlet i = group.x; if (i > 0u) { workgroupBarrier(); }",
        "for (var k = 0u; k < params.n; k += 16u) { let i = k + tid; if (i < params.n) { t[i] = x[i]; } workgroupBarrier(); }",
        "let most = group_sum(tid, x[tid]);\nif (most > 0.0) { workgroupBarrier(); }",
        "if (workgroupUniformLoad(&t[0]) > 0.0) { workgroupBarrier(); }",
        "var s = x[tid]; t[tid] = s; s = workgroupUniformLoad(&t[0]);\nif (s > 0.0) { workgroupBarrier(); }",
        "if (tid == 0u) { y[0] = apart(tid); }\nworkgroupBarrier();",
        "if (x[group.x] > 0.0 && arrayLength(&y) > 3u) { workgroupBarrier(); }",
        "switch params.n { case 0u, 1u: { workgroupBarrier(); } default: { if (tid > 0u) { break; } } }\nworkgroupBarrier();",
        "loop { if (tid > 3u) { break; } }\nworkgroupBarrier();",
        "for (var i = 0u; i < 3u; i++) { loop { if (tid > 3u) { break; } } workgroupBarrier(); }",
        "for (; ; ) { workgroupBarrier(); if (params.n > 0u) { break; } }",
        "let y = 3u; if (y > 2u) { workgroupBarrier(); }",
    ],
)
def test_barriers_that_all_threads_reach(body):
    assert in_main(body) == []


def test_what_a_name_means_may_depend_on_the_files_that_are_joined():
    """A kernel that changes the state declares it in a way that other kernels do not see."""
    chain = "// A state that kernels change.\n@group(0) @binding(1) var<storage, read_write> state: State;\n"
    code = HEAD + MAIN % "if (state.n_tokens > 1u) { workgroupBarrier(); }"
    assert lint("op", code, {**OTHERS, "chain": chain}) == []
    assert len(lint("op", code, {"chain": chain})) == 1


def test_the_threads_number_in_any_form():
    for name in ("local_invocation_id", "global_invocation_id", "subgroup_invocation_id"):
        code = HEAD.replace("// op:", "// op_subgroup:") + (MAIN % "if (tid.x > 0u) { workgroupBarrier(); }").replace(
            "local_invocation_index", name
        )
        assert len(found(code, "op_subgroup")) == 1


def test_the_shaders_that_ship_pass():
    """And the command says so by its exit status, and names file and line where something is wrong."""
    done = subprocess.run([sys.executable, "tools/lint_wgsl.py"], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "")


def test_what_is_wrong_is_printed_with_its_place(tmp_path, capsys):
    (tmp_path / "common.wgsl").write_text(COMMON)
    (tmp_path / "op.wgsl").write_text(HEAD + MAIN % "v.xy = w;")
    assert lint_wgsl.main([str(tmp_path / "op.wgsl")]) == 1
    assert capsys.readouterr().out == f"{tmp_path / 'op.wgsl'}:10: swizzle assignment: naga refuses it; name one component\n"


def test_no_shaders_are_no_success(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(lint_wgsl, "SHADERS", tmp_path)
    assert lint_wgsl.main([]) == 2
    assert "no shaders" in capsys.readouterr().err
