"""Every block format against the published gguf package, bit for bit; NaN equals NaN. What it has not, by hand."""

import itertools
import math
import struct

import gguf
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wasmrt.errors import UnsupportedError
from wasmrt.gguf import quants
from wasmrt.gguf.types import BY_NAME, TYPES

# The formats that devices compute with -> where f16 fields lie in a block; for F16 and BF16 the number itself. MXFP4 and IQ1_M
# have their scale elsewhere: random_tensor in tests/programs.py, and below.
F16_FIELDS = {
    "F32": (), "F16": (0,), "BF16": (0,),
    "Q8_0": (0,), "Q4_0": (0,), "Q4_1": (0, 2), "Q5_0": (0,), "Q5_1": (0, 2),
    "Q2_K": (80, 82), "Q3_K": (108,), "Q4_K": (0, 2), "Q5_K": (0, 2), "Q6_K": (208,),
    "IQ4_NL": (0,), "IQ4_XS": (0,), "MXFP4": (), "IQ3_S": (0,), "IQ3_XXS": (0,), "IQ2_S": (0,), "IQ2_XS": (0,),
    "IQ2_XXS": (0,), "IQ1_M": (), "IQ1_S": (0,), "TQ2_0": (64,), "TQ1_0": (52,),
}
# Both zeros, the smallest and largest denormals, the smallest normal, one, the largest, inf, quiet and signalling NaN.
EXTREME_F16 = (
    0x0000, 0x8000, 0x0001, 0x8001, 0x03FF, 0x83FF, 0x0400, 0x3C00, 0xBC00, 0x7BFF, 0xFBFF, 0x7C00, 0xFC00, 0x7E00, 0xFDFF,
)

# Formats of which only tools see tensors, and that the package cannot read.
BY_HAND = ("F64", "I8", "I16", "I32", "I64", "Q8_K")

formats = pytest.mark.parametrize("name", F16_FIELDS)


def truth(name, raw):
    """uint8 (n_rows, row bytes) to float32 by the gguf package, whose warnings about inf and NaN are its own."""
    with np.errstate(all="ignore"):
        return gguf.quants.dequantize(raw, gguf.GGMLQuantizationType[name])


def assert_same_bits(got, want):
    assert got.dtype == np.float32
    assert got.shape == want.shape
    nan = np.isnan(want)
    np.testing.assert_array_equal(np.isnan(got), nan)
    np.testing.assert_array_equal(got.view(np.uint32)[~nan], want.view(np.uint32)[~nan])


def random_rows(seed, name, n_rows, n_blocks):
    return np.random.default_rng(seed).integers(0, 256, (n_rows, n_blocks * BY_NAME[name].block_bytes), dtype=np.uint8)


def test_the_table_is_the_list_above():
    assert {TYPES[id].name for id in quants.DEQUANTIZE} == {*F16_FIELDS, *BY_HAND}


@formats
@given(n_rows=st.integers(0, 4), n_blocks=st.integers(1, 5), seed=st.integers(0, 2**32 - 1))
def test_random_blocks(name, n_rows, n_blocks, seed):
    raw = random_rows(seed, name, n_rows, n_blocks)
    got = quants.dequantize(BY_NAME[name], raw.tobytes(), n_rows, n_blocks * BY_NAME[name].block)
    assert got.shape == (n_rows, n_blocks * BY_NAME[name].block)
    if n_rows:                                                   # the package cannot do none
        assert_same_bits(got, truth(name, raw))


@formats
def test_many_random_blocks(name):
    """16,384 blocks: every f16 exponent and every 6-bit scale occurs many times."""
    raw = random_rows(7, name, 64, 256)
    assert_same_bits(quants.dequantize(BY_NAME[name], raw, 64, 256 * BY_NAME[name].block), truth(name, raw))


