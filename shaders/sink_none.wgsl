// sink_none: what attention divides by: the sum of its weights. Its twin: sink_some.wgsl.

fn with_sink(total: f32, top: f32, head: u32) -> f32 { return total; }
