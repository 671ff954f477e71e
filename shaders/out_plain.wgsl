// out_plain: where a matmul writes: one output.

@group(0) @binding(6) var<storage, read_write> y: array<f32>;

fn emit(row: u32, column: u32, value: f32) {
    y[row * params.width + column] = value;
}
