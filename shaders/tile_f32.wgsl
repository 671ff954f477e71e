// tile_f32: how matmul_tiled keeps its tiles. Its twin: tile_f16.wgsl.

alias Tile4 = vec4<f32>;

fn tiled(v: vec4<f32>) -> Tile4 { return v; }
