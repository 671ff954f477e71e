// pick_expert: which rows meet in a matmul of experts: z counts pairs of a token and one of its experts.

@group(0) @binding(9) var<storage, read> experts: array<u32>;

struct Pick { x_row: u32, y_row: u32, at: u32, column: u32, there: bool }

fn pick(z: u32) -> Pick {
    let token = z / params.n_used;
    let expert = experts[z] - params.first_expert;  // wraps round for those that come before
    let there = expert < params.n_rows / params.expert_rows;
    return Pick(select(token, z, params.per_expert == 1u), token, params.at + expert * params.expert_rows,
                (z - token * params.n_used) * params.expert_rows, there);
}
