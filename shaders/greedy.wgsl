// greedy: the likeliest token of a row ends the pass: the first of the groups' maxima. One workgroup.
//   Behind choose.wgsl and chain.wgsl.

@group(0) @binding(1) var<storage, read> maxima: array<vec2<u32>>;

override WG: u32 = 64;

var<workgroup> best_of: array<vec2<u32>, WG>;

@compute @workgroup_size(WG)
fn main(@builtin(local_invocation_index) tid: u32) {
    var best = vec2<u32>(0u, 0xffffffffu);
    for (var i = tid; i < params.n_groups; i += WG) {
        let other = maxima[i];
        if (comes_before(other, best)) { best = other; }
    }
    best_of[tid] = best;
    workgroupBarrier();
    if (tid == 0u) {
        for (var i = 1u; i < WG; i++) {
            if (comes_before(best_of[i], best)) { best = best_of[i]; }
        }
        choose(select(GOES_ON, UNFIT_LOGITS, best.x == UNFIT), best.y);
    }
}
