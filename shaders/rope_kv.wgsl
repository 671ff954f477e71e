// rope_kv: rope of q and of k, then store_kv of k and v, in one dispatch; y is the rotated q.
//   q, y: f32 (T, heads * HEAD_DIM), y may be q: then it is bound as y alone (IN_PLACE). k, v: as in store_kv. A thread turns a
//   pair of q, or copies an element of it, or makes a word of the cache. Workgroups: (threads of a token / WG, T).
//   Behind turn.wgsl and kv_write.wgsl. Meaning: device/reference.py rope_kv. Twins: rope.wgsl, store_kv.wgsl.

struct Params { n_heads: u32, magnitude: f32 }

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(2) var<storage, read> q: array<f32>;
@group(0) @binding(3) var<storage, read> k: array<f32>;
@group(0) @binding(4) var<storage, read> v: array<f32>;
@group(0) @binding(5) var<storage, read> turns: array<vec2<u32>>;
@group(0) @binding(6) var<storage, read_write> y: array<f32>;
@group(0) @binding(7) var<storage, read_write> keys: array<u32>;
@group(0) @binding(8) var<storage, read_write> values: array<u32>;

override IN_PLACE: bool;

const WG: u32 = 64u;
override UNITS: u32 = HEAD_DIM - N_PAIRS;  // of a head: its pairs, and the elements that stay

fn query(at: u32) -> f32 {
    if (IN_PLACE) { return y[at]; }
    return q[at];
}

fn key_element(t: u32, head: u32, e: u32) -> f32 {
    if (e >= KEY_DIM) { return 0.0; }
    let at = (t * KV_HEADS + head) * KEY_DIM;
    if (e >= 2u * N_PAIRS) { return k[at + e]; }
    var pair = e >> 1u;
    if (HALVES) { pair = select(e, e - N_PAIRS, e >= N_PAIRS); }
    let both = pair_at(pair);
    let to = turned(k[at + both.x], k[at + both.y], turn(pair, state.pos + t));
    return select(to.x, to.y, e == both.y);
}

@compute @workgroup_size(WG)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) tid: u32) {
    let i = group.x * WG + tid;
    if (i >= params.n_heads * UNITS) {
        store(group.y, i - params.n_heads * UNITS);
        return;
    }
    let head = i / UNITS;
    let unit = i - head * UNITS;
    let at = (group.y * params.n_heads + head) * HEAD_DIM;
    if (unit >= N_PAIRS) {
        if (!IN_PLACE) { y[at + N_PAIRS + unit] = q[at + N_PAIRS + unit]; }
        return;
    }
    let pair = pair_at(unit);
    let to = turned(query(at + pair.x), query(at + pair.y), turn(unit, state.pos + group.y));
    y[at + pair.x] = to.x;
    y[at + pair.y] = to.y;
}
