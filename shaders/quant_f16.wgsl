// F16: the weights, two a word, padded with zeros to whole units. Four vec4 a unit; no wb.

const HAS_MIN: bool = false;

fn eight(w: vec4<u32>) -> mat2x4<f32> {
    return mat2x4<f32>(
        vec4<f32>(unpack2x16float(w.x), unpack2x16float(w.y)),
        vec4<f32>(unpack2x16float(w.z), unpack2x16float(w.w)));
}

fn load_unit(row: u32, u: u32) -> Unit {
    let at = (row * params.units + u) << 2u;
    let p = eight(wa[at]);
    let q = eight(wa[at + 1u]);
    let r = eight(wa[at + 2u]);
    let s = eight(wa[at + 3u]);
    return Unit(mat4x4<f32>(p[0], p[1], q[0], q[1]), mat4x4<f32>(r[0], r[1], s[0], s[1]), 1.0, 1.0, 0.0, 0.0);
}
