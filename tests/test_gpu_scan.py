"""The GPU's recurrent layers against what they mean, in float64: a pass of many tokens, and as many passes of few.

Bounds on the normalised squared error stand beside the tests: the worst seen on a software adapter over the cases that are
named there, times ten.
"""

import itertools
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.programs import GPU, Kind, Tensor, nmse, normal, random_tensor, record, run_op, tensor
from tests.test_gpu_small import Folded, Guarded
from wasmrt.device import reference as meaning
from wasmrt.errors import UnsupportedError

pytestmark = pytest.mark.usefixtures("gpu")

seeds = st.integers(0, 2**32 - 1)
kinds = st.sampled_from([GPU, Folded("gpu")])
# Passes of up to four tokens are lowered by themselves.
cuts = st.one_of(st.lists(st.integers(1, 9), min_size=1, max_size=5), st.sampled_from([[130], [1, 65, 3], [64, 1, 1, 2]]))


def in_passes(kind: Kind, cuts: list[int], tensors: dict[str, Tensor], page: Any) -> Any:
    """What a program of one segment gives for all rows of its tables, in passes of so many tokens."""
    ends = list(itertools.accumulate(cuts, initial=0))
    with Guarded(kind, (record(page, tensors), tensors), max_tokens=max(cuts), context=ends[-1]) as rig:
        return np.concatenate([rig.run(range(begin, end), begin) for begin, end in itertools.pairwise(ends)])


# Worst over 30: 6e-14.
@settings(max_examples=25)
@given(
    kind=kinds,
    cuts=cuts,
    shape=st.one_of(
        st.tuples(st.integers(1, 9), st.integers(1, 9), st.integers(1, 40)),
        st.sampled_from([(257, 1, 16), (3, 64, 128), (2, 65, 63), (1, 1, 1), (2, 3, 300)]),
    ),
    data=st.data(),
    of_a=st.sampled_from(["one", "each"]),
    with_d=st.sampled_from([None, "row", "rows", "F16"]),
    seed=seeds,
)
def test_ssm_scan(kind, cuts, shape, data, of_a, with_d, seed):
    """shape: heads, elements of x and of the state of each. Mamba has heads of one element, Mamba-2 one decay for a head."""
    n_heads, p, n = shape
    n_groups = data.draw(st.sampled_from([g for g in range(1, n_heads + 1) if n_heads % g == 0]))
    total = sum(cuts)
    ins = {
        "x": normal(seed, (total, n_heads * p)), "dt": normal(seed + 1, (total, n_heads), 3.0),
        "b": normal(seed + 2, (total, n_groups * n)), "c": normal(seed + 3, (total, n_groups * n)),
    }  # fmt: skip
    rng = np.random.default_rng(seed)
    a = -rng.uniform(0.001, 4.0, (n_heads, 1 if of_a == "one" else n)).astype(np.float32)
    tensors = {name: tensor(x) for name, x in ins.items()} | {"a": tensor(a)}
    d = None
    if with_d:
        shape_of_d = (1, n_heads) if with_d == "rows" else (n_heads,)
        tensors["d"] = random_tensor(seed + 4, "F16" if with_d == "F16" else "F32", *shape_of_d)
        d = tensors["d"].values()

    def page(t: Any, w: Any) -> Any:
        x, dt, b, c = (t.embed(getattr(w, name)) for name in ins)
        return t.last_rows(t.ssm_scan(x, dt, b, c, w.a, n_groups, w.d if with_d else None))

    exact = [x.astype(np.float64) for x in (*ins.values(), a)]
    want = meaning.ssm_scan(np.zeros(n_heads * p * n), *exact, d, n_heads, n_groups)
    assert nmse(in_passes(kind, cuts, tensors, page), want) < 6e-13


# Worst over 30: 3.3e-14.
@settings(max_examples=25)
@given(
    kind=kinds,
    cuts=cuts,
    k_heads=st.integers(1, 4),
    repeat=st.integers(1, 3),
    shape=st.one_of(
        st.tuples(st.integers(1, 70), st.integers(1, 70)), st.sampled_from([(128, 128), (257, 65), (1, 1), (512, 3), (64, 257)])
    ),
    tiled=st.booleans(),
    seed=seeds,
)
def test_delta_net(kind, cuts, k_heads, repeat, shape, tiled, seed):
    """shape: elements of a head's keys and of its values. Keys have the length 1, as models make them."""
    d, d_v = shape
    n_heads, total = k_heads * repeat, sum(cuts)
    rng = np.random.default_rng(seed)
    k = normal(seed + 1, (total, k_heads, d))
    k /= np.linalg.norm(k, axis=-1, keepdims=True)
    ins = {
        "q": normal(seed, (total, k_heads * d)), "k": k.reshape(total, -1), "v": normal(seed + 2, (total, n_heads * d_v)),
        "g": -rng.uniform(0.0, 2.0, (total, n_heads)).astype(np.float32),
        "beta": rng.uniform(0.0, 1.0, (total, n_heads)).astype(np.float32),
    }  # fmt: skip
    tensors = {name: tensor(x) for name, x in ins.items()}

    def page(t: Any, w: Any) -> Any:
        return t.last_rows(t.delta_net(*(t.embed(getattr(w, name)) for name in ins), k_heads, 0.3, tiled))

    exact = [x.astype(np.float64) for x in ins.values()]
    want = meaning.delta_net(np.zeros(n_heads * d * d_v), *exact, n_heads, k_heads, 0.3, tiled)
    assert nmse(in_passes(kind, cuts, tensors, page), want) < 4e-13


def test_states_that_are_too_large():
    x, one = normal(1, (1, 513)), normal(2, (1, 1))
    with pytest.raises(UnsupportedError, match="at most 512"):
        run_op(GPU, "delta_net", x, x, one, one, one, n_k_heads=1, scale=1.0, tiled=False)
    wide = normal(1, (1, 2049))
    with pytest.raises(UnsupportedError, match="at most 2048"):
        run_op(GPU, "ssm_scan", one, one, wide, wide, tensor(one))
