// What threshold.wgsl and survivors.wgsl write of a row; the host reads it as device/gpu_choose.py FOUND says.

struct Found {
    count: atomic<u32>,             // of survivors
    threshold_key: u32,
    threshold_id: u32,
    unused: u32,
    sums: array<vec2<f32>, 64>,     // exp(logit - T), exp((logit - T) / temperature) over what is no survivor; one a workgroup
    recent: array<u32, 256>,        // logits of the ids asked for
    survivors: array<vec2<u32>>,    // (logit, id) in no order
}
