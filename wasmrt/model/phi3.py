"""Phi-3 and Phi-3.5 MoE: rotations for long contexts; gate and up in one matrix, or experts. Source: arXiv 2404.14219."""

from wasmrt.model.family import Family
from wasmrt.model.llama import layer
from wasmrt.model.shapes import fused_up

UNSCALED = ("ffn_",)
FAMILIES = {
    "phi3": Family(layer, rope="halves", unscaled=UNSCALED, shapes=fused_up),
    "phimoe": Family(layer, rope="halves", unscaled=UNSCALED),
}
