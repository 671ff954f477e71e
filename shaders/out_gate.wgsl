// out_gate: where a matmul writes: silu(gate) * value, or gelu, where a matmul before it gave the gate. Meaning: device/reference.py swiglu, geglu.

@group(0) @binding(6) var<storage, read_write> y: array<f32>;
@group(0) @binding(7) var<storage, read> gate: array<f32>;

fn emit(row: u32, column: u32, value: f32) {
    let i = row * params.width + column;
    y[i] = gated(gate[i]) * value;
}
