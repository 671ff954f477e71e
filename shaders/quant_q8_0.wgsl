// Q8_0: w = d * q. Two vec4 of q, as i8, a unit; wb: of each row d (f16), two units a word.

const HAS_MIN: bool = false;

fn signed_floats(w: vec4<u32>) -> mat4x4<f32> {
    return mat4x4<f32>(
        vec4<f32>(unpack4xI8(w.x)), vec4<f32>(unpack4xI8(w.y)), vec4<f32>(unpack4xI8(w.z)), vec4<f32>(unpack4xI8(w.w)));
}

fn load_ints(row: u32, u: u32) -> Ints {
    let at = (row * params.units + u) << 1u;
    let d = half_of(wb[row * ((params.units + 1u) >> 1u) + (u >> 1u)], u);
    return Ints(wa[at], wa[at + 1u], d, d, 0.0, 0.0);
}

fn load_unit(row: u32, u: u32) -> Unit {
    let q = load_ints(row, u);
    return Unit(signed_floats(q.a), signed_floats(q.b), q.da, q.db, 0.0, 0.0);
}
