// temper: y[t, i] = x[t, i] * (1 + scale * log(1 + floor((pos + t + offset) / length)))
//   x, y: f32 (T, n), any n.
//   Meaning: device/reference.py temper. Twin: device/c/elementwise.c.

struct Params { n: u32, length: f32, scale: f32, offset: f32 }

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(2) var<storage, read> x: array<f32>;
@group(0) @binding(3) var<storage, read_write> y: array<f32>;

fn factor(position: u32) -> f32 {
    let at = f32(position) + params.offset;
    // A quotient may be off by some units in the last place, and then, at a multiple of the length, its floor by 1.
    var q = floor(at / params.length);
    if ((q + 1.0) * params.length <= at) { q += 1.0; }
    if (q * params.length > at) { q -= 1.0; }
    return 1.0 + params.scale * select(log(1.0 + q), 0.0, q == 0.0);
}

@compute @workgroup_size(WG)
fn main(
    @builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) tid: u32
) {
    for (var t = group.y; t < n_rows(0u); t += groups.y) {
        let by = factor(state.pos + t);
        for (var i = group.x * WG + tid; i < params.n; i += groups.x * WG) { y[t * params.n + i] = x[t * params.n + i] * by; }
    }
}
