// What every kernel begins with: what a pass is about, and how it is spread over workgroups.
//   State is the same for all ops of a pass. The host writes it before a pass; in a chain of passes the sampler's kernel does.

struct State {
    n_tokens: u32,  // T
    pos: u32,       // of the first of them
    n_out: u32,     // rows at the end whose logits are wanted
    n_split: u32,   // parts that attention cuts the keys into
}

@group(0) @binding(1) var<uniform> state: State;

// A grid of more than 65535 workgroups is folded into two dimensions; those past the end have nothing to do.
fn group_index(group: vec3<u32>, groups: vec3<u32>) -> u32 {
    return group.y * groups.x + group.x;
}
