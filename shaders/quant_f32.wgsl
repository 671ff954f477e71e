// F32: the weights, padded with zeros to whole units. Eight vec4 a unit; no wb.

const HAS_MIN: bool = false;

fn load_unit(row: u32, u: u32) -> Unit {
    let at = (row * params.units + u) << 3u;
    let a = mat4x4<f32>(
        bitcast<vec4<f32>>(wa[at]), bitcast<vec4<f32>>(wa[at + 1u]),
        bitcast<vec4<f32>>(wa[at + 2u]), bitcast<vec4<f32>>(wa[at + 3u]));
    let b = mat4x4<f32>(
        bitcast<vec4<f32>>(wa[at + 4u]), bitcast<vec4<f32>>(wa[at + 5u]),
        bitcast<vec4<f32>>(wa[at + 6u]), bitcast<vec4<f32>>(wa[at + 7u]));
    return Unit(a, b, 1.0, 1.0, 0.0, 0.0);
}
