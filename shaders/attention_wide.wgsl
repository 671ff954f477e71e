// attention_wide: y = softmax(scores of q k^T) v of many tokens, over the keys that each one sees, a tile of keys at a time.
//   q: f32 (T, heads * KEY_DIM), y: f32 (T, heads * VALUE_DIM). Rows of a key head are its GROUP query heads of each token in
//   turn; a workgroup takes 32 of them, and of values of more than 64 fours 64 fours of columns. Workgroups: (rows / 32, key heads,
//   columns / 64); rows with most keys go first.
//   Threads are 8 x 8. Each makes the scores of rows `across + 8 i` with keys 4 `along` .. + 4, a chunk of 32 dims at a time,
//   and then, for these rows, the columns of fours `along + 8 i`: maxima and rescaling of its rows stay in registers. Keys and
//   queries pass through `staged`, and values, P at a time. Fours of a head's q are read as such where KEY_DIM is whole fours
//   (as q_fours; q is a dummy), or element by element (as q).
//   Behind kv_read.wgsl, score_*.wgsl, sink_*.wgsl, attention_out.wgsl. Meaning: device/reference.py attention. Twins: attention.wgsl,
//   device/c/attention.c.

struct Params { n_heads: u32, scale: f32 }

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(2) var<storage, read> q: array<f32>;
@group(0) @binding(3) var<storage, read> q_fours: array<vec4<f32>>;
@group(0) @binding(4) var<storage, read> keys: array<vec4<u32>>;
@group(0) @binding(5) var<storage, read> values: array<vec4<u32>>;
@group(0) @binding(6) var<storage, read_write> y: array<f32>;

override GROUP: u32;
override C4: u32 = min(V4, 64u);  // fours of columns of a workgroup
override COLUMNS: u32 = (C4 + 7u) >> 3u;  // fours of a row's output that a thread makes, at most 8
override P: u32 = select(8u, select(16u, 32u, COLUMNS <= 2u), COLUMNS <= 4u);

const WG: u32 = 64u;
const ROWS: u32 = 32u;
const TILE: u32 = 32u;
const DIMS: u32 = 8u;  // fours of a chunk of dims
const STRIDE: u32 = 9u;  // of a staged row's: odd, so that rows side by side lie in different banks
const STAGED_ROWS: u32 = TILE * STRIDE;  // behind the keys

var<workgroup> staged: array<vec4<f32>, (TILE + ROWS) * STRIDE>;
var<workgroup> weights: array<vec4<f32>, ROWS * STRIDE>;  // [row][four of keys], rows STRIDE apart
var<workgroup> peaks: array<f32, ROWS * 8u>;  // [row][along]

// Of a key head's rows.
fn query_four(row: u32, kv_head: u32, j: u32) -> vec4<f32> {
    let token = row / GROUP;
    let at = (token * params.n_heads + kv_head * GROUP + row - token * GROUP) * KEY_DIM;
    let i = 4u * j;
    var x = vec4<f32>(0.0);
    if ((KEY_DIM & 3u) == 0u) {
        if (i < KEY_DIM) { x = q_fours[(at >> 2u) + j]; }  // else past the head, in the cache's padding
        return x;
    }
    if (i < KEY_DIM) { x.x = q[at + i]; }
    if (i + 1u < KEY_DIM) { x.y = q[at + i + 1u]; }
    if (i + 2u < KEY_DIM) { x.z = q[at + i + 2u]; }
    if (i + 3u < KEY_DIM) { x.w = q[at + i + 3u]; }
    return x;
}

// The greatest of a row's peaks.
fn peak(row: u32) -> f32 {
    var most = peaks[row * 8u];
    for (var i = 1u; i < 8u; i++) { most = max(most, peaks[row * 8u + i]); }
    return most;
}

fn total(row: u32) -> f32 {
    var sum = 0.0;
    for (var i = 0u; i < 8u; i++) { sum += peaks[row * 8u + i]; }
    return sum;
}

// Where the cache has four i of those that a workgroup takes of values from position `row` on.
fn value_at(row: u32, first_column: u32, i: u32) -> u32 {
    if (V4 <= 64u) { return row * V4 + i; }
    return (row + (i >> 6u)) * V4 + min(first_column + (i & 63u), V4 - 1u);
}

fn greatest(x: vec4<f32>) -> f32 { return max(max(x.x, x.y), max(x.z, x.w)); }

