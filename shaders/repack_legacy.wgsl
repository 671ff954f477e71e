// repack_legacy: Q4_0, Q4_1, Q5_0 and Q5_1 blocks (gguf/quants/legacy.py), and IQ4_NL ones, for the quant_*.wgsl of that name.
//   A block is d, perhaps m, perhaps 32 fifth bits, and 16 bytes of nibbles, which lie as quant.wgsl has them.

override HAS_M: u32;
override HAS_FIFTH: u32;

@group(0) @binding(3) var<storage, read_write> wa: array<vec4<u32>>;
@group(0) @binding(4) var<storage, read_write> wb: array<u32>;

@compute @workgroup_size(WG)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>, @builtin(local_invocation_index) tid: u32) {
    let t = group_index(group, groups) * WG + tid;
    if (t >= params.n_threads) { return; }
    let fifth_at = 2u + 2u * HAS_M;
    let quants_at = fifth_at + 4u * HAS_FIFTH;
    let n_bytes = quants_at + 16u;
    let block = t * n_bytes;
    let at = params.first_row * params.units + t;
    wa[at] = four_words_at(block + quants_at);
    if (HAS_M == 1u) {
        let to = at << HAS_FIFTH;
        wb[to] = word_at(block);
        if (HAS_FIFTH == 1u) { wb[to + 1u] = spread(word_at(block + fifth_at)); }
        return;
    }
    let row = t / params.units;
    let u = t - row * params.units;
    let to = ((params.first_row + row) * ((params.units + 1u) >> 1u) + (u >> 1u)) * (1u + 2u * HAS_FIFTH);
    if (HAS_FIFTH == 1u) { wb[to + 1u + (u & 1u)] = spread(word_at(block + fifth_at)); }
    if ((u & 1u) == 1u) { return; }
    var d = half_at(block);
    if (u + 1u < params.units) { d |= half_at(block + n_bytes) << 16u; }
    wb[to] = d;
}