@formats
@pytest.mark.parametrize("body", ["random", "zeros", "ones"])
def test_extreme_scales(name, body):
    """Every combination of extreme scale and min, even where the caller made numpy raise on inf * 0."""
    places = F16_FIELDS[name]
    values = np.array(list(itertools.product(EXTREME_F16, repeat=len(places))), dtype="<u2")
    blocks = {"random": random_rows(3, name, len(values), 1)}.get(body)
    if blocks is None:
        blocks = np.full((len(values), BY_NAME[name].block_bytes), 0 if body == "zeros" else 255, dtype=np.uint8)
    for column, place in enumerate(places):
        blocks[:, place : place + 2] = values[:, column : column + 1].view(np.uint8)
    with np.errstate(all="raise"):
        got = quants.dequantize(BY_NAME[name], blocks, len(values), BY_NAME[name].block)
    assert_same_bits(got, truth(name, blocks))


def test_every_exponent_of_mxfp4():
    """Also 2^-128 and 2^-127, which f32 has as subnormal numbers, and 255, which ggml takes for one more."""
    blocks = np.repeat(random_rows(3, "MXFP4", 256, 1)[:, None], 3, axis=1)
    blocks[:, 1, 1:], blocks[:, 2, 1:] = 0, 255
    blocks[..., 0] = np.arange(256)[:, None]
    blocks = blocks.reshape(-1, 17)
    assert_same_bits(quants.dequantize(BY_NAME["MXFP4"], blocks, 768, 32), truth("MXFP4", blocks))


@pytest.mark.parametrize("bits", EXTREME_F16)
def test_extreme_scales_of_iq1_m(bits):
    """Its scale lies in the top nibbles of four words."""
    blocks = random_rows(3, "IQ1_M", 40, 1)
    for i in range(4):
        blocks[:, 49 + 2 * i] = blocks[:, 49 + 2 * i] & 15 | (bits >> (4 * i) & 15) << 4
    assert_same_bits(quants.dequantize(BY_NAME["IQ1_M"], blocks, 40, 256), truth("IQ1_M", blocks))


@pytest.mark.parametrize("name", ["F32", "F16", "BF16"])
def test_plain_numbers_keep_every_special_value(name):
    """Worked out by hand, in bits, because here the package does little more than a cast either."""
    given_bits, want = {
        "F32": ([0x80000000, 0x00000001, 0x7F800000, 0x7FC00000, 0x3F800000], [-0.0, 2.0**-149, np.inf, np.nan, 1.0]),
        "F16": ([0x8000, 0x0001, 0x7C00, 0x7E00, 0x3C00], [-0.0, 2.0**-24, np.inf, np.nan, 1.0]),
        "BF16": ([0x8000, 0x0001, 0x7F80, 0x7FC0, 0x3F80], [-0.0, 2.0**-133, np.inf, np.nan, 1.0]),
    }[name]
    data = np.array(given_bits, dtype="<u4" if name == "F32" else "<u2").tobytes()
    assert_same_bits(quants.dequantize(BY_NAME[name], data, 1, 5), np.array([want], dtype=np.float32))


@pytest.mark.parametrize(
    ("name", "dtype", "numbers"),
    [
        ("F64", "<f8", [-0.0, 1 + 2.0**-24, 1 + 3 * 2.0**-24, 2.0**-149, 1e300, -1e300, math.inf, math.nan]),
        ("I8", "<i1", [-128, -1, 0, 127]),
        ("I16", "<i2", [-(2**15), -1, 0, 2**15 - 1]),
        ("I32", "<i4", [-(2**31), -1, 0, 2**24 + 1, 2**24 + 3, 2**31 - 1]),
        ("I64", "<i8", [-(2**63), -1, 0, 2**24 + 1, 2**24 + 3, 2**63 - 1]),
    ],
)
def test_numbers_without_a_place_in_f32_become_the_nearest(name, dtype, numbers):
    """By struct's rules of rounding, from exact Python numbers."""
    data = np.array(numbers, dtype).tobytes()
    want = [math.copysign(math.inf, x) if abs(x) > 2.0**128 else struct.unpack("f", struct.pack("f", x))[0] for x in numbers]
    with np.errstate(all="raise"):
        got = quants.dequantize(BY_NAME[name], data, 1, len(numbers))
    assert_same_bits(got, np.array([want], np.float32))


