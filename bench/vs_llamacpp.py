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
from pipeline import machine
from synthetic import write_model

from potluck.kernels import quantized
from potluck.models.decode import decode, stored_rows
from potluck.models.open import open_checkpoint, read_spec
from potluck.models.source import locate
from potluck.proto.step import Outputs, Run, Sampling, Step
from potluck.worker.shard import Shard, ShardConfig, Window

BLOCK, BLOCKS = 16, 512
GOALS = {
    "smollm2": {"decode": 1.0, "prefill_128": 2.5, "prefill_512": 2.5, "decode_batch8": 2.0},
    "synth_1b": {"decode": 1.0, "prefill_128": 1.25, "prefill_512": 1.25, "decode_batch8": 1.2},
}


class Potluck:
    """One shard with the whole model, its weights as the file stores them."""

    def __init__(self, path: Path) -> None:
        spec, checkpoint = read_spec(path), open_checkpoint(path)
        config = ShardConfig(torch.bfloat16, BLOCKS, BLOCK, 512, torch.device("cpu"), quantized=True)
        self.shard = Shard(spec, [Window(0, True, range(len(spec.layers)), True)], config)
        entries = checkpoint.entries
        self.shard.load(
            lambda key: decode(entries[key], checkpoint.raw(key)),
            lambda key: None,
            lambda key: (entries[key].encoding, stored_rows(entries[key], checkpoint.raw(key))),
        )
        self.number = 0

    def generate(self, prompts: list[list[int]], tokens: int) -> tuple[float, float]:
        """Seconds of all prompts, one step each, and of `tokens` steps that decode all of them together."""
        per_sequence, new = BLOCKS // len(prompts), []
        begun = time.perf_counter()
        for number, prompt in enumerate(prompts):
            blocks = list(range(number * per_sequence, (number + 1) * per_sequence))
            new += self._step([Run(number, 0, prompt, blocks, Outputs.LAST, Sampling(temperature=0.0))])
        middle = time.perf_counter()
        for position in range(tokens):
            new = self._step(
                [Run(n, len(prompts[n]) + position, [token], [], Outputs.LAST) for n, token in enumerate(new)]
            )
        ended = time.perf_counter()
        self._step([], list(range(len(prompts))))
        return middle - begun, ended - middle

    def _step(self, runs: list[Run], dropped: list[int] | None = None) -> list[int]:
        self.number += 1
        outcomes = self.shard.run(0, Step(self.number, runs, dropped or []), None)
        return [outcome.token for outcome in outcomes if not isinstance(outcomes, torch.Tensor)] if runs else []


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


def prompt_of(length: int, salt: int = 0) -> list[int]:
    """Tokens without meaning."""
    return [5 + (salt * 31 + i * 7) % 1000 for i in range(length)]


def measure(ours: Potluck, peer: LlamaCpp, rounds: int) -> dict[str, float]:
    """Tokens per second of both sides, and the medians of their ratios in each turn."""
    cases = {
        "prefill_128": ([prompt_of(128)], 1, 0, 128),
        "prefill_512": ([prompt_of(512)], 1, 0, 512),
        "decode": ([prompt_of(32)], 64, 1, 64),
        "decode_batch8": ([prompt_of(32, salt) for salt in range(8)], 64, 1, 8 * 64),
    }
    results: dict[str, float] = {}
    for name, (prompts, tokens, which, count) in cases.items():
        sides = [(ours.generate(prompts, tokens)[which], peer.generate(prompts, tokens)[which]) for _ in range(rounds)]
        results[f"{name}_potluck"] = round(count / statistics.median(mine for mine, _ in sides), 1)
        results[f"{name}_llamacpp"] = round(count / statistics.median(theirs for _, theirs in sides), 1)
        results[name] = round(statistics.median(theirs / mine for mine, theirs in sides), 2)
    return results


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
    parser.add_argument("--backend", default="", help="avx512, avx2 or generic (default: the best)")
    parser.add_argument("--rounds", type=int, default=5, help="turns (default: 5)")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    parser.add_argument("--save", action="store_true", help="keep the table in bench/results/vs_llamacpp.md")
    flags = parser.parse_args()
    torch.set_num_threads(1)
    backend = quantized.backend(flags.backend)
    if backend is None:
        parser.error(f"this processor has no {flags.backend}")
    results, system = {}, ""
    with tempfile.TemporaryDirectory() as folder:
        smollm2 = locate("smollm2", Path(folder)).path
        synthetic = Path(folder) / "synth_1b.gguf"
        write_model(synthetic, smollm2)
        for name, path in (("smollm2", smollm2), ("synth_1b", synthetic)):
            peer = LlamaCpp(flags.peer, path)
            results[name], system = measure(Potluck(path), peer, flags.rounds), peer.system
            peer.close()
    print(json.dumps(results, indent=2) if flags.json else f"{table(results)}\n\nllama.cpp: {system}")
    if flags.save:
        where = f"{machine()}; Potluck's backend {backend}; one thread each; {time.strftime('%Y-%m-%d')}"
        text = f"# bench/vs_llamacpp.py\n\n{where}\n\nllama.cpp: {system}\n\n{table(results)}\n"
        (Path(__file__).parent / "results" / "vs_llamacpp.md").write_text(text)


if __name__ == "__main__":
    main()
