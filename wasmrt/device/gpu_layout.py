"""How weights lie on a GPU: each row as two streams, and the shaders that lay them out so and read them.

Stream A has the quants, in units of 32 weights that a thread takes with loads of 16 bytes, as its neighbours do with those
beside; stream B, in words of 32 bits, has scales and such bits as do not fill 16 bytes. Rows lie without gaps in both, so a
matrix may be laid out in pieces, and matrices of one format one behind the other are one. Each shaders/quant_*.wgsl says what
lies where in its format.
"""

import base64
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import NamedTuple

from wasmrt.errors import UnsupportedError
from wasmrt.gguf.codebooks import GRIDS
from wasmrt.gguf.types import QuantType

UNIT = 32  # weights
PARAMS = struct.Struct("<4I")  # as repack.wgsl has them
WORKGROUP = 64  # threads: WG in repack.wgsl


class Repack(NamedTuple):
    """A dispatch that lays out rows. It binds the raw bytes, stream A and, if the format has them, stream B and its points."""

    files: tuple[str, ...]  # of shaders/, behind common.wgsl
    constants: Mapping[str, float]
    params: bytes
    workgroups: int
    points: bytes  # that the format's weights are chosen from


@dataclass(frozen=True, slots=True)
class Layout:
    """One format's. `words`: of stream B, as (words, units that they serve), the last of a row's perhaps in part."""

    name: str
    unit_bytes: int  # of stream A
    words: tuple[tuple[int, int], ...]
    shader: str  # that lays it out
    constants: tuple[tuple[str, int], ...] = ()
    readers: tuple[str, ...] = ()  # if not the shader of its name
    grid: str = ""  # the format that has its points

    @property
    def files(self) -> tuple[str, ...]:
        """The shaders that read it: load_unit and, unless is_float, load_ints."""
        return "quant", *(self.readers or (f"quant_{self.name.lower()}",))

    @property
    def is_float(self) -> bool:
        return not self.words

    def units(self, n: int) -> int:
        """Of a row of n weights; float formats are padded with zeros to whole ones."""
        return -(-n // UNIT)

    def a_row_bytes(self, n: int) -> int:
        """Bytes of stream A of a row of n weights: whole 16."""
        return self.unit_bytes * self.units(n)

    def b_row_bytes(self, n: int) -> int:
        """Bytes of stream B of a row of n weights: whole words, 0 if the format has none."""
        return 4 * sum(n_words * -(-self.units(n) // per) for n_words, per in self.words)

    def repack(self, n: int, n_rows: int, first_row: int) -> Repack:
        """Lay out n_rows rows of n weights, raw as in a file, as the rows from first_row on of the bound streams."""
        units = self.units(n)
        n_threads = n_rows * (units * self.unit_bytes // 16 if self.is_float else units)
        params = PARAMS.pack(units, n_threads, first_row, n)
        return Repack(("repack", self.shader), dict(self.constants), params, -(-n_threads // WORKGROUP), self.points)

    @property
    def points(self) -> bytes:
        """What a shader of its grid chooses from, packed as in gguf/codebooks.py; nothing of formats without."""
        return points(self.grid) if self.grid else b""


@cache
def points(grid: str) -> bytes:
    packed = base64.b85decode(GRIDS[grid][2])
    return packed.ljust(-(-len(packed) // 4) * 4, b"\0")


def _looked_up(name: str) -> tuple[str, ...]:
    return "quant_lookup", f"quant_{name}"


LAYOUTS: dict[str, Layout] = {
    layout.name: layout
    for layout in (
        Layout("F32", 128, (), "repack_float", (("HALVES", 0),)),
        Layout("F16", 64, (), "repack_float", (("HALVES", 1),)),
        Layout("BF16", 64, (), "repack_float", (("HALVES", 1),)),
        Layout("Q8_0", 32, ((1, 2),), "repack_q8_0"),
        Layout("Q4_0", 16, ((1, 2),), "repack_legacy", (("HAS_M", 0), ("HAS_FIFTH", 0))),
        Layout("Q4_1", 16, ((1, 1),), "repack_legacy", (("HAS_M", 1), ("HAS_FIFTH", 0))),
        Layout("Q5_0", 16, ((3, 2),), "repack_legacy", (("HAS_M", 0), ("HAS_FIFTH", 1))),
        Layout("Q5_1", 16, ((2, 1),), "repack_legacy", (("HAS_M", 1), ("HAS_FIFTH", 1))),
        Layout("Q2_K", 8, ((5, 8),), "repack_q2_k"),
        Layout("Q3_K", 8, ((12, 8), (1, 16)), "repack_q3_k"),
        Layout("Q4_K", 16, ((5, 8),), "repack_q4_k", (("HAS_FIFTH", 0),)),
        Layout("Q5_K", 16, ((13, 8),), "repack_q4_k", (("HAS_FIFTH", 1),)),
        Layout("Q6_K", 16, ((21, 8),), "repack_q6_k"),
        Layout("IQ4_NL", 16, ((1, 2),), "repack_legacy", (("HAS_M", 0), ("HAS_FIFTH", 0)), _looked_up("iq4_nl")),
        Layout("IQ4_XS", 16, ((2, 8),), "repack_iq4_xs", readers=_looked_up("iq4_xs")),
        Layout("MXFP4", 16, ((1, 4),), "repack_mxfp4", readers=_looked_up("mxfp4")),
        # Of these a GPU holds more than a file does (2.1, 2.5, 3.4 or 4.25 bits a weight): what is packed closer, or looked up
        # in large tables, would be unpacked again for each token.
        Layout("TQ1_0", 8, ((1, 8),), "repack_ternary", (("PACKED", 1),), _looked_up("ternary")),
        Layout("TQ2_0", 8, ((1, 8),), "repack_ternary", (("PACKED", 0),), _looked_up("ternary")),
        Layout("IQ1_S", 8, ((4, 8),), "repack_iq1", (("MANY", 0),), _looked_up("iq1"), "IQ1_S"),
        Layout("IQ1_M", 8, ((4, 8),), "repack_iq1", (("MANY", 1),), _looked_up("iq1"), "IQ1_S"),
        Layout("IQ2_XXS", 8, ((11, 8),), "repack_iq2", (("SIZE", 0),), _looked_up("iq2"), "IQ2_XXS"),
        Layout("IQ2_XS", 8, ((11, 8),), "repack_iq2", (("SIZE", 1),), _looked_up("iq2"), "IQ2_XS"),
        Layout("IQ2_S", 8, ((11, 8),), "repack_iq2", (("SIZE", 2),), _looked_up("iq2"), "IQ2_S"),
        Layout("IQ3_XXS", 16, ((2, 8),), "repack_iq3", (("LARGE", 0),), _looked_up("iq3_xxs"), "IQ3_XXS"),
        Layout("IQ3_S", 16, ((2, 8),), "repack_iq3", (("LARGE", 1),), _looked_up("iq3_s"), "IQ3_S"),
    )
}


def layout_of(quant: QuantType) -> Layout:
    """A format's layout. Raises UnsupportedError for one that no shader reads."""
    if quant.name not in LAYOUTS:
        supported = ", ".join(LAYOUTS)
        raise UnsupportedError(
            f"tensor type {quant.name} is not supported on a GPU; supported: {supported}; use a file in one of these types"
        )
    return LAYOUTS[quant.name]
