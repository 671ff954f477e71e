// score_plain: how attention makes a score of scale * q k^T, and which keys a query sees: all up to its own. Its twin:
//   score_more.wgsl.

fn first_seen(position: u32) -> u32 { return 0u; }

fn scored(x: vec4<f32>, head: u32, key: u32, position: u32) -> vec4<f32> { return x; }

fn sees(key: u32, position: u32) -> vec4<bool> {
    return vec4<u32>(0u, 1u, 2u, 3u) + key < vec4<u32>(position + 1u);
}
