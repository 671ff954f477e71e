// repack_mxfp4: MXFP4 blocks (gguf/quants/iq.py) for quant_mxfp4.wgsl. Blocks of 17 bytes, at any byte.

@group(0) @binding(3) var<storage, read_write> wa: array<vec4<u32>>;
@group(0) @binding(4) var<storage, read_write> wb: array<u32>;

@compute @workgroup_size(WG)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>, @builtin(local_invocation_index) tid: u32) {
    let t = group_index(group, groups) * WG + tid;
    if (t >= params.n_threads) { return; }
    let block = t * 17u;
    wa[params.first_row * params.units + t] = vec4<u32>(
        any_word_at(block + 1u), any_word_at(block + 5u), any_word_at(block + 9u), any_word_at(block + 13u));
    let row = t / params.units;
    let u = t - row * params.units;
    if ((u & 3u) != 0u) { return; }
    var e = byte_at(block);
    for (var i = 1u; i < min(4u, params.units - u); i += 1u) {
        e |= byte_at(block + 17u * i) << (8u * i);
    }
    wb[(params.first_row + row) * ((params.units + 3u) >> 2u) + (u >> 2u)] = e;
}
