// threshold: the n_best-th of the groups' maxima, or where there are fewer groups, what comes after all. Counts nothing yet.
//   A thread a group counts the maxima before its own, eight at a time, and stops where these are too many. Behind the last
//   maxima is room for whole eights, zeros, which come after all.
//   Behind choose.wgsl and found.wgsl.

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> maxima: array<vec4<u32>>;  // two in each
@group(0) @binding(2) var<storage, read_write> found: Found;

override WG: u32 = 64;

fn count(pair: vec4<u32>, own: vec2<u32>) -> u32 {
    return select(0u, 1u, comes_before(pair.xy, own)) + select(0u, 1u, comes_before(pair.zw, own));
}

@compute @workgroup_size(WG)
fn main(@builtin(global_invocation_id) thread: vec3<u32>) {
    let group = thread.x;
    if (group == 0u) {
        atomicStore(&found.count, 0u);
        if (params.n_groups < params.n_best) {
            found.threshold_key = 0u;
            found.threshold_id = 0xffffffffu;
        }
    }
    if (group >= params.n_groups) { return; }
    let pair = maxima[group >> 1u];
    let own = select(pair.xy, pair.zw, (group & 1u) == 1u);
    var before = 0u;
    for (var i = 0u; 2u * i < params.n_groups && before < params.n_best; i += 4u) {
        before += count(maxima[i], own) + count(maxima[i + 1u], own) + count(maxima[i + 2u], own) + count(maxima[i + 3u], own);
    }
    if (before + 1u == params.n_best) {
        found.threshold_key = own.x;
        found.threshold_id = own.y;
    }
}
