// attention: y = softmax(scores of q k^T) v of a few tokens, over the keys that each token sees, in n_split parts.
//   q: f32 (T, heads * KEY_DIM), y: f32 (T, heads * VALUE_DIM), GROUP query heads to a key head. A workgroup takes ROWS of
//   these heads, which so share each load of a key or value, for one token and one part of the keys. Workgroups: (key heads *
//   CHUNKS, T, n_split). With one part it writes y; else parts, which attention_reduce adds up.
//   Of a tile of 64 keys, four threads share four keys' scores (so that loads of 64 bytes are consecutive), then 16 threads a
//   row's softmax, then each thread four columns of the values of every PARTS-th four of keys, of values of more than WG fours
//   several fours of columns. Softmax is online, in f32.
//   Behind kv_read.wgsl, score_*.wgsl, sink_*.wgsl, attention_out.wgsl. Meaning: device/reference.py attention. Twins: attention_wide.wgsl,
//   device/c/attention.c.

struct Params { n_heads: u32, scale: f32 }

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(2) var<storage, read> q: array<f32>;
@group(0) @binding(3) var<storage, read> keys: array<vec4<u32>>;
@group(0) @binding(4) var<storage, read> values: array<vec4<u32>>;
@group(0) @binding(5) var<storage, read_write> y: array<f32>;
@group(0) @binding(6) var<storage, read_write> parts: array<vec4<f32>>;

override GROUP: u32;
override ROWS: u32;  // at most 8 / COLUMNS
override CHUNKS: u32 = (GROUP + ROWS - 1u) / ROWS;  // of a group
override COLUMNS: u32 = (V4 + WG - 1u) / WG;  // fours of columns of a thread
override PARTS: u32 = max(1u, min(16u, WG / V4));  // threads of a column
override ROW_SUMS: u32 = COLUMNS * WG;  // of a row's outputs, or scores

const WG: u32 = 64u;
const TILE: u32 = 64u;
const FOURS: u32 = 16u;  // of keys in a tile
const LANES: u32 = 4u;  // threads that share four keys
override TASKS: u32 = (ROWS + 3u) >> 2u;  // fours of scores that a thread makes weights of

var<workgroup> query: array<vec4<f32>, ROWS * K4>;
var<workgroup> shared_sums: array<vec4<f32>, ROWS * ROW_SUMS>;  // scores [row][four][lane], then outputs [row][part][column]
var<workgroup> weights: array<vec4<f32>, ROWS * FOURS>;
var<workgroup> peaks: array<f32, ROWS * FOURS>;  // of the scores of a four, then its sums of weights
var<workgroup> rescale: array<f32, ROWS>;
var<workgroup> tops: array<f32, ROWS>;

fn query_four(at: u32, j: u32) -> vec4<f32> {
    var x = vec4<f32>(0.0);
    if (j < KEY_DIM) { x.x = q[at + j]; }
    if (j + 1u < KEY_DIM) { x.y = q[at + j + 1u]; }
    if (j + 2u < KEY_DIM) { x.z = q[at + j + 2u]; }
    if (j + 3u < KEY_DIM) { x.w = q[at + j + 3u]; }
    return x;
}

