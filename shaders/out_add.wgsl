// out_add: where a matmul writes: one output, to which a residual is added. IN_PLACE: the residual is what y holds.

override IN_PLACE: bool = false;

@group(0) @binding(6) var<storage, read_write> y: array<f32>;
@group(0) @binding(7) var<storage, read> residual: array<f32>;

fn emit(row: u32, column: u32, value: f32) {
    let i = row * params.width + column;
    if (IN_PLACE) {
        y[i] += value;
    } else {
        y[i] = residual[i] + value;
    }
}
