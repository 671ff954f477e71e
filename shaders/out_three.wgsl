// out_three: where a matmul of matrices that are joined by rows writes: up to three outputs, one after another.

@group(0) @binding(6) var<storage, read_write> y: array<f32>;
@group(0) @binding(7) var<storage, read_write> y_1: array<f32>;
@group(0) @binding(8) var<storage, read_write> y_2: array<f32>;

fn emit(row: u32, column: u32, value: f32) {
    if (column < params.end_0) {
        y[row * params.width + column] = value;
    } else if (column < params.end_1) {
        y_1[row * params.width_1 + column - params.end_0] = value;
    } else {
        y_2[row * params.width_2 + column - params.end_1] = value;
    }
}
