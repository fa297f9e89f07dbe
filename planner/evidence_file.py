"""What is known about a plan, to and from plain data, as it stands in a plan file."""

from __future__ import annotations

from potluck.planner.evidence import Alternative, Proof
from potluck.planner.fields import FieldError, fields, items, shown, text


def proof_from(value: object) -> Proof:
    """The proof that plain data describes.

    Raises:
        FieldError: anything unknown, missing or of the wrong kind.
    """
    names = ("strategy", "method", "seconds", "bound")
    data = fields(value, "proof", names, names)
    strategy, method = (text(data[name], f"proof: {name}") for name in names[:2])
    seconds, bound = (_seconds(data[name], f"proof: {name}") for name in names[2:])
    return Proof(strategy, method, seconds, bound)


def proof_data(proof: Proof) -> dict[str, object]:
    """Plain data from which `proof_from` makes an equal proof."""
    return {"strategy": proof.strategy, "method": proof.method, "seconds": proof.seconds, "bound": proof.bound}


def alternatives_from(value: object) -> tuple[Alternative, ...]:
    """The alternatives that plain data describes.

    Raises:
        FieldError: anything unknown, missing or of the wrong kind.
    """
    return tuple(
        _alternative(one, f"alternative {number}") for number, one in enumerate(items(value, "alternatives"), 1)
    )


def alternative_data(alternative: Alternative) -> dict[str, object]:
    """Plain data of one alternative."""
    return {"strategy": alternative.strategy, "seconds": alternative.seconds, "nodes": list(alternative.nodes)}


def _alternative(value: object, where: str) -> Alternative:
    data = fields(value, where, ("strategy", "seconds", "nodes"), ("strategy", "seconds"))
    nodes = data.get("nodes", [])
    listed = items(nodes, f"{where}: nodes") if nodes else ()
    return Alternative(
        text(data["strategy"], f"{where}: strategy"),
        _seconds(data["seconds"], f"{where}: seconds"),
        tuple(text(node, f"{where}: nodes") for node in listed),
    )


def _seconds(value: object, where: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < float("inf"):
        raise FieldError(f"{where} must be seconds, not {shown(value)}")
    return float(value)
