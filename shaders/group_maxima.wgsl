// group_maxima: the (key, id) that comes first of each group of a row of logits. A thread a group; neighbours read neighbours.
//   Behind choose.wgsl, which says what groups and keys are.

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> logits: array<u32>;
@group(0) @binding(2) var<storage, read_write> maxima: array<vec2<u32>>;

override WG: u32 = 64;

@compute @workgroup_size(WG)
fn main(@builtin(global_invocation_id) thread: vec3<u32>) {
    let group = thread.x;
    if (group >= params.n_groups) { return; }
    var best = vec2<u32>(0u, group);
    // Four at a time, so that the loads do not wait for one another. Ids rise, so of equal keys the first stays.
    let step = params.n_groups;
    var id = group;
    for (; id + 3u * step < params.n; id += 4u * step) {
        let at = params.offset + id;
        let a = key_of(logits[at]);
        let b = key_of(logits[at + step]);
        let c = key_of(logits[at + 2u * step]);
        let d = key_of(logits[at + 3u * step]);
        if (a > best.x) { best = vec2<u32>(a, id); }
        if (b > best.x) { best = vec2<u32>(b, id + step); }
        if (c > best.x) { best = vec2<u32>(c, id + 2u * step); }
        if (d > best.x) { best = vec2<u32>(d, id + 3u * step); }
    }
    for (; id < params.n; id += step) {
        let key = key_of(logits[params.offset + id]);
        if (key > best.x) { best = vec2<u32>(key, id); }
    }
    maxima[group] = best;
}
