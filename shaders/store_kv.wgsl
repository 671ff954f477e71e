// store_kv: the rows of T tokens into the layer's cache, at positions pos ..
//   k: f32 (T, KV_HEADS * KEY_DIM), v: f32 (T, KV_HEADS * VALUE_DIM). Workgroups: (words of a token / WG, T).
//   Behind kv_write.wgsl, where the cache's layout is. Meaning: device/reference.py store_kv. Twin: device/c/attention.c.

@group(0) @binding(2) var<storage, read> k: array<f32>;
@group(0) @binding(3) var<storage, read> v: array<f32>;
@group(0) @binding(4) var<storage, read_write> keys: array<u32>;
@group(0) @binding(5) var<storage, read_write> values: array<u32>;

const WG: u32 = 64u;

fn key_element(t: u32, head: u32, e: u32) -> f32 {
    if (e >= KEY_DIM) { return 0.0; }
    return k[(t * KV_HEADS + head) * KEY_DIM + e];
}

@compute @workgroup_size(WG)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) tid: u32) {
    store(group.y, group.x * WG + tid);
}
