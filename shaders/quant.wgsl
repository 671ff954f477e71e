// What the weights' formats share. A matrix lies as device/gpu_layout.py says, in units of 32 consecutive weights of a row. A file
//   quant_NAME.wgsl behind this one gives, of the format NAME:
//     const HAS_MIN: bool                        whether ma, mb can be other than 0
//     fn load_unit(row: u32, u: u32) -> Unit     unit u of a row
//     fn load_ints(row: u32, u: u32) -> Ints     the same for integer products; not of F32, F16 and BF16
//   They read what an op's file declares: wa: array<vec4<u32>>, wb: array<u32> and params.units, the units of a row.
//   Meaning: gguf/quants/, bit for bit, if d * q and + m are rounded one after the other.

// Weight 4c + r is da * a[c][r] + ma, weight 16 + 4c + r is db * b[c][r] + mb; a and b hold small integers, or a float format's
// weights with da = db = 1.
struct Unit { a: mat4x4<f32>, b: mat4x4<f32>, da: f32, db: f32, ma: f32, mb: f32 }

// The same integers as i8, four a word: weight 4c + r is byte r of a[c].
struct Ints { a: vec4<u32>, b: vec4<u32>, da: f32, db: f32, ma: f32, mb: f32 }

// Unsigned bytes as floats, less `minus`. (A byte becomes a float in one instruction on some GPUs, if it is unsigned.)
fn floats(w: vec4<u32>, minus: f32) -> mat4x4<f32> {
    let m = vec4<f32>(minus);
    return mat4x4<f32>(
        vec4<f32>(unpack4xU8(w.x)) - m, vec4<f32>(unpack4xU8(w.y)) - m,
        vec4<f32>(unpack4xU8(w.z)) - m, vec4<f32>(unpack4xU8(w.w)) - m);
}

// Bytes below 128, less n (1 to 128) each, as i8: the top bit lends, so that no byte takes from its neighbour.
fn less(w: vec4<u32>, n: u32) -> vec4<u32> {
    return ((w | vec4<u32>(0x80808080u)) - vec4<u32>(n * 0x01010101u)) ^ vec4<u32>(0x80808080u);
}

// Four bits a weight: byte j has weight j low and weight 16 + j high.
fn nibbles_a(w: vec4<u32>) -> vec4<u32> { return w & vec4<u32>(0x0F0F0F0Fu); }
fn nibbles_b(w: vec4<u32>) -> vec4<u32> { return (w >> vec4<u32>(4u)) & vec4<u32>(0x0F0F0F0Fu); }

// Two bits a weight, of 16 weights: bits 2c and 2c + 1 of byte r are weight 4c + r's.
fn two_bits(w: u32) -> vec4<u32> { return (vec4<u32>(w) >> vec4<u32>(0u, 2u, 4u, 6u)) & vec4<u32>(0x03030303u); }

// A bit a weight: bit c of byte r is weight 4c + r's.
fn bits_a(w: u32) -> vec4<u32> { return (vec4<u32>(w) >> vec4<u32>(0u, 1u, 2u, 3u)) & vec4<u32>(0x01010101u); }
fn bits_b(w: u32) -> vec4<u32> { return (vec4<u32>(w) >> vec4<u32>(4u, 5u, 6u, 7u)) & vec4<u32>(0x01010101u); }

// The f16 in the low (i even) or high half of a word.
fn half_of(word: u32, i: u32) -> f32 { return unpack2x16float(word >> ((i & 1u) << 4u)).x; }
