"""One node against llama.cpp: the same GGUF files, one thread each, in turns.

    python bench/vs_llamacpp.py --peer PYTHON [--json] [--save]

PYTHON is an interpreter that has the package xllamacpp (llama.cpp from a wheel; not a dependency of Potluck). Models:
SmolLM2-135M Q4_1, and a llama of 1B random weights in Q4_0, written for the occasion. Potluck's figures are of one
worker's shard in this process, llama.cpp's are its own timings: neither has a server in it.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from kept import keep
from pipeline import machine
from synthetic import write_model

from potluck.kernels import packed
from potluck.models.open import read_spec
from potluck.models.source import locate
from potluck.worker.lone_shard import LoneShard, prompt_of, whole_model
from potluck.worker.shard_file import OnBytes

KV_TOKENS = 8192
GOALS = {
    "smollm2": {"decode": 1.0, "prefill_128": 2.5, "prefill_512": 2.5, "decode_batch8": 2.0},
    "synth_1b": {"decode": 1.0, "prefill_128": 1.25, "prefill_512": 1.25, "decode_batch8": 1.2},
}


class LlamaCpp:
    """The peer, in a process of its own."""

    def __init__(self, python: str, path: Path) -> None:
        command = [python, str(Path(__file__).with_name("llamacpp_peer.py")), str(path), "1", "8192"]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )
        self.system = str(self._read()["system"])  # type: ignore[index]

    def generate(self, prompts: list[list[int]], tokens: int) -> tuple[float, float]:
        """Seconds of the (first) prompt, and of decoding, per llama.cpp's own clock."""
        if self._process.stdin is None:
            raise OSError("the peer has no pipe")
        self._process.stdin.write(json.dumps({"prompts": prompts, "tokens": tokens}) + "\n")
        self._process.stdin.flush()
        timings = self._read()
        steps = max(timing["predicted_ms"] for timing in timings) / 1e3  # type: ignore[index, call-overload]
        return timings[0]["prompt_ms"] / 1e3, steps  # type: ignore[index, call-overload]

    def close(self) -> None:
        """End it."""
        if self._process.stdin is not None:
            self._process.stdin.close()
        self._process.wait(30)

    def _read(self) -> object:
        while self._process.stdout is not None and (line := self._process.stdout.readline()):
            if line.startswith(("[", "{")):
                return json.loads(line)
        raise OSError("the peer ended; has its Python the package xllamacpp?")


def measure(ours: LoneShard, peer: LlamaCpp, rounds: int) -> dict[str, float]:
    """Tokens per second of both sides, and the medians of their ratios in each turn."""
    cases = {
        "prefill_128": ([prompt_of(128, 1000)], 1, 0, 128),
        "prefill_512": ([prompt_of(512, 1000)], 1, 0, 512),
        "decode": ([prompt_of(32, 1000)], 64, 1, 64),
        "decode_batch8": ([prompt_of(32, 1000, salt) for salt in range(8)], 64, 1, 8 * 64),
    }
    results: dict[str, float] = {}
    for name, (prompts, tokens, which, count) in cases.items():
        sides = [(ours.generate(prompts, tokens)[which], peer.generate(prompts, tokens)[which]) for _ in range(rounds)]
        results[f"{name}_potluck"] = round(count / statistics.median(mine for mine, _ in sides), 1)
        results[f"{name}_llamacpp"] = round(count / statistics.median(theirs for _, theirs in sides), 1)
        results[name] = round(statistics.median(theirs / mine for mine, theirs in sides), 2)
    return results


def _uncounted(activity: str, total: int) -> OnBytes:
    return lambda count: None


def _uncounted(activity: str, total: int) -> OnBytes:
    return lambda count: None


def table(results: dict[str, dict[str, float]]) -> str:
    """The results as Markdown."""
    rows = ["| model | figure | Potluck, tokens/s | llama.cpp | ratio | goal |", "|---|---|---|---|---|---|"]
    for model, found in results.items():
        for name, goal in GOALS[model].items():
            ours, theirs = found[f"{name}_potluck"], found[f"{name}_llamacpp"]
            rows.append(f"| {model} | {name} | {ours} | {theirs} | {found[name]} | >= {goal} |")
    return "\n".join(rows)


def main() -> None:
    """Measure, print, keep."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer", default=sys.executable, help="a Python with xllamacpp (default: this one)")
    parser.add_argument("--backend", default="", help="avx512, avx2, neon or generic (default: the best)")
    parser.add_argument("--dtype", default="quantized", choices=("quantized", "weight-only", "bfloat16"))
    parser.add_argument("--rounds", type=int, default=5, help="turns (default: 5)")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    parser.add_argument("--save", action="store_true", help="keep the table in bench/results/vs_llamacpp.md")
    flags = parser.parse_args()
    torch.set_num_threads(1)
    backend = packed.backend(flags.backend)
    if backend is None:
        parser.error(f"this processor has no {flags.backend}")
    results, system = {}, ""
    with tempfile.TemporaryDirectory() as folder:
        smollm2 = locate("smollm2", Path(folder)).path
        synthetic = Path(folder) / "synth_1b.gguf"
        write_model(synthetic, smollm2)
        for name, path in (("smollm2", smollm2), ("synth_1b", synthetic)):
            peer = LlamaCpp(flags.peer, path)
            ours = LoneShard(path, read_spec(path), whole_model(KV_TOKENS, flags.dtype), Path(folder), _uncounted)
            results[name], system = measure(ours, peer, flags.rounds), peer.system
            peer.close()
    print(json.dumps(results, indent=2) if flags.json else f"{table(results)}\n\nllama.cpp: {system}")
    if flags.save:
        where = f"{machine()}; Potluck's backend {backend}; one thread each; {time.strftime('%Y-%m-%d')}"
        text = f"# bench/vs_llamacpp.py\n\n{where}\n\nllama.cpp: {system}\n\n{table(results)}\n"
        keep("vs_llamacpp", text)


if __name__ == "__main__":
    main()
