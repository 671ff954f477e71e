// What the kernels that choose a token share: the order of logits, and what is found of a row.
//   A row of n logits is cut into n_groups strided groups: group g has the ids g, g + n_groups, g + 2 * n_groups, ...
//   group_maxima.wgsl finds the first of each group; threshold.wgsl the n_best-th of these, T; survivors.wgsl collects all that do
//   not come after T. These are n_best or more, since so many groups have one, and lie in n_best groups. They hold the n_best
//   first of the row: whatever comes before one of those comes before T. greedy.wgsl needs the maxima alone, sample.wgsl all.
//   Twin: device/c/candidates.c.

const UNFIT = 0xffffffffu;  // the key of NaN and infinities: before all, so that it is always found

struct Params {
    offset: u32,       // of the row in `logits`
    n: u32,
    n_groups: u32,     // 1 to n
    n_best: u32,
    n_sums: u32,       // workgroups of survivors.wgsl
    n_recent: u32,
    temperature: f32,  // 1e-30 to 1e30
    top_k: u32,        // 0: all
    top_p: f32,        // 1: all
    min_p: f32,        // 0: all
}

// Grows with the logit. On bits, since compilers may assume that there are no NaN, and flush the smallest numbers to 0.
fn key_of(bits: u32) -> u32 {
    if ((bits & 0x7f800000u) == 0x7f800000u) { return UNFIT; }
    let b = select(bits, 0u, bits == 0x80000000u);  // -0 is 0
    return select(b | 0x80000000u, ~b, (b >> 31u) == 1u);
}

fn logit_of(key: u32) -> f32 {
    return bitcast<f32>(select(~key, key & 0x7fffffffu, (key >> 31u) == 1u));
}

// Of (key, id): whether a is likelier than b; of equal ones the lower id is.
fn comes_before(a: vec2<u32>, b: vec2<u32>) -> bool {
    return a.x > b.x || (a.x == b.x && a.y < b.y);
}

// exp((x - largest) / temperature) for an x that is no larger. Halved, a difference does not overflow; exp(-104) is 0.
fn weight(x: f32, largest: f32, temperature: f32) -> f32 {
    return exp(max(0.5 * x - 0.5 * largest, -52.0 * temperature) / temperature * 2.0);
}
