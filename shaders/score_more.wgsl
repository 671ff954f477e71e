// score_more: how attention makes a score of scale * q k^T, and which keys a query sees, where that is not all. Its twin:
//   score_plain.wgsl. Of four keys at a time, from `key` on.
//   SOFTCAP: scores become SOFTCAP * tanh(score / SOFTCAP). HAS_SLOPES: and lose their distance times the slope of their head.
//   WINDOW: a query sees as many positions, its own the last, or if CHUNKED those since the last multiple of it.
//   Behind tanh.wgsl. Meaning: device/reference.py attention.

@group(0) @binding(8) var<storage, read> slopes: array<f32>;

override SOFTCAP: f32 = 0.0;
override HAS_SLOPES: bool = false;
override WINDOW: u32 = 0;
override CHUNKED: bool = false;

fn first_seen(position: u32) -> u32 {
    if (WINDOW == 0u) { return 0u; }
    if (CHUNKED) { return position - position % max(WINDOW, 1u); }
    return position + 1u - min(position + 1u, WINDOW);
}

fn scored(x: vec4<f32>, head: u32, key: u32, position: u32) -> vec4<f32> {
    var score = x;
    if (SOFTCAP > 0.0) { score = SOFTCAP * tanh_4(x / SOFTCAP); }
    if (HAS_SLOPES) { score -= slopes[head] * (f32(i32(position) - i32(key)) - vec4<f32>(0.0, 1.0, 2.0, 3.0)); }
    return score;
}

fn sees(key: u32, position: u32) -> vec4<bool> {
    let keys = vec4<u32>(0u, 1u, 2u, 3u) + key;
    return (keys < vec4<u32>(position + 1u)) & (keys >= vec4<u32>(first_seen(position)));
}
