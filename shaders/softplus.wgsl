// softplus: log(1 + exp(x)), as max(x, 0) + log(1 + e), e = exp(-|x|) <= 1. Near 1 log is only good to 5e-7 of 1, so log(1 + e) is
//   the series 2 (s + s^3/3 + s^5/5 + ...) of s = e / (2 + e) <= 1/3.

fn softplus(x: f32) -> f32 {
    let e = exp(-abs(x));
    let s = e / (2.0 + e);
    let q = s * s;
    let rest = q * (1.0 / 3.0 + q * (0.2 + q * (1.0 / 7.0 + q * (1.0 / 9.0 + q * (1.0 / 11.0 + q * (1.0 / 13.0))))));
    return max(x, 0.0) + 2.0 * s * (1.0 + rest);
}
