"""What the command line asks for about placement, checked against the model, and the goal that makes of it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from potluck.coordinator.serving import Wire
from potluck.deploy.machine import can_multiply_quantized
from potluck.models.quantize import with_quantization
from potluck.models.spec import ModelSpec
from potluck.planner.fleet import NodeName
from potluck.planner.goal import Aim, Goal, Solver, Spread
from potluck.worker.hardware import native_dtype

_CONTEXT = 8192
_KV_TOKENS = 16384
_SHARE = re.compile(r"(\S+)=([0-9]{1,3}(?:\.[0-9]+)?)%", re.ASCII)
# Tokens of the prompt and the answer that are predicted for; the time per token is that at the answer's middle.
_PROMPT, _ANSWER = 128, 256


@dataclass(frozen=True, slots=True)
class Wish:
    """What the command line asks for, about placement. None leaves the choice to Potluck."""

    dtype: str = "auto"
    rounds: int = 1
    context: int | None = None
    kv_tokens: int | None = None
    fewest: bool = False
    without: tuple[str, ...] = ()
    max_rows: int = 256
    step_seconds: float = 60.0
    wire: Wire = "tcp"
    quantize: str = "none"
    streaming: bool = True
    prompt: int | None = None
    batch: int = 1
    spread: Spread = "all"
    share: tuple[str, ...] = ()
    solver: Solver = "exact"
    remeasure_after: int = 0
    aim: Aim = "latency"
    pinned: tuple[str, ...] = ()


def context_of(spec: ModelSpec, wish: Wish) -> int:
    """Longest sequence: as asked, never more than the model was made for.

    Raises:
        ValueError: more was asked than the model can do.
    """
    if wish.context and wish.context > spec.context:
        raise ValueError(f"--context {wish.context} is more than the {spec.context} tokens {spec.name} was made for")
    return wish.context or min(spec.context, _CONTEXT)


def wished_spec(spec: ModelSpec, wish: Wish) -> ModelSpec:
    """The model as it is to be kept: in fewer bits where that was asked for.

    Raises:
        ValueError: it has few bits already, or the compute type keeps no formats.
    """
    if wish.quantize != "none" and wish.dtype not in ("auto", "quantized", "weight-only"):
        raise ValueError(f"--quantize {wish.quantize} and --dtype {wish.dtype} exclude each other; leave one out")
    return with_quantization(spec, wish.quantize)


def spread_of(spread: Spread | None, fewest: bool, default: Spread) -> Spread:
    """Who takes part, from the two options that say so.

    Raises:
        ValueError: they contradict each other.
    """
    if fewest and spread not in (None, "fewest"):
        raise ValueError(f"--fewest is --spread fewest, but --spread says {spread}; leave one out")
    return "fewest" if fewest else spread or default


def auto_dtype(spec: ModelSpec) -> str:
    """What `--dtype auto` means for a model: its weights as they are stored where that can be computed with."""
    return "quantized" if spec.encodings and can_multiply_quantized() else native_dtype()


def goal_of(spec: ModelSpec, name: str, wish: Wish) -> Goal:
    """What the planner plans for.

    Raises:
        ValueError: the prompt leaves no room for an answer, or see `context_of`.
    """
    context = context_of(spec, wish)
    prompt = wish.prompt or min(_PROMPT, context // 2)
    if prompt >= context:
        raise ValueError(f"--prompt {prompt} leaves no room for an answer in a context of {context} tokens")
    shares = shares_of(wish.share)
    _check_nodes(wish, shares)
    return Goal(
        dtype=_dtype(spec, wish),
        kv_tokens=_kv_tokens(wish, context, prompt),
        rounds=wish.rounds,
        spread=wish.spread,
        shares=shares,
        solver=wish.solver,
        aim=wish.aim,
        batch=wish.batch,
        excluded=frozenset(NodeName(node) for node in wish.without),
        pinned=frozenset(NodeName(node) for node in wish.pinned),
        model=name,
        chunk=wish.max_rows,
        streaming=wish.streaming,
        prompt=prompt,
        context=min(context, prompt + _ANSWER // 2),
        grouping=wish.wire == "tcp",
    )


def _check_nodes(wish: Wish, shares: Mapping[NodeName, float]) -> None:
    """In the words of the command line, before the goal would refuse it in the planner's."""
    for node in wish.without:
        if node in wish.pinned:
            raise ValueError(f"--with {node} and --without {node} contradict each other; leave one out")
        if NodeName(node) in shares:
            raise ValueError(f"--share {node} and --without {node} contradict each other; leave one out")


def _kv_tokens(wish: Wish, context: int, prompt: int) -> int:
    """Room for the requests that are asked about; without such a question, for some of full length."""
    needed = wish.batch * min(context, prompt + _ANSWER // 2) if wish.prompt or wish.batch > 1 else 0
    if wish.kv_tokens and wish.kv_tokens < needed:
        raise ValueError(
            f"--batch {wish.batch} with prompts of {prompt} tokens and their answers need KV for {needed} tokens, "
            f"--kv-tokens says {wish.kv_tokens}; raise it or ask for less"
        )
    return wish.kv_tokens or max(needed, min(4 * context, max(context, _KV_TOKENS)))


def shares_of(words: tuple[str, ...]) -> dict[NodeName, float]:
    """The shares that `--share laptop=30%` asks for, as fractions.

    Raises:
        ValueError: no share is readable there, or a node has two.
    """
    shares: dict[NodeName, float] = {}
    for word in words:
        match = _SHARE.fullmatch(word)
        if match is None:
            raise ValueError(f"--share {word}: write a node and a percentage, as in laptop=30%")
        node, share = NodeName(match[1]), float(match[2]) / 100
        if shares.get(node, share) != share:
            raise ValueError(f"--share gives {node!r} {shares[node]:.0%} and {share:.0%}; choose one")
        shares[node] = share
    return shares


def _dtype(spec: ModelSpec, wish: Wish) -> str:
    if wish.dtype != "auto":
        return wish.dtype
    return "quantized" if wish.quantize != "none" else auto_dtype(spec)
