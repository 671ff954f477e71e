// group_sum, group_max: of one number of each thread of a workgroup; every thread gets the result.
//   In two steps, each thread over sixteen and then all over what came of these: two barriers instead of one a halving, and a
//   fixed order. WG: a power of two from 16 to 256. May be called again at once: no thread writes what another still reads.

var<workgroup> partial: array<f32, WG>;
var<workgroup> sixteenth: array<f32, 16>;

fn group_sum(tid: u32, x: f32) -> f32 {
    partial[tid] = x;
    workgroupBarrier();
    if (tid < (WG >> 4u)) {
        var sum = 0.0;
        for (var i = 0u; i < 16u; i++) { sum += partial[tid * 16u + i]; }
        sixteenth[tid] = sum;
    }
    workgroupBarrier();
    var sum = 0.0;
    for (var i = 0u; i < (WG >> 4u); i++) { sum += sixteenth[i]; }
    return sum;
}

fn group_max(tid: u32, x: f32) -> f32 {
    partial[tid] = x;
    workgroupBarrier();
    if (tid < (WG >> 4u)) {
        var most = partial[tid * 16u];
        for (var i = 1u; i < 16u; i++) { most = max(most, partial[tid * 16u + i]); }
        sixteenth[tid] = most;
    }
    workgroupBarrier();
    var most = sixteenth[0];
    for (var i = 1u; i < (WG >> 4u); i++) { most = max(most, sixteenth[i]); }
    return most;
}
