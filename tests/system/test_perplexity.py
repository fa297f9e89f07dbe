"""Perplexity through /v1/completions with echo and logprobs, asked by the official client."""

import asyncio
import math
import threading
from pathlib import Path

import openai
import pytest

from potluck.coordinator.api.app import create_app
from potluck.coordinator.api.options import ApiOptions
from potluck.coordinator.api.server import bind, serve_app
from potluck.coordinator.metrics import Metrics
from potluck.kernels import packed
from potluck.models.tokenizer import load_tokenizer

PROSE = """A market is a place where people who have too much of one thing meet people who have too little of it. The
oldest ones were held at crossings of roads or rivers, because goods are heavy and walking is slow. Someone
brought salt from the coast, someone else brought wool from the hills, and both went home with what they
lacked. Prices were not written anywhere; they were spoken, refused, spoken again, and at last agreed upon
with a handshake that everybody around could see. When coins became common, the handshake stayed. Rulers liked
markets since they could be taxed, and towns grew where rulers allowed them. A good square had a well, a wall
against the wind, a scale that could be trusted, and a person whose task it was to keep the scale honest. Much
of what we call law began as rules about that scale."""

# Rounding in bfloat16 scatters a log-probability by some 0.04 nats either way: a long text averages it out. Where
# products are exact its beginning says the same.
LICENSE = (Path(__file__).parents[2] / "LICENSE").read_text()
TEXT = PROSE + LICENSE[:5500]
BEGINNING = PROSE + LICENSE[:1700]


class Served:
    """An engine behind the real HTTP server, in a thread of its own."""

    def __init__(self, engine, tokenizer):
        self.socket = bind("127.0.0.1", 0)
        self.app = create_app(engine, tokenizer, ApiOptions(), Metrics())
        self.loop, self.stop = asyncio.new_event_loop(), asyncio.Event()
        self.thread = threading.Thread(target=self._run)
        self.thread.start()

    def _run(self):
        self.loop.run_until_complete(serve_app(self.app, self.socket, self.stop, 5.0))
        self.loop.close()

    @property
    def url(self):
        return f"http://127.0.0.1:{self.socket.getsockname()[1]}/v1"

    def close(self):
        self.loop.call_soon_threadsafe(self.stop.set)
        self.thread.join()
        self.socket.close()


def perplexity(logprobs):
    return math.exp(-sum(logprobs) / len(logprobs))


@pytest.fixture(scope="module")
def reference(real):
    """reference(name, text) -> its tokens, and its perplexity in transformers with the de-quantised weights."""
    made = {}

    def make(name, text):
        if (name, text) not in made:
            files, oracle = real(name)
            tokenizer = load_tokenizer(Path(files.path))
            ids = tokenizer.encode_prompt(text)
            tokenizer.close()
            made[name, text] = ids, perplexity(oracle.scores(ids).tolist())
        return made[name, text]

    return make


@pytest.mark.parametrize(
    ("name", "nodes", "rounds", "dtype", "allowed"),
    [
        ("smollm2", 1, 1, "float32", 0.001),
        ("smollm2", 5, 2, "float32", 0.001),
        ("smollm2", 3, 2, "bfloat16", 0.005),
        ("smollm2", 3, 2, "quantized", 0.005),
        ("gemma3", 2, 1, "quantized", 0.005),
        ("smollm2", 1, 1, "weight-only", 0.001),
        ("smollm2", 2, 1, "float16", 0.001),
        # Gemma and weight-only are above, each on its own.
        pytest.param("gemma3", 1, 1, "weight-only", 0.001, marks=pytest.mark.exhaustive),
    ],
)
def test_perplexity_is_that_of_transformers(rig, real, reference, name, nodes, rounds, dtype, allowed):
    if dtype in ("quantized", "weight-only") and not packed.available():
        pytest.skip("Potluck was installed without its C++ extension")
    text = BEGINNING if dtype in ("float32", "float16") else TEXT
    files, _ = real(name)
    tokenizer = load_tokenizer(Path(files.path))
    served = Served(rig.serve(files, rig.plan_for(files, nodes, rounds, dtype)), tokenizer)
    try:
        with openai.OpenAI(base_url=served.url, api_key="none") as client:
            answer = client.completions.create(
                model="model", prompt=text, max_tokens=0, echo=True, logprobs=1, temperature=0
            )
    finally:
        served.close()
        tokenizer.close()
    scores = answer.choices[0].logprobs.token_logprobs
    ids, wanted = reference(name, text)
    assert len(scores) == len(ids)
    assert scores[0] is None
    assert perplexity(scores[1:]) == pytest.approx(wanted, rel=allowed)
