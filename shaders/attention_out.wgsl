// attention_out: four elements of a row (a token's head) of attention's output, whose rows are not padded.
fn write_four(row: u32, column: u32, x: vec4<f32>) {
    let at = row * VALUE_DIM + 4u * column;
    let n = VALUE_DIM - min(VALUE_DIM, 4u * column);
    if (n > 0u) { y[at] = x.x; }
    if (n > 1u) { y[at + 1u] = x.y; }
    if (n > 2u) { y[at + 2u] = x.z; }
    if (n > 3u) { y[at + 3u] = x.w; }
}