@compute @workgroup_size(WG)
fn main(
    @builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>, @builtin(local_invocation_index) tid: u32
) {
    let kv_head = group.y;
    let n_rows = state.n_tokens * GROUP;
    let first_row = (groups.x - 1u - group.x) * ROWS;
    let along = tid & 7u;
    let across = tid >> 3u;
    // Past the end, the last row again: its output is not written.
    let row = min(vec4<u32>(first_row + across) + vec4<u32>(0u, 8u, 16u, 24u), vec4<u32>(n_rows - 1u));
    let token = row / GROUP;
    let head = kv_head * GROUP + (row - token * GROUP);
    let position = vec4<u32>(state.pos) + token;
    let first_column = group.z * 64u;
    let end = state.pos + 1u + min(first_row + ROWS - 1u, n_rows - 1u) / GROUP;
    let kv_row = kv_head * CAPACITY;

    var top = vec4<f32>(FLOOR);
    var part = vec4<f32>(0.0);  // of the totals: of this thread's keys
    var sums = array<mat4x4<f32>, 8>();  // a column of the matrix is a row's
    let begin_at = first_seen(state.pos + first_row / GROUP);
    for (var first = begin_at - (begin_at & (TILE - 1u)); first < end; first += TILE) {
        var s0 = vec4<f32>(0.0);
        var s1 = vec4<f32>(0.0);
        var s2 = vec4<f32>(0.0);
        var s3 = vec4<f32>(0.0);
        for (var dims = 0u; dims < K4; dims += DIMS) {
            let n_dims = min(DIMS, K4 - dims);
            if (dims > 0u) { workgroupBarrier(); }
            for (var i = tid; i < TILE * DIMS; i += WG) {
                let n = i >> 3u;
                let j = i & 7u;
                if (j < n_dims) {
                    // Keys 4a + b lie at 8b + a.
                    staged[((n & 3u) * 8u + (n >> 2u)) * STRIDE + j] = key_four((kv_row + first + n) * K4 + dims + j);
                    staged[STAGED_ROWS + n * STRIDE + j] = query_four(min(first_row + n, n_rows - 1u), kv_head, dims + j);
                }
            }
            workgroupBarrier();
            for (var j = 0u; j < n_dims; j++) {
                let at = along * STRIDE + j;
                let q_at = STAGED_ROWS + across * STRIDE + j;
                let four = mat4x4<f32>(staged[at], staged[at + 8u * STRIDE], staged[at + 16u * STRIDE], staged[at + 24u * STRIDE]);
                s0 += staged[q_at] * four;
                s1 += staged[q_at + 8u * STRIDE] * four;
                s2 += staged[q_at + 16u * STRIDE] * four;
                s3 += staged[q_at + 24u * STRIDE] * four;
            }
        }
        let key = first + 4u * along;
        s0 = select(vec4<f32>(FLOOR), scored(s0 * params.scale, head.x, key, position.x), sees(key, position.x));
        s1 = select(vec4<f32>(FLOOR), scored(s1 * params.scale, head.y, key, position.y), sees(key, position.y));
        s2 = select(vec4<f32>(FLOOR), scored(s2 * params.scale, head.z, key, position.z), sees(key, position.z));
        s3 = select(vec4<f32>(FLOOR), scored(s3 * params.scale, head.w, key, position.w), sees(key, position.w));
        let at = across * 8u + along;
        peaks[at] = greatest(s0);
        peaks[at + 64u] = greatest(s1);
        peaks[at + 128u] = greatest(s2);
        peaks[at + 192u] = greatest(s3);
        workgroupBarrier();

        let now = max(top, vec4<f32>(peak(across), peak(across + 8u), peak(across + 16u), peak(across + 24u)));
        let by = exp(top - now);
        top = now;
        s0 = exp(s0 - now.x);
        s1 = exp(s1 - now.y);
        s2 = exp(s2 - now.z);
        s3 = exp(s3 - now.w);
        let ones = vec4<f32>(1.0);
        part = part * by + vec4<f32>(dot(s0, ones), dot(s1, ones), dot(s2, ones), dot(s3, ones));
        weights[across * STRIDE + along] = s0;
        weights[(across + 8u) * STRIDE + along] = s1;
        weights[(across + 16u) * STRIDE + along] = s2;
        weights[(across + 24u) * STRIDE + along] = s3;
        for (var c = 0u; c < COLUMNS; c++) {
            sums[c] = mat4x4<f32>(sums[c][0] * by.x, sums[c][1] * by.y, sums[c][2] * by.z, sums[c][3] * by.w);
        }
        for (var begin = 0u; begin < TILE; begin += P) {
            if (begin > 0u) { workgroupBarrier(); }
            for (var i = tid; i < P * C4; i += WG) { staged[i] = value_four(value_at(kv_row + first + begin, first_column, i)); }
            workgroupBarrier();
            for (var four = 0u; four < (P >> 2u); four++) {
                let start = across * STRIDE + (begin >> 2u) + four;
                let w = mat4x4<f32>(
                    weights[start], weights[start + 8u * STRIDE], weights[start + 16u * STRIDE], weights[start + 24u * STRIDE]
                );
                for (var c = 0u; c < COLUMNS; c++) {
                    let v_at = 4u * four * C4 + min(along + 8u * c, C4 - 1u);
                    sums[c] += mat4x4<f32>(staged[v_at], staged[v_at + C4], staged[v_at + 2u * C4], staged[v_at + 3u * C4]) * w;
                }
            }
        }
        workgroupBarrier();
    }

    peaks[across * 8u + along] = part.x;
    peaks[across * 8u + along + 64u] = part.y;
    peaks[across * 8u + along + 128u] = part.z;
    peaks[across * 8u + along + 192u] = part.w;
    workgroupBarrier();
    for (var i = 0u; i < 4u; i++) {
        if (first_row + across + 8u * i < n_rows) {
            let all = with_sink(total(across + 8u * i), top[i], head[i]);
            for (var c = 0u; c < COLUMNS; c++) {
                let column = first_column + along + 8u * c;
                if (column < V4) { write_four(token[i] * params.n_heads + head[i], column, sums[c][i] / all); }
            }
        }
    }
}
