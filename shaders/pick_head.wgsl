// pick_head: which rows meet in a matmul of heads: z counts pairs of a token and a head; each head has its part of a row of x, a
//   matrix and its columns of y. Twins: pick_expert.wgsl, and HEADED in matmul_few.wgsl, matmul_tiled.wgsl.

struct Pick { x_row: u32, y_row: u32, at: u32, column: u32, there: bool }

fn pick(z: u32) -> Pick {
    let token = z / params.n_used;
    let i = z - token * params.n_used;
    let head = params.first_expert + i;
    return Pick(token * params.per_expert + head, token, params.at + i * params.expert_rows, head * params.expert_rows, true);
}
