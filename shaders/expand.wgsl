// expand: a weight as f32, rows padded with zeros to whole units. For vectors, which kernels of every kind read.
//   One thread a unit. Around it: quant_*.wgsl.

struct Params { units: u32, n_rows: u32 }

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(2) var<storage, read> wa: array<vec4<u32>>;
@group(0) @binding(3) var<storage, read> wb: array<u32>;
@group(0) @binding(4) var<storage, read_write> y: array<vec4<f32>>;

override WG: u32 = 64;

@compute @workgroup_size(WG)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>, @builtin(local_invocation_index) tid: u32) {
    let i = group_index(group, groups) * WG + tid;
    if (i >= params.units * params.n_rows) { return; }
    let row = i / params.units;
    let w = load_unit(row, i - row * params.units);
    for (var c = 0u; c < 4u; c++) {
        y[i * 8u + c] = w.a[c] * w.da + w.ma;
        y[i * 8u + 4u + c] = w.b[c] * w.db + w.mb;
    }
}
