"""One layer, embedding and head of a model as the members of a group hold them, beside the whole ones.

Test modules reach it through the fixture `members`.
"""

from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise
from pathlib import Path

import torch

from potluck.kernels.attention_plan import Paging
from potluck.kernels.rotary import RotaryTable
from potluck.models.open import open_checkpoint, read_spec
from potluck.models.quantize import with_quantization
from potluck.models.rope import inverse_frequencies
from potluck.proto.step import Outputs, Run, Step
from potluck.worker.batch import BatchBuilder
from potluck.worker.cut import Cut, local_spec
from potluck.worker.decoder import Layer
from potluck.worker.kv import KvShape, new_pool
from potluck.worker.operations import operations_of
from potluck.worker.packing import Packer
from potluck.worker.pieces import Form, Unit, pieces_of
from potluck.worker.residence import HostMemory, Residence
from potluck.worker.weights import Assembly

KEPT = Form("float32", True, True)
UNROUNDED = HostMemory(exact=True)
ROWS = 6


def cuts(spec, heads, columns, vocabulary=(1,)):
    """The cuts of members between these ends: of heads, FFN columns and vocabulary rows; the last ends are left out."""
    axes = []
    for ends, whole in ((heads, spec.heads), (columns, spec.ffn), (vocabulary, spec.vocab)):
        bounds = [0, *ends, whole]
        axes.append(list(pairwise(bounds)))
    return [Cut(*ranges) for ranges in zip(*axes, strict=True)]


@dataclass
class Model:
    """A model, and how its weights are kept."""

    path: Path
    form: Form = KEPT
    bits: str = "none"
    residence: Residence = UNROUNDED

    @cached_property
    def spec(self):
        return with_quantization(read_spec(self.path), self.bits)

    @cached_property
    def checkpoint(self):
        return open_checkpoint(self.path)

    @cached_property
    def packer(self):
        return Packer(self.spec, self.checkpoint)

    @property
    def assembly(self):
        return Assembly(self.spec, self.form, self.residence)

    def rounding(self):
        """The same with activations of 8 bits."""
        return replace(self, residence=HostMemory())

    def pieces(self, unit):
        return pieces_of(self.spec, unit, self.form)

    def placed(self, unit):
        return self.packer.place(self.pieces(unit))

    def layer(self, cut=None):
        """The weights of layer 0."""
        unit = Unit("layer", 0, cut)
        return self.assembly.layer(unit, self.placed(unit))

    def vocabulary(self, name, cut=None):
        """The rows of the embedding's or head's matrix, and the head."""
        unit, norm = Unit(name, cut=cut), Unit("output_norm")
        assembly = self.assembly
        placed = self.placed(unit)
        return assembly.embedding(unit, placed), assembly.head(self.placed(norm), unit, placed)

    def decoder_layer(self, cut=None):
        """Layer 0 with KV of its own."""
        spec = self.spec if cut is None else local_spec(self.spec, cut)
        pool = new_pool(spec, KvShape(4, 4), torch.empty(0))
        operations = operations_of("cpu", spec.heads // spec.kv_heads)
        return Layer(spec, spec.layers[0], self.layer(cut), pool, operations)

    def batch(self):
        """The batch of one prompt of ROWS tokens."""

        def table(rope):
            return RotaryTable(*inverse_frequencies(rope, self.spec.head_dim), torch.device("cpu"))

        paging = Paging(4, None, torch.float32, torch.device("cpu"))
        operations = operations_of("cpu", self.spec.heads // self.spec.kv_heads)
        builder = BatchBuilder(self.spec.layers[:1], paging, table, operations)
        step = Step(1, [Run(1, 0, list(range(ROWS)), [2, 0], Outputs.LAST)])
        return builder.build(step, {1: [2, 0]}, [])


def rows(width, count=ROWS, salt=0):
    """Hidden rows, (count, width)."""
    return torch.randn((count, width), generator=torch.Generator().manual_seed(salt + width))


def weight(product, width):
    """The matrix (O, I) that an exact product without a bias multiplies by, to the bit."""
    return product(torch.eye(width)).T


def run_together(model, parts, x_TD):
    """A layer's output where members add up their partial sums; `parts` are their cuts."""
    spec, batch = model.spec, model.batch()
    layers = [model.decoder_layer(cut) for cut in parts]
    held = [layer._weights for layer in layers]
    norm = layers[0]._operations.norm
    entered = norm(x_TD, held[0].attention_norm, spec.norm_eps, torch.float32)
    attended = sum(own.output(layer._attention(entered, batch)) for own, layer in zip(held, layers, strict=True))
    if spec.post_norms:
        attended = norm(attended, held[0].attention_post_norm, spec.norm_eps, torch.float32)
    x_TD = x_TD + attended
    entered = norm(x_TD, held[0].ffn_norm, spec.norm_eps, torch.float32)
    out = sum(own.down(layers[0]._operations.gate(own.gate_up(entered), spec.activation)) for own in held)
    if spec.post_norms:
        out = norm(out, held[0].ffn_post_norm, spec.norm_eps, torch.float32)
    return x_TD + out
