// What the kernels that end a pass of a chain share: a chain is passes in one submit, each beginning with the token that the
//   one before chose. The host reads it as device/gpu_choose.py CHAIN says.

struct State { n_tokens: u32, pos: u32, n_out: u32, n_split: u32 }  // as in common.wgsl, but written

struct Chain {
    step: u32,   // tokens chosen
    ended: u32,  // one of these, which no later pass changes
    unused_0: u32,
    unused_1: u32,
    tokens: array<u32>,
}

const GOES_ON = 0u;
const UNFIT_LOGITS = 1u;  // NaN or infinite
const UNDECIDED = 2u;     // what is at hand does not tell the token

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(2) var<storage, read_write> state: State;
@group(0) @binding(3) var<storage, read_write> tokens: array<u32>;
@group(0) @binding(4) var<storage, read_write> chain: Chain;

// One thread calls this. A chain that has ended stays as it is: later passes compute the same row for the same position again.
fn choose(ended: u32, token: u32) {
    if (chain.ended != GOES_ON) { return; }
    if (ended != GOES_ON) {
        chain.ended = ended;
        return;
    }
    let step = chain.step;
    if (step >= arrayLength(&chain.tokens)) { return; }
    chain.tokens[step] = token;
    chain.step = step + 1u;
    tokens[0] = token;
    state.pos += 1u;
}
