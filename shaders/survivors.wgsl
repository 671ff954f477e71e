// survivors: the (logit, id) of a row that do not come after the threshold T, in no order, and what all others weigh in relation
//   to T: exp(logit - T), and the same at a temperature. Beside that the logits of some ids that are asked for.
//   n_sums workgroups; a thread takes every (n_sums * WG)-th logit. Summed in f32 in a fixed order.
//   Behind choose.wgsl and found.wgsl.

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> logits: array<u32>;
@group(0) @binding(2) var<storage, read> recent: array<u32>;
@group(0) @binding(3) var<storage, read_write> found: Found;

override WG: u32 = 64;

var<workgroup> sums: array<vec2<f32>, WG>;

@compute @workgroup_size(WG)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) tid: u32) {
    let threads = params.n_sums * WG;
    let thread = group.x * WG + tid;
    let threshold = vec2<u32>(found.threshold_key, found.threshold_id);
    let largest = logit_of(threshold.x);
    var sum = vec2<f32>(0.0, 0.0);
    for (var id = thread; id < params.n; id += threads) {
        let bits = logits[params.offset + id];
        let key = key_of(bits);
        if (comes_before(threshold, vec2<u32>(key, id))) {
            let logit = logit_of(key);
            sum.x += weight(logit, largest, 1.0);
            if (params.temperature != 1.0) { sum.y += weight(logit, largest, params.temperature); }
        } else {
            found.survivors[atomicAdd(&found.count, 1u)] = vec2<u32>(bits, id);
        }
    }
    for (var i = thread; i < params.n_recent; i += threads) {
        found.recent[i] = logits[params.offset + recent[i]];
    }
    sums[tid] = sum;
    workgroupBarrier();
    if (tid == 0u) {
        var all = vec2<f32>(0.0, 0.0);
        for (var i = 0u; i < WG; i++) { all += sums[i]; }
        if (params.temperature == 1.0) { all.y = all.x; }
        found.sums[group.x] = all;
    }
}
