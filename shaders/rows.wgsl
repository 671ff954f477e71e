// rows: of ops that take rows one by one, or element by element. An activation has as many rows as a pass has tokens, or, where
//   `are_out` says so, as it has rows whose logits are wanted.
//   Element by element: a grid goes over columns and rows in strides of its own size, so that any grid covers any number.

override WG: u32 = 64;

fn n_rows(are_out: u32) -> u32 {
    return select(state.n_tokens, state.n_out, are_out != 0u);
}
