// sample: a token drawn from a row ends the pass, as sampling.py draws it from the 64 likeliest and the weight of all others.
//   One workgroup of at least 64 threads: they rank what survivors.wgsl found and weigh it, one draws.
//   What a cut or the draw hangs on may be nearer than float32 tells. Then, and where more than 64 tokens are needed, the chain
//   ends undecided: the host draws in float64 with the same number, so a text does not depend on who drew.
//   Needs n_best > 64, or n. Behind choose.wgsl, found.wgsl and chain.wgsl. Twin: wasmrt/sampling.py sample.

@group(0) @binding(1) var<storage, read_write> found: Found;
@group(0) @binding(5) var<storage, read> uniforms: array<f32>;  // in [0, 1), one a pass

override WG: u32 = 64;

const FEW = 64u;
// In relation to all that is summed. Errors: exp 2e-6 and less of what weighs something, sums of 64 in a row 4e-6.
const NEAR = 1.6e-5;
// From here on a float64 of the first logit has too few digits for sampling.py to add the others to it.
const LARGE = 262144.0;

var<workgroup> likeliest: array<vec2<u32>, FEW>;  // (key, id), best first
var<workgroup> weights: array<vec2<f32>, FEW>;    // in units of the first one's; at temperature 1, and at the chosen one
var<workgroup> running: array<vec2<f32>, FEW>;    // their sums
var<workgroup> beyond: array<vec2<f32>, WG>;      // survivors that are not among them

@compute @workgroup_size(WG)
fn main(@builtin(local_invocation_index) tid: u32) {
    let count = atomicLoad(&found.count);
    for (var i = tid; i < count; i += WG) {
        let own = survivor(i);
        var before = 0u;
        for (var j = 0u; j < count && before < FEW; j++) {
            before += select(0u, 1u, comes_before(survivor(j), own));
        }
        if (before < FEW) { likeliest[before] = own; }
    }
    workgroupBarrier();
    let first = logit_of(likeliest[0].x);
    if (tid < min(count, FEW)) { weights[tid] = weigh(likeliest[tid].x, first); }
    var sum = vec2<f32>(0.0, 0.0);
    if (count > FEW) {
        for (var i = tid; i < count; i += WG) {
            let own = survivor(i);
            if (comes_before(likeliest[FEW - 1u], own)) { sum += weigh(own.x, first); }
        }
    }
    beyond[tid] = sum;
    workgroupBarrier();
    if (tid == 0u) { draw(count, first); }
}

fn survivor(i: u32) -> vec2<u32> {
    let pair = found.survivors[i];
    return vec2<u32>(key_of(pair.x), pair.y);
}

fn weigh(key: u32, first: f32) -> vec2<f32> {
    let x = logit_of(key);
    if (x == first) { return vec2<f32>(1.0, 1.0); }
    return vec2<f32>(weight(x, first, 1.0), weight(x, first, params.temperature));
}

fn is_near(a: f32, b: f32, scale: f32) -> bool {
    return abs(a - b) <= NEAR * scale;
}

fn draw(count: u32, first: f32) {
    if (likeliest[0].x == UNFIT) {
        choose(UNFIT_LOGITS, 0u);
        return;
    }
    let top_k = params.top_k;
    let n = min(min(count, FEW), select(top_k, FEW, top_k == 0u));
    var all = vec2<f32>(0.0, 0.0);
    for (var i = 0u; i < n; i++) {
        all += weights[i];
        running[i] = all;
    }
    let is_open = params.n > FEW && (top_k == 0u || top_k > FEW);  // the others count
    var rest = vec2<f32>(0.0, 0.0);
    if (is_open) {
        for (var i = 0u; i < params.n_sums; i++) { rest += found.sums[i]; }
        if (count == params.n) { rest = vec2<f32>(0.0, 0.0); }  // then there is no threshold
        else { rest *= weigh(found.threshold_key, first); }
        for (var i = 0u; i < WG; i++) { rest += beyond[i]; }
        if (abs(first) >= LARGE || abs(first) >= LARGE * params.temperature) {
            choose(UNDECIDED, 0u);
            return;
        }
    }
    // A top_k beyond the 64 keeps some of the others: between none and all.
    let is_some = top_k > 0u;
    let fewest = count_kept(n, select(all.x + rest.x, all.x, is_some));
    let most = count_kept(n, all.x + rest.x);
    let is_cut = is_some || params.top_p < 1.0 || params.min_p > 0.0;
    let least = place_of(n, fewest, select(rest.y, 0.0, is_cut), is_open);
    let last = place_of(n, most, rest.y, is_open);
    if (fewest == UNSURE || most == UNSURE || least == UNSURE || least != last || least >= n) {
        choose(UNDECIDED, 0u);
        return;
    }
    choose(GOES_ON, likeliest[least].y);
}

const UNSURE = 0xffffffffu;

// How many of n tokens pass top_p, a share of `total`, and min_p; n + 1 if these do not end the count.
fn count_kept(n: u32, total: f32) -> u32 {
    let share = params.top_p * total;
    for (var i = 0u; i < n; i++) {
        if (params.min_p > 0.0) {
            let own = weights[i].x;
            if (i > 0u && is_near(own, params.min_p, params.min_p)) { return UNSURE; }
            if (own < params.min_p) { return i; }
        }
        if (params.top_p < 1.0) {
            if (is_near(running[i].x, share, total)) { return UNSURE; }
            if (running[i].x >= share) { return i + 1u; }
        }
    }
    return n + 1u;
}

// Which token the number falls on where `kept` are drawn from; n or more: on one of the others, which weigh `rest`.
fn place_of(n: u32, kept: u32, rest: f32, is_open: bool) -> u32 {
    if (kept == UNSURE) { return UNSURE; }
    let among = min(kept, n);
    let is_ended = kept <= n || !is_open;  // then the last one's end is the end of all, below which every number lies
    let sum = running[among - 1u].y + select(rest, 0.0, kept <= n);
    let at = uniforms[chain.step] * sum;
    let n_ends = select(n, among - 1u, is_ended);
    for (var i = 0u; i < n_ends; i++) {
        if (is_near(running[i].y, at, sum)) { return UNSURE; }
        if (running[i].y > at) { return i; }
    }
    return n_ends;
}
