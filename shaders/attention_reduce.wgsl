// attention_reduce: the second half of attention where keys were in n_split > 1 parts: y = the sum of exp(top - the greatest) *
//   sums, over that of exp(top - the greatest) * totals, and what a sink adds to that.
//   parts: [token's head][part], each (top, total, 0, 0) and the V4 fours of a row of sums. A thread makes four elements of y.
//   Behind sink_*.wgsl, attention_out.wgsl. Twin: the end of attention.wgsl.

struct Params { n_heads: u32 }

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(2) var<storage, read> parts: array<vec4<f32>>;
@group(0) @binding(3) var<storage, read_write> y: array<f32>;

override VALUE_DIM: u32;
override V4: u32 = ((VALUE_DIM + 7u) >> 3u) << 1u;

const WG: u32 = 64u;

@compute @workgroup_size(WG)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>, @builtin(local_invocation_index) tid: u32) {
    let i = group_index(group, groups) * WG + tid;
    let row = i / V4;
    let column = i - row * V4;
    if (row >= state.n_tokens * params.n_heads) { return; }
    let first = row * state.n_split * (V4 + 1u);
    let end = first + state.n_split * (V4 + 1u);
    var top = parts[first].x;
    for (var at = first; at < end; at += V4 + 1u) { top = max(top, parts[at].x); }
    var sum = vec4<f32>(0.0);
    var total = 0.0;
    for (var at = first; at < end; at += V4 + 1u) {
        let of_part = parts[at];
        let by = exp(of_part.x - top);
        sum += by * parts[at + 1u + column];
        total += by * of_part.y;
    }
    write_four(row, column, sum / with_sink(total, top, row % params.n_heads));
}
