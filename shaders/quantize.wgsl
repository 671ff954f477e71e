// quantize: rows of x as i8 with a scale for each unit of 32, behind an RMS norm where NORM says so. For dot_ints.wgsl.
//   x: f32 (T, n), n a multiple of 32; gain: f32 (n). y: three vec4 a unit, i8 in the order of weights (two), then as f32 the scale d
//   and d times the sums of the first and the last 16. q = round(x * 127 / max |x|). One workgroup a row.

struct Params { units: u32, n: u32, eps: f32, are_out: u32 }

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(2) var<storage, read> x: array<vec4<f32>>;
@group(0) @binding(3) var<storage, read> gain: array<vec4<f32>>;
@group(0) @binding(4) var<storage, read_write> y: array<vec4<u32>>;

override NORM: bool = false;

fn value(row: u32, i: u32, scale: f32) -> vec4<f32> {
    let v = x[row * params.units * 8u + i];
    if (NORM) { return v * scale * gain[i]; }
    return v;
}

@compute @workgroup_size(WG)
fn main(
    @builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) tid: u32
) {
    let row = group_index(group, groups);
    if (row >= n_rows(params.are_out)) { return; }
    var scale = 1.0;
    if (NORM) {
        var squares = 0.0;
        for (var i = tid; i < params.units * 8u; i += WG) {
            let v = x[row * params.units * 8u + i];
            squares += dot(v, v);
        }
        scale = inverseSqrt(group_sum(tid, squares) / f32(params.n) + params.eps);
    }
    for (var u = tid; u < params.units; u += WG) {
        var most = vec4<f32>(0.0, 0.0, 0.0, 0.0);
        for (var c = 0u; c < 8u; c++) { most = max(most, abs(value(row, u * 8u + c, scale))); }
        let largest = max(max(most.x, most.y), max(most.z, most.w));
        let d = largest / 127.0;
        let by = select(127.0 / largest, 0.0, largest == 0.0);
        var q = array<u32, 8>(0u, 0u, 0u, 0u, 0u, 0u, 0u, 0u);
        var sums = array<f32, 2>(0.0, 0.0);
        for (var c = 0u; c < 8u; c++) {
            let r = round(value(row, u * 8u + c, scale) * by);
            q[c] = pack4xI8(vec4<i32>(r));
            sums[c >> 2u] += r.x + r.y + (r.z + r.w);
        }
        let at = (row * params.units + u) * 3u;
        y[at] = vec4<u32>(q[0], q[1], q[2], q[3]);
        y[at + 1u] = vec4<u32>(q[4], q[5], q[6], q[7]);
        y[at + 2u] = bitcast<vec4<u32>>(vec4<f32>(d, d * sums[0], d * sums[1], 0.0));
    }
}
