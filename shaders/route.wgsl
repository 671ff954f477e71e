// route: the n_used experts of each token with the largest logits, best first (ties: the lower id), and their probabilities,
// scaled to add to 1. What softmax divides by falls out of that: the weights are exp(logit - largest), divided by their sum.
//   logits: f32 (T, n) as bits; experts: u32 (T, n_used), weights: f32 (T, n_used); 1 <= n_used <= n, any n. One workgroup a
//   token.
//   Each round looks for the first of those that come after the one found before. Logits are ordered by a number made of their
//   bits: so even NaN has its place, and what is chosen are n_used different experts, whatever the logits are.
//   Meaning: device/reference.py route. Twin: device/c/route.c.

struct Params { n: u32, n_used: u32 }

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(2) var<storage, read> logits: array<u32>;
@group(0) @binding(3) var<storage, read_write> experts: array<u32>;
@group(0) @binding(4) var<storage, read_write> weights: array<f32>;

const NOBODY = 0xffffffffu;

// order: larger ones first
struct Found { order: u32, expert: u32 }

var<workgroup> found: array<Found, WG>;
var<workgroup> sixteenth: array<Found, 16>;

// The larger the float, the larger the number; 0 and -0 are the same.
fn order_of(bits: u32) -> u32 {
    let b = select(bits, 0u, bits == 0x80000000u);
    return select(b | 0x80000000u, ~b, b >> 31u == 1u);
}

fn logit_of(order: u32) -> f32 {
    return bitcast<f32>(select(~order, order ^ 0x80000000u, order >> 31u == 1u));
}

fn comes_before(a: Found, b: Found) -> bool {
    return a.order > b.order || (a.order == b.order && a.expert < b.expert);
}

fn first_of_group(tid: u32, mine: Found) -> Found {
    found[tid] = mine;
    workgroupBarrier();
    if (tid < (WG >> 4u)) {
        var best = found[tid * 16u];
        for (var i = 1u; i < 16u; i++) {
            let other = found[tid * 16u + i];
            if (comes_before(other, best)) { best = other; }
        }
        sixteenth[tid] = best;
    }
    workgroupBarrier();
    var best = sixteenth[0];
    for (var i = 1u; i < (WG >> 4u); i++) {
        let other = sixteenth[i];
        if (comes_before(other, best)) { best = other; }
    }
    return best;
}

@compute @workgroup_size(WG)
fn main(
    @builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) tid: u32
) {
    let t = group_index(group, groups);
    if (t >= n_rows(0u)) { return; }
    var last = Found(0u, 0u);
    var largest = 0.0;
    var total = 0.0;
    for (var k = 0u; k < params.n_used; k++) {
        var best = Found(0u, NOBODY);
        for (var e = tid; e < params.n; e += WG) {
            let one = Found(order_of(logits[t * params.n + e]), e);
            if ((k == 0u || comes_before(last, one)) && comes_before(one, best)) { best = one; }
        }
        last = first_of_group(tid, best);
        let logit = logit_of(last.order);
        if (k == 0u) { largest = logit; }
        let e = exp(logit - largest);
        total += e;
        if (tid == (k & (WG - 1u))) {
            experts[t * params.n_used + k] = last.expert;
            weights[t * params.n_used + k] = e;
        }
    }
    // Each thread what it wrote itself.
    for (var k = tid; k < params.n_used; k += WG) { weights[t * params.n_used + k] /= total; }
}
