// route: the n_used experts of each token that are wanted most, best first (ties: the lower id), and their weights.
//   logits: f32 (T, n) as bits, bias: f32 (n) if HAS_BIAS; experts: u32 (T, n_used), weights: f32 (T, n_used); 1 <= n_used <= n,
//   any n. One workgroup a token.
//   An expert's score is the SCORE of its logit: softmax (0), sigmoid (1), or chosen (2), the logit, of which those that are chosen
//   then get the softmax. It is wanted by its score plus its bias, and weighs its score, if NORMALIZE divided by their sum, times
//   `scale`. Of N_GROUPS groups only those n_groups_used take part whose two best add to most.
//   Each round looks for the first of those that come after the one found before. What they are wanted by is ordered by a number
//   made of its bits: so even NaN has its place, and what is chosen are n_used different experts, whatever the logits are.
//   Behind group_sum.wgsl, sigmoid.wgsl. Meaning: device/reference.py route. Twin: device/c/route.c.

struct Params { n: u32, n_used: u32, scale: f32, per_group: u32, n_groups_used: u32 }

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(2) var<storage, read> logits: array<u32>;
@group(0) @binding(3) var<storage, read_write> experts: array<u32>;
@group(0) @binding(4) var<storage, read_write> weights: array<f32>;
@group(0) @binding(5) var<storage, read> bias: array<f32>;

override SCORE: u32 = 2;
override NORMALIZE: bool = true;
override HAS_BIAS: bool = false;
override N_GROUPS: u32 = 1;

const SOFTMAX = 0u;
const SIGMOID = 1u;
const CHOSEN = 2u;
const NOBODY = 0xffffffffu;
const LEAST_TOTAL = 0.00006103515625;  // the smallest normal f16, to which ggml raises the sum that weights are divided by

// order: larger ones first
struct Found { order: u32, expert: u32 }

var<workgroup> found: array<Found, WG>;
var<workgroup> firsts: array<Found, 16>;
var<workgroup> of_group: array<u32, N_GROUPS>;  // the order of a group, then whether it takes part

// The larger the float, the larger the number; 0 and -0 are the same.
fn order_of(bits: u32) -> u32 {
    let b = select(bits, 0u, bits == 0x80000000u);
    return select(b | 0x80000000u, ~b, b >> 31u == 1u);
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
        firsts[tid] = best;
    }
    workgroupBarrier();
    var best = firsts[0];
    for (var i = 1u; i < (WG >> 4u); i++) {
        let other = firsts[i];
        if (comes_before(other, best)) { best = other; }
    }
    return best;
}

// The row's softmax is exp(logit - largest) / sum.
struct Row { at: u32, largest: f32, sum: f32 }

fn score_of(row: Row, expert: u32) -> f32 {
    let logit = bitcast<f32>(logits[row.at + expert]);
    if (SCORE == SOFTMAX) { return exp(logit - row.largest) / row.sum; }
    if (SCORE == SIGMOID) { return sigmoid(logit); }
    return logit;
}

fn wanted_by(row: Row, expert: u32) -> f32 {
    let score = score_of(row, expert);
    if (HAS_BIAS) { return score + bias[expert]; }
    return score;
}

fn order_in(row: Row, expert: u32) -> u32 {
    if (SCORE == CHOSEN && !HAS_BIAS) { return order_of(logits[row.at + expert]); }
    return order_of(bitcast<u32>(wanted_by(row, expert)));
}

fn choose_groups(tid: u32, row: Row) {
    for (var g = tid; g < N_GROUPS; g += WG) {
        let start = g * params.per_group;
        var best = wanted_by(row, start);
        var second = 0.0;
        if (params.per_group > 1u) {
            let next = wanted_by(row, start + 1u);
            second = min(best, next);
            best = max(best, next);
        }
        for (var i = 2u; i < params.per_group; i++) {
            let other = wanted_by(row, start + i);
            second = max(second, min(best, other));
            best = max(best, other);
        }
        of_group[g] = order_of(bitcast<u32>(best + second));
    }
    workgroupBarrier();
    var parts = array<bool, 4>(false, false, false, false);  // of this thread's groups, whether they take part
    for (var k = 0u; k < 4u; k++) {
        let g = tid + k * WG;
        if (g < N_GROUPS) {
            var n_before = 0u;
            for (var other = 0u; other < N_GROUPS; other++) {
                if (comes_before(Found(of_group[other], other), Found(of_group[g], g))) { n_before++; }
            }
            parts[k] = n_before < params.n_groups_used;
        }
    }
    workgroupBarrier();
    for (var k = 0u; k < 4u; k++) {
        if (tid + k * WG < N_GROUPS) { of_group[tid + k * WG] = select(0u, 1u, parts[k]); }
    }
    workgroupBarrier();
}

@compute @workgroup_size(WG)
fn main(
    @builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) tid: u32
) {
    let t = group_index(group, groups);
    if (t >= n_rows(0u)) { return; }
    var row = Row(t * params.n, 0.0, 1.0);
    if (SCORE == SOFTMAX) {
        var most = bitcast<f32>(logits[row.at]);
        for (var e = tid; e < params.n; e += WG) { most = max(most, bitcast<f32>(logits[row.at + e])); }
        row.largest = group_max(tid, most);
        var sum = 0.0;
        for (var e = tid; e < params.n; e += WG) { sum += exp(bitcast<f32>(logits[row.at + e]) - row.largest); }
        row.sum = group_sum(tid, sum);
    }
    if (N_GROUPS > 1u) { choose_groups(tid, row); }
    var last = Found(0u, 0u);
    var largest = 0.0;  // of the scores that are chosen
    var total = 0.0;
    for (var k = 0u; k < params.n_used; k++) {
        var best = Found(0u, NOBODY);
        for (var e = tid; e < params.n; e += WG) {
            if (N_GROUPS > 1u) { if (of_group[e / params.per_group] == 0u) { continue; } }
            let one = Found(order_in(row, e), e);
            if ((k == 0u || comes_before(last, one)) && comes_before(one, best)) { best = one; }
        }
        last = first_of_group(tid, best);
        var score = score_of(row, min(last.expert, params.n - 1u));
        if (SCORE == CHOSEN) {
            let before = largest;
            largest = select(max(largest, score), score, k == 0u);
            if (HAS_BIAS && k > 0u) { total *= exp(before - largest); }
            total += exp(score - largest);
        } else {
            total += score;
        }
        if (tid == (k & (WG - 1u))) {
            experts[t * params.n_used + k] = last.expert;
            weights[t * params.n_used + k] = score;
        }
    }
    // Each thread what it wrote itself.
    for (var k = tid; k < params.n_used; k += WG) {
        var weight = weights[t * params.n_used + k];
        if (SCORE == CHOSEN) {
            weight = exp(weight - largest) / total;
        } else if (NORMALIZE) {
            weight /= max(total, LEAST_TOTAL);
        }
        weights[t * params.n_used + k] = weight * params.scale;
    }
}