@compute @workgroup_size(WG)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) tid: u32) {
    let kv_head = group.x / CHUNKS;
    let chunk = group.x - kv_head * CHUNKS;
    let token = group.y;
    let n_rows = min(ROWS, GROUP - chunk * ROWS);
    let first_row = token * params.n_heads + kv_head * GROUP + chunk * ROWS;
    for (var i = tid; i < ROWS * K4; i += WG) {
        let r = i / K4;
        query[i] = vec4<f32>(0.0);
        if (r < n_rows) { query[i] = query_four((first_row + r) * KEY_DIM, 4u * (i - r * K4)) * params.scale; }
    }
    workgroupBarrier();

    let position = state.pos + token;
    let end = position + 1u;
    let n_tiles = (end + TILE - 1u) / TILE;
    let first_tile = first_seen(position) / TILE;
    let n_each = (n_tiles - first_tile + state.n_split - 1u) / state.n_split;
    let last_tile = min(n_tiles, first_tile + (group.z + 1u) * n_each);
    let kv_row = kv_head * CAPACITY;
    let lane = tid & 3u;
    let my_four = tid >> 2u;
    let column = tid % V4;
    let part = tid / V4;
    var sums = array<vec4<f32>, 8>();
    var top = vec2<f32>(FLOOR);
    var total = vec2<f32>(0.0);
    for (var tile = first_tile + group.z * n_each; tile < last_tile; tile++) {
        let first = tile * TILE;
        let n = min(TILE, end - first);
        var scores = array<vec4<f32>, 8>();
        if (4u * my_four < n) {
            let at = (kv_row + first + 4u * my_four) * K4;
            for (var j = lane; j < K4; j += LANES) {
                let k = at + j;
                let four = mat4x4<f32>(key_four(k), key_four(k + K4), key_four(k + 2u * K4), key_four(k + 3u * K4));
                for (var r = 0u; r < ROWS; r++) { scores[r] += query[r * K4 + j] * four; }
            }
        }
        for (var r = 0u; r < ROWS; r++) { shared_sums[r * 64u + tid] = scores[r]; }
        workgroupBarrier();

        var x = array<vec4<f32>, 2>();
        for (var i = 0u; i < TASKS; i++) {
            let task = tid + i * WG;
            if (task < ROWS * FOURS) {
                let start = task * LANES;
                let head = first_row + min(task >> 4u, n_rows - 1u) - token * params.n_heads;
                let key = first + 4u * (task & 15u);
                let score = (shared_sums[start] + shared_sums[start + 1u]) + (shared_sums[start + 2u] + shared_sums[start + 3u]);
                x[i] = select(vec4<f32>(FLOOR), scored(score, head, key, position), sees(key, position));
                peaks[task] = max(max(x[i].x, x[i].y), max(x[i].z, x[i].w));
            }
        }
        workgroupBarrier();
        for (var i = 0u; i < TASKS; i++) {
            let task = tid + i * WG;
            if (task < ROWS * FOURS) {
                var now = top[i];
                for (var j = 0u; j < FOURS; j++) { now = max(now, peaks[(task & ~15u) + j]); }
                let e = exp(x[i] - now);
                let by = exp(top[i] - now);
                weights[task] = e;
                total[i] = total[i] * by + ((e.x + e.y) + (e.z + e.w));
                top[i] = now;
                if ((task & 15u) == 0u) { rescale[task >> 4u] = by; }
            }
        }
        workgroupBarrier();

        if (part < PARTS) {
            for (var i = 0u; i < ROWS * COLUMNS; i++) { sums[i] *= rescale[i / COLUMNS]; }
            for (var four = part; 4u * four < n; four += PARTS) {
                for (var c = 0u; c < COLUMNS; c++) {
                    let at = (kv_row + first + 4u * four) * V4 + min(column + c * WG, V4 - 1u);
                    let v = mat4x4<f32>(value_four(at), value_four(at + V4), value_four(at + 2u * V4), value_four(at + 3u * V4));
                    for (var r = 0u; r < ROWS; r++) { sums[r * COLUMNS + c] += v * weights[r * FOURS + four]; }
                }
            }
        }
    }

    if (part < PARTS) {
        for (var i = 0u; i < ROWS * COLUMNS; i++) {
            let r = i / COLUMNS;
            shared_sums[r * ROW_SUMS + part * V4 + column + (i - r * COLUMNS) * WG] = sums[i];
        }
    }
    for (var i = 0u; i < TASKS; i++) {
        let task = tid + i * WG;
        if (task < ROWS * FOURS) {
            peaks[task] = total[i];
            if ((task & 15u) == 0u) { tops[task >> 4u] = top[i]; }
        }
    }
    workgroupBarrier();
    for (var i = tid; i < n_rows * V4; i += WG) {
        let r = i / V4;
        let c = i - r * V4;
        var sum = vec4<f32>(0.0);
        for (var p = 0u; p < PARTS; p++) { sum += shared_sums[r * ROW_SUMS + p * V4 + c]; }
        var all = 0.0;
        for (var j = 0u; j < FOURS; j++) { all += peaks[r * FOURS + j]; }
        if (state.n_split == 1u) {
            write_four(first_row + r, c, sum / with_sink(all, tops[r], first_row + r - token * params.n_heads));
        } else {
            let at = ((first_row + r) * state.n_split + group.z) * (V4 + 1u);
            parts[at + 1u + c] = sum;
            if (c == 0u) { parts[at] = vec4<f32>(tops[r], all, 0.0, 0.0); }
        }
    }
}
