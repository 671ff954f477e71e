// rope: rotate the first 2 * N_PAIRS elements of each head by angles that grow with position; the others are copied.
//   x, y: f32 (T, heads * HEAD_DIM). A thread turns one pair of a head, or copies one element. Workgroups: (threads of a
//   token / WG, T). Behind turn.wgsl. Meaning: device/reference.py rope. Twin: device/c/rope.c.

struct Params { n_heads: u32, magnitude: f32 }

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(2) var<storage, read> x: array<f32>;
@group(0) @binding(3) var<storage, read> turns: array<vec2<u32>>;
@group(0) @binding(4) var<storage, read_write> y: array<f32>;

const WG: u32 = 64u;
override UNITS: u32 = HEAD_DIM - N_PAIRS;  // of a head: its pairs, and the elements that stay

@compute @workgroup_size(WG)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) tid: u32) {
    let i = group.x * WG + tid;
    let head = i / UNITS;
    let unit = i - head * UNITS;
    if (head >= params.n_heads) { return; }
    let at = (group.y * params.n_heads + head) * HEAD_DIM;
    if (unit >= N_PAIRS) {
        y[at + N_PAIRS + unit] = x[at + N_PAIRS + unit];
        return;
    }
    let pair = pair_at(unit);
    let to = turned(x[at + pair.x], x[at + pair.y], turn(unit, state.pos + group.y));
    y[at + pair.x] = to.x;
    y[at + pair.y] = to.y;
}