def test_q8_k():
    """A scale in f32, 256 numbers, and sums of them that say nothing more."""
    rng = np.random.default_rng(1)
    q = rng.integers(-128, 128, (3, 256)).astype(np.int8)
    d = np.array([0.37, -1e30, math.inf], "<f4")
    blocks = np.concatenate([d[:, None].view(np.uint8), q.view(np.uint8), rng.integers(0, 256, (3, 32), np.uint8)], axis=1)
    with np.errstate(all="ignore"):
        want = d[:, None] * q.astype(np.float32)
    assert_same_bits(quants.dequantize(BY_NAME["Q8_K"], blocks, 3, 256), want)


@formats
def test_any_buffer_at_any_alignment(name):
    """Blocks lie where the file puts them: an odd address, a read-only or writable buffer, a view of a larger one."""
    quant = BY_NAME[name]
    raw = random_rows(5, name, 3, 2)
    shifted = bytearray(b"\xaa" + raw.tobytes())
    want = truth(name, raw)
    for data in (bytes(raw), bytearray(raw), memoryview(shifted)[1:], np.frombuffer(shifted, np.uint8)[1:], raw.reshape(-1)):
        assert_same_bits(quants.dequantize(quant, data, 3, 2 * quant.block).copy(), want)
    both = np.stack([raw, raw], axis=-1)                         # stride 2 along a row: has to be copied
    assert_same_bits(quants.dequantize(quant, both[..., 0], 3, 2 * quant.block), want)


@formats
def test_the_input_is_not_written_to(name):
    raw = random_rows(11, name, 2, 3)
    before = raw.copy()
    quants.dequantize(BY_NAME[name], raw, 2, 3 * BY_NAME[name].block)
    np.testing.assert_array_equal(raw, before)


@formats
def test_wrong_shapes_are_value_errors(name):
    quant = BY_NAME[name]
    data = bytes(6 * quant.block_bytes)
    assert quants.dequantize(quant, data, 2, 3 * quant.block).shape == (2, 3 * quant.block)
    for n_rows, n_blocks in [(2, 4), (1, 3), (-2, -3), (-1, 3), (0, 3)]:
        with pytest.raises(ValueError, match=r"rows of .* weights"):
            quants.dequantize(quant, data, n_rows, n_blocks * quant.block)
    with pytest.raises(ValueError, match="bytes, not"):
        quants.dequantize(quant, data[:-1], 2, 3 * quant.block)
    with pytest.raises(ValueError, match="int8"):
        quants.dequantize(quant, np.zeros(len(data), np.int8), 2, 3 * quant.block)
    if quant.block > 1:
        with pytest.raises(ValueError, match=f"whole blocks of {quant.block}"):
            quants.dequantize(quant, data, 6, quant.block - 1)


@formats
def test_block_functions_check_the_last_axis(name):
    function = quants.DEQUANTIZE[BY_NAME[name].id]
    width = BY_NAME[name].block_bytes
    assert function(np.zeros((2, width), np.uint8)).shape == (2, BY_NAME[name].block)
    for wrong in (np.zeros((2, width + 1), np.uint8), np.zeros(width, np.uint8), np.zeros((2, width), np.int8)):
        with pytest.raises(ValueError, match=f"{name} blocks must be uint8"):
            function(wrong)


@pytest.mark.parametrize("name", sorted(set(BY_NAME) - {*F16_FIELDS, *BY_HAND}))
def test_other_types_are_named_with_what_is_supported(name):
    with pytest.raises(UnsupportedError) as caught:
        quants.dequantize(BY_NAME[name], b"", 0, 0)
    message = str(caught.value)
    assert name in message
    assert all(known in message for known in F16_FIELDS)
    assert "\n" not in message
