// reduce_subgroup: the sum over the LANES threads of a row, for the first of them, by subgroups; through workgroup memory only what
//   subgroups smaller than LANES leave. Its twin: reduce_shared.wgsl.
//   That threads lie in subgroups in the order of their index is not promised; device/gpu_autotune.py tries it on each GPU.

override LEAST_SUBGROUP: u32 = 4;  // what this GPU's subgroups have at least

var<workgroup> parts: array<vec4<f32>, WG>;
var<workgroup> part_squares: array<f32, WG>;

struct Reduced { acc: vec4<f32>, squares: f32 }

fn reduce(tid: u32, lane: u32, acc: vec4<f32>, squares: f32) -> Reduced {
    let size = subgroupAdd(1u);
    var sum = acc;
    var sum_squares = squares;
    for (var i = LANES >> 1u; i > 0u; i >>= 1u) {
        let other = subgroupShuffleXor(sum, i);
        let other_squares = subgroupShuffleXor(sum_squares, i);
        if (i < size) {  // else there is no such thread
            sum += other;
            sum_squares += other_squares;
        }
    }
    if (LANES > LEAST_SUBGROUP) {
        parts[tid] = sum;
        part_squares[tid] = sum_squares;
        workgroupBarrier();
        if (lane == 0u) {
            for (var i = size; i < LANES; i += size) {
                sum += parts[tid + i];
                sum_squares += part_squares[tid + i];
            }
        }
    }
    return Reduced(sum, sum_squares);
}
