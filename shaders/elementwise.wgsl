// What element by element ops share: out[t, i] = combine(x[t, i], y[t, i]), where an op's file says what combine is.
//   x, out: f32 (T, n), y: f32 (T, n), or of a weight (n) or (1), as Y_IS says: 0, 1, 2. Any n.
//   Where out lies on an input, that is bound as out alone, and read there (IN_PLACE: 1 x, 2 y, 3 both).

struct Params { n: u32, are_out: u32 }

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(2) var<storage, read> x: array<f32>;
@group(0) @binding(3) var<storage, read> y: array<f32>;
@group(0) @binding(4) var<storage, read_write> out: array<f32>;

override IN_PLACE: u32 = 0;
override Y_IS: u32 = 0;

fn x_at(at: u32) -> f32 {
    if ((IN_PLACE & 1u) != 0u) { return out[at]; }
    return x[at];
}

fn y_at(at: u32, column: u32) -> f32 {
    if ((IN_PLACE & 2u) != 0u) { return out[at]; }
    if (Y_IS == 0u) { return y[at]; }
    if (Y_IS == 1u) { return y[column]; }
    return y[0];
}

// Each thread of an op's main calls this.
fn combine_all(group: vec3<u32>, groups: vec3<u32>, tid: u32) {
    for (var t = group.y; t < n_rows(params.are_out); t += groups.y) {
        for (var i = group.x * WG + tid; i < params.n; i += groups.x * WG) {
            let at = t * params.n + i;
            out[at] = combine(x_at(at), y_at(at, i));
        }
    }
}
