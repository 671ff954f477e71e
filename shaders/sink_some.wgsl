// sink_some: what attention divides by where each head has a score without a value: the sum of its weights exp(score - top), and
//   one for the sink. Its twin: sink_none.wgsl.

@group(0) @binding(7) var<storage, read> sinks: array<f32>;

// Past 80 above the scores, the sink leaves nothing of them either way, and exp would leave the range of f32.
fn with_sink(total: f32, top: f32, head: u32) -> f32 { return total + exp(min(sinks[head] - top, 80.0)); }
