// embed: y[t] = row tokens[t] of w, for those tokens whose rows the binding has.
//   One thread a unit of 32 elements. Around it: quant_*.wgsl. Meaning: device/reference.py embed.

override WG: u32 = 64;

@group(0) @binding(4) var<storage, read> tokens: array<u32>;
@group(0) @binding(6) var<storage, read_write> y: array<f32>;

fn put(row: u32, i: u32, v: vec4<f32>) {
    let at = row * params.n + i;
    if (i < params.n) { y[at] = v.x; }
    if (i + 1u < params.n) { y[at + 1u] = v.y; }
    if (i + 2u < params.n) { y[at + 2u] = v.z; }
    if (i + 3u < params.n) { y[at + 3u] = v.w; }
}

@compute @workgroup_size(WG)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) tid: u32) {
    let u = group.x * WG + tid;
    let row = tokens[group.y] - params.first;  // wraps round for rows that come before
    if (u >= params.units || row >= params.n_rows) { return; }
    let w = load_unit(params.at + row, u);
    for (var c = 0u; c < 4u; c++) {
        put(group.y, u * 32u + c * 4u, w.a[c] * w.da + w.ma);
        put(group.y, u * 32u + 16u + c * 4u, w.b[c] * w.db + w.mb);
    }
}
