// tile_f16: how matmul_tiled keeps its tiles: in half the memory. Its twin: tile_f32.wgsl.
//   Values beyond what f16 has become its largest.

alias Tile4 = vec4<f16>;

fn tiled(v: vec4<f32>) -> Tile4 { return vec4<f16>(clamp(v, vec4<f32>(-65504.0), vec4<f32>(65504.0))); }
