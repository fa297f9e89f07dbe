"""What a cut takes of a tensor: by the tensor's role, never by the model's family. Pure.

Rows of q, k and v go by heads, rows of gate and up by FFN columns; the output and down matrices are cut by columns
(Megatron-LM, arXiv 1909.08053). A quantised matrix is cut where its blocks end: where a range ends inside a block, both
neighbours hold the whole block, and columns that are not their own are multiplied by zeros. Nothing is quantised anew.
"""

from __future__ import annotations

from typing import NamedTuple

from potluck.kernels.packed import block_columns
from potluck.models.roles import Role, TensorKey, shape_of
from potluck.models.spec import ModelSpec
from potluck.worker.cut import Cut, Range, computed_heads, kv_heads

PICKED_BLOCK = 32  # columns of the smallest block that groups with a zero point are kept in


class Take(NamedTuple):
    """Part of a tensor, half-open ranges; None is all.

    Attributes:
        rows: of the tensor; where it follows a matrix, of that matrix's columns in the order in which they are stored.
        columns: in the order in which they are stored, before they are widened to whole blocks.
        inputs: columns as the model numbers them, picked out of a matrix that stores them in another order.
        follows: the matrix whose stored order of columns the rows go by.
    """

    rows: Range | None = None
    columns: Range | None = None
    inputs: Range | None = None
    follows: TensorKey | None = None


ALL = Take()


def take_of(spec: ModelSpec, role: Role, cut: Cut | None) -> Take:
    """What a member takes of the tensors of a role, where columns are stored in the model's order."""
    if cut is None:
        return ALL
    shape, columns = shape_of(spec, role), _columns(spec, role, cut)
    if columns is not None:
        return ALL if columns == (0, shape[1]) else Take(columns=columns)
    rows = _rows(spec, role, cut)
    return ALL if rows is None or rows == (0, shape[0]) else Take(rows=rows)


def own_inputs(spec: ModelSpec, role: Role, cut: Cut) -> Range:
    """Where, in the input that a member has for its output or down matrix, the columns are that count there."""
    if role is Role.DOWN:
        return 0, length(cut.columns)
    before = cut.heads[0] - computed_heads(spec, cut)[0]
    return before * spec.head_dim, (before + length(cut.heads)) * spec.head_dim


def widened(encoding: str, columns: Range) -> Range:
    """The columns of the whole blocks that hold a range; a block of plain numbers is one of them."""
    block = block_columns(encoding)
    return columns[0] // block * block, -(-columns[1] // block) * block


def picked_encoding(encoding: str) -> str:
    """The encoding of picked columns: every block is of one group, and the smallest blocks leave the least empty."""
    return f"{encoding.partition('_')[0]}_G{PICKED_BLOCK}"


def picked_columns(encoding: str, total: int, picked: int) -> int:
    """Columns that are enough for so many of a matrix's `total`, wherever its groups have them.

    A group's picked columns fill whole blocks but for the last: at the worst every group has one in a block of its own,
    and the others fill blocks.
    """
    groups = total // block_columns(encoding)
    blocks = picked if picked < groups else groups + (picked - groups) // PICKED_BLOCK
    return min(blocks, total // PICKED_BLOCK) * PICKED_BLOCK


def length(found: Range) -> int:
    """How many a range holds."""
    return found[1] - found[0]


def _rows(spec: ModelSpec, role: Role, cut: Cut) -> Range | None:
    match role:
        case Role.Q | Role.Q_BIAS:
            return _scaled(computed_heads(spec, cut), spec.head_dim)
        case Role.K | Role.V | Role.K_BIAS | Role.V_BIAS:
            return _scaled(kv_heads(spec, cut), spec.head_dim)
        case Role.GATE | Role.UP:
            return cut.columns
        case Role.EMBEDDING | Role.HEAD:
            return cut.vocabulary
    return None


def _columns(spec: ModelSpec, role: Role, cut: Cut) -> Range | None:
    match role:
        case Role.O:
            return _scaled(cut.heads, spec.head_dim)
        case Role.DOWN:
            return cut.columns
    return None


def _scaled(heads: Range, width: int) -> Range:
    return heads[0] * width, heads[1] * width
