// kv_read: reading the cache, whose layout is in kv_write.wgsl, four elements at a time.
//   Both are bound as vec4<u32>: of f32 that is four elements, of f16 eight, of which two threads side by side take half each.

override F16: bool;
override CAPACITY: u32;
override KEY_DIM: u32;
override VALUE_DIM: u32;

override K4: u32 = ((KEY_DIM + 7u) >> 3u) << 1u;  // fours of a position of a head
override V4: u32 = ((VALUE_DIM + 7u) >> 3u) << 1u;

const FLOOR: f32 = -1e30;  // below any score; infinities are not to be relied on

// Four i, where it lies.
fn four_at(i: u32) -> u32 {
    if (F16) { return i >> 1u; }
    return i;
}

fn four_of(w: vec4<u32>, i: u32) -> vec4<f32> {
    if (F16) {
        let halves = select(w.xy, w.zw, vec2<bool>((i & 1u) == 1u));
        return vec4<f32>(unpack2x16float(halves.x), unpack2x16float(halves.y));
    }
    return bitcast<vec4<f32>>(w);
}

fn key_four(i: u32) -> vec4<f32> { return four_of(keys[four_at(i)], i); }
fn value_four(i: u32) -> vec4<f32> { return four_of(values[four_at(i)], i); }
