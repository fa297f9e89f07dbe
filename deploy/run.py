"""`cluster run`: one answer, streamed to the terminal, no server."""

from __future__ import annotations

import asyncio
import secrets
import sys
import time
from dataclasses import dataclass

import orjson

from potluck.coordinator.deployment import Deployment
from potluck.coordinator.engine import ServingEngine
from potluck.coordinator.generation import Generation
from potluck.coordinator.metrics import Metrics
from potluck.deploy.console import ERR
from potluck.deploy.prepare import Prepared
from potluck.deploy.progress import TerminalProgress
from potluck.models.tokenizer import Tokenizer
from potluck.proto.step import Sampling


@dataclass(frozen=True, slots=True)
class Ask:
    """What to generate. `raw` continues the prompt as text, without the chat template."""

    prompt: str
    max_tokens: int
    temperature: float
    seed: int | None
    raw: bool


def run(prepared: Prepared, ask: Ask, as_json: bool) -> int:
    """Start the fleet, print one answer, stop the fleet. Returns the exit code.

    Raises:
        ValueError: the prompt does not fit the context.
    """
    tokenizer = prepared.tokenizer()
    try:
        generation = _generation(tokenizer, ask, prepared.serving.context)
        engine = ServingEngine(prepared.name, prepared.serving.context, Metrics())
        deployment = Deployment(prepared.fabric, engine, prepared.files, prepared.serving)
        progress = TerminalProgress(show_plan=False)
        try:
            deployment.start(progress)
            asyncio.run(_print_answer(engine, tokenizer, generation, as_json))
        finally:
            progress.close()
            deployment.stop()
    finally:
        tokenizer.close()
    return 0


def _generation(tokenizer: Tokenizer, ask: Ask, context: int) -> Generation:
    if ask.raw or not tokenizer.has_chat_template:
        prompt = tokenizer.encode_prompt(ask.prompt)
    else:
        prompt = tokenizer.encode_chat([{"role": "user", "content": ask.prompt}])
    if not prompt:
        raise ValueError("the prompt is empty; give it some text")
    if len(prompt) >= context:
        raise ValueError(f"the prompt has {len(prompt)} tokens, the context {context}; shorten it or raise --context")
    seed = secrets.randbits(63) if ask.seed is None else ask.seed
    sampling = Sampling(seed=seed, temperature=ask.temperature, prompt_tokens=len(prompt))
    return Generation(tuple(prompt), sampling, min(ask.max_tokens, context - len(prompt)), tokenizer.end_ids)


async def _print_answer(engine: ServingEngine, tokenizer: Tokenizer, generation: Generation, as_json: bool) -> None:
    begun, first, count, finish = time.monotonic(), 0.0, 0, None
    detokenizer, pieces = tokenizer.detokenizer(), []
    (stream,) = engine.submit([generation])
    async for drawn in stream:
        first = first or time.monotonic()
        finish = drawn.finish
        if drawn.token is None:
            continue
        count += 1
        pieces.append("" if drawn.token in tokenizer.end_ids else detokenizer.feed(drawn.token))
        if not as_json:
            sys.stdout.write(pieces[-1])
            sys.stdout.flush()
    pieces.append(detokenizer.finish())
    seconds = time.monotonic() - first
    rate = (count - 1) / seconds if count > 1 and seconds > 0 else 0.0
    if as_json:
        report = {"text": "".join(pieces), "tokens": count, "finish_reason": finish}
        report |= {"time_to_first_token": first - begun, "tokens_per_second": rate}
        sys.stdout.write(orjson.dumps(report, option=orjson.OPT_INDENT_2).decode() + "\n")
        return
    sys.stdout.write(pieces[-1] + "\n")
    ERR.print(
        f"{count} tokens, first after {first - begun:.2f} s, then {rate:.1f} tokens/s", style="dim", highlight=False
    )
