"""The tables under `results/`: written anew by a bench, with what somebody noted below them."""

from __future__ import annotations

from pathlib import Path

_NOTES = "\n## Notes\n"


def keep(name: str, text: str) -> None:
    """Write `results/NAME.md`; what stands there from the heading `Notes` on stays."""
    path = Path(__file__).parent / "results" / f"{name}.md"
    before = path.read_text() if path.exists() else ""
    notes = before[before.index(_NOTES) :] if _NOTES in before else ""
    path.write_text(text.rstrip() + "\n" + notes)
