// reduce_shared: the sum over the LANES threads of a row, for the first of them, through workgroup memory. Its twin: reduce_subgroup.wgsl.

var<workgroup> parts: array<vec4<f32>, WG>;
var<workgroup> part_squares: array<f32, WG>;

struct Reduced { acc: vec4<f32>, squares: f32 }

fn reduce(tid: u32, lane: u32, acc: vec4<f32>, squares: f32) -> Reduced {
    parts[tid] = acc;
    part_squares[tid] = squares;
    workgroupBarrier();
    var sum = acc;
    var sum_squares = squares;
    if (LANES > 8u) {
        if (lane < 8u) {
            for (var i = 8u; i < LANES; i += 8u) {
                sum += parts[tid + i];
                sum_squares += part_squares[tid + i];
            }
            parts[tid] = sum;
            part_squares[tid] = sum_squares;
        }
        workgroupBarrier();
    }
    if (lane == 0u) {
        for (var i = 1u; i < min(LANES, 8u); i++) {
            sum += parts[tid + i];
            sum_squares += part_squares[tid + i];
        }
    }
    return Reduced(sum, sum_squares);
}
