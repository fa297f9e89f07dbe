"""The `cluster` command: what people type. Checks the words, calls the rooms, says errors in one line."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from potluck.deploy import options as flags
from potluck.deploy import settings
from potluck.deploy.console import complain, hint
from potluck.deploy.errors import known_errors

if TYPE_CHECKING:
    from potluck.deploy.prepare import Prepared, Where
    from potluck.deploy.wish import Wish
    from potluck.models.source import ModelPath

app = typer.Typer(
    name="cluster",
    help="Serve one language model from the machines you already own.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    add_completion=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.command()
def serve(
    model: flags.Model,
    fleet: flags.FleetName = None,
    address: flags.Address = None,
    host: Annotated[str, typer.Option(help="Address the HTTP API listens at.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Its port; 0 takes a free one.")] = 8000,
    api_key: Annotated[
        list[str] | None,
        typer.Option(help="Key clients must send as bearer token; may be repeated.", envvar=settings.API_KEY),
    ] = None,
    allowed_host: Annotated[
        list[str] | None, typer.Option(help="Further name that the Host header may carry; * for any.")
    ] = None,
    cors_origin: Annotated[list[str] | None, typer.Option(help="Web page origin that may call the API.")] = None,
    plan: flags.PlanFile = None,
    dtype: flags.ComputeType = flags.DType.AUTO,
    quantize: flags.Quantize = flags.Bits.NONE,
    rounds: flags.Rounds = 1,
    context: flags.Context = None,
    kv_tokens: flags.KvTokens = None,
    max_rows: flags.MaxRows = 256,
    chat_template: flags.ChatTemplate = None,
    step_seconds: flags.StepSeconds = 60.0,
    wire: flags.Wire = flags.WireName.TCP,
    grace: flags.Grace = 30.0,
    remeasure_after: flags.RemeasureAfter = 5,
    fewest: flags.Fewest = False,
    streaming: flags.Streaming = True,
    spread: flags.Spread = None,
    share: flags.Share = None,
    goal: flags.Goal = flags.GoalName.LATENCY,
    with_: flags.With = None,
    without: flags.Without = None,
    threads: flags.Threads = 0,
    local: flags.Local = False,
    cache: flags.Cache = None,
    offline: flags.Offline = False,
    as_json: flags.AsJson = False,
) -> None:
    """Serve a model over the OpenAI-compatible HTTP API.

    With --fleet over an emulated fleet on this machine, with --address over the nodes of a Ray cluster, with neither
    on this machine alone.
    """
    from potluck.coordinator.api.options import ApiOptions
    from potluck.coordinator.api.security import default_hosts
    from potluck.deploy.serve import Address, serve
    from potluck.deploy.wish import Wish, spread_of

    out = tuple(without or ())
    wish = Wish(
        *(dtype.value, rounds, context, kv_tokens, fewest, out),
        *(max_rows, step_seconds, wire.value, quantize.value, streaming),
    )
    wish = replace(
        wish,
        spread=spread_of(spread.value if spread else None, fewest, "all" if fleet else "best"),
        share=tuple(share or ()),
    )
    wish = replace(wish, remeasure_after=remeasure_after, aim=goal.value, pinned=tuple(with_ or ()))
    where = _where(fleet, address, local, cache=_cache(cache), offline=offline, threads=threads)
    prepared = _prepare(model, where, wish, plan)
    hosts = (*default_hosts(host), *(allowed_host or ()))
    options = ApiOptions(
        aliases=(model,), api_keys=tuple(api_key or ()), allowed_hosts=hosts, cors_origins=tuple(cors_origin or ())
    )
    raise typer.Exit(serve(prepared.with_template(chat_template), Address(host, port, options, grace), as_json))


@app.command()
def status(
    url: Annotated[str, typer.Argument(help="Where the server is.")] = "http://127.0.0.1:8000",
    api_key: Annotated[
        str | None, typer.Option(help="Key that the server was started with.", envvar=settings.API_KEY)
    ] = None,
    as_json: flags.AsJson = False,
) -> None:
    """Ask a running server: who holds what, how busy it is, and what was predicted beside what is measured."""
    from potluck.deploy.status import show_status

    show_status(url, api_key, as_json)


@app.command()
def run(
    model: flags.Model,
    prompt: Annotated[str, typer.Argument(help="What to say to the model; - reads it from standard input.")],
    fleet: flags.FleetName = None,
    address: flags.Address = None,
    max_tokens: Annotated[int, typer.Option(min=1, help="Most tokens to generate.")] = 256,
    temperature: Annotated[float, typer.Option(min=0.0, max=2.0, help="0 always takes the likeliest token.")] = 0.0,
    seed: Annotated[int | None, typer.Option(min=0, help="Same seed, same text (default: random).")] = None,
    chat_template: flags.ChatTemplate = None,
    raw: Annotated[bool, typer.Option("--raw", help="Continue the prompt as text, without the chat template.")] = False,
    plan: flags.PlanFile = None,
    dtype: flags.ComputeType = flags.DType.AUTO,
    quantize: flags.Quantize = flags.Bits.NONE,
    rounds: flags.Rounds = 1,
    context: flags.Context = None,
    fewest: flags.Fewest = False,
    streaming: flags.Streaming = True,
    spread: flags.Spread = None,
    share: flags.Share = None,
    with_: flags.With = None,
    without: flags.Without = None,
    threads: flags.Threads = 0,
    local: flags.Local = False,
    cache: flags.Cache = None,
    offline: flags.Offline = False,
    as_json: flags.AsJson = False,
) -> None:
    """One answer, streamed to the terminal, no server."""
    from potluck.deploy.run import Ask, run
    from potluck.deploy.wish import Wish, spread_of

    text = sys.stdin.read() if prompt == "-" else prompt
    out = tuple(without or ())
    wish = Wish(dtype.value, rounds, context, None, fewest, out, quantize=quantize.value, streaming=streaming)
    wish = replace(
        wish,
        spread=spread_of(spread.value if spread else None, fewest, "all" if fleet else "best"),
        share=tuple(share or ()),
    )
    wish = replace(wish, pinned=tuple(with_ or ()))
    where = _where(fleet, address, local, cache=_cache(cache), offline=offline, threads=threads)
    prepared = _prepare(model, where, wish, plan)
    raise typer.Exit(run(prepared.with_template(chat_template), Ask(text, max_tokens, temperature, seed, raw), as_json))


@app.command()
def plan(
    model: flags.Model,
    fleet: flags.Described = None,
    address: flags.Address = None,
    add: flags.Add = None,
    remove: flags.Remove = None,
    link: flags.LinkKind = None,
    prompt: flags.Prompt = None,
    batch: flags.Batch = 1,
    save: Annotated[Path | None, typer.Option(help="Write the plan to this YAML file, to edit and give back.")] = None,
    plan_file: flags.PlanFile = None,
    dtype: flags.ComputeType = flags.DType.AUTO,
    quantize: flags.Quantize = flags.Bits.NONE,
    rounds: flags.Rounds = 1,
    context: flags.Context = None,
    kv_tokens: flags.KvTokens = None,
    fewest: flags.Fewest = False,
    streaming: flags.Streaming = True,
    spread: flags.Spread = None,
    share: flags.Share = None,
    goal: flags.Goal = flags.GoalName.LATENCY,
    solver: flags.Solver = flags.SolverName.EXACT,
    with_: flags.With = None,
    without: flags.Without = None,
    threads: flags.Threads = 0,
    local: flags.Local = False,
    cache: flags.Cache = None,
    offline: flags.Offline = False,
    html: flags.Html = None,
    as_json: flags.AsJson = False,
) -> None:
    """Say who would hold what, why, and how fast it would be: before anything is downloaded, or bought.

    A model's configuration is enough, and for well-known models it ships with Potluck (`cluster models`).
    """
    from potluck.deploy.console import describing
    from potluck.deploy.next_step import Planned, after_plan
    from potluck.deploy.planning import Output, show_plan
    from potluck.deploy.wish import Wish, spread_of
    from potluck.planner.what_if import Changes

    where = _where(fleet, address, local, cache=_cache(cache), offline=offline, threads=threads)
    out = tuple(without or ())
    wish = Wish(dtype.value, rounds, context, kv_tokens, fewest, out, quantize=quantize.value, streaming=streaming)
    wish = replace(
        wish,
        prompt=prompt,
        batch=batch,
        spread=spread_of(spread.value if spread else None, fewest, "best"),
        share=tuple(share or ()),
    )
    wish = replace(wish, solver=solver.value, aim=goal.value, pinned=tuple(with_ or ()))
    changes = Changes(tuple(add or ()), tuple(remove or ()), tuple(link or ()))
    described = describing(model, where.cache, offline)
    show_plan(described, where, wish, changes, Output(plan_file, save, html, as_json))
    if not as_json:
        by_default = solver is flags.SolverName.EXACT and batch == 1 and prompt is None
        done = Planned(described.here and not changes, by_default, plan_file, save, html)
        hint(f"next: {after_plan(sys.argv[2:], done)}")


@app.command()
def nodes(
    fleet: flags.Described = None,
    address: flags.Address = None,
    threads: flags.Threads = 0,
    local: flags.Local = False,
    cache: flags.Cache = None,
    as_json: flags.AsJson = False,
) -> None:
    """Show the machines of a fleet and the links between them: as described, or as measured.

    What nodes measured of themselves is kept until their hardware changes, 30 days at most; free memory is read anew
    each time. `cluster profile` measures anew.
    """
    from potluck.deploy.looking import show_nodes

    show_nodes(_where(fleet, address, local, cache=_cache(cache), threads=threads), as_json)
    if not as_json:
        hint("next: cluster plan smollm2" + _where_words(fleet, address))


@app.command()
def profile(
    address: flags.Address = None,
    threads: flags.Threads = 0,
    local: flags.Local = False,
    cache: flags.Cache = None,
    as_json: flags.AsJson = False,
) -> None:
    """Measure the nodes and the links between them anew, and show them."""
    from potluck.deploy.looking import show_nodes

    show_nodes(_where(None, address, local, cache=_cache(cache), threads=threads), as_json, anew=True)
    if not as_json:
        hint("next: cluster plan smollm2" + _where_words(None, address))


@app.command()
def catalogue(
    word: Annotated[
        str | None, typer.Argument(help="Only machines with this in their name.", show_default=False)
    ] = None,
    as_json: flags.AsJson = False,
) -> None:
    """Show common machines and links, to plan with before there are any."""
    from potluck.deploy.looking import show_catalogue

    show_catalogue(word or "", as_json)
    if not as_json:
        hint("next: cluster plan Qwen/Qwen3-8B --quantize int4 --fleet home --add rtx3060-12gb")


@app.command()
def bench(
    model: flags.Model,
    dtype: flags.ComputeType = flags.DType.AUTO,
    quantize: flags.Quantize = flags.Bits.NONE,
    threads: flags.Threads = 0,
    rounds: Annotated[int, typer.Option(min=1, max=100, help="How often each figure is taken; medians count.")] = 3,
    cache: flags.Cache = None,
    offline: flags.Offline = False,
    as_json: flags.AsJson = False,
) -> None:
    """Measure how fast this machine runs a model alone: prompts, generation, one request and eight at once."""
    from potluck.deploy.bench import bench as measure
    from potluck.deploy.bench import show_bench
    from potluck.deploy.next_step import command
    from potluck.deploy.wish import Wish

    wish = Wish(dtype.value, quantize=quantize.value)
    show_bench(measure(_find(model, cache, offline), wish, _cache(cache), threads, rounds), as_json)
    if not as_json:
        hint(f"next: {command('serve', sys.argv[2:], '--rounds')}")


@app.command()
def models(
    clean: Annotated[
        str | None, typer.Option(help="Delete the shard files of this model, or of all.", show_default=False)
    ] = None,
    cache: flags.Cache = None,
    as_json: flags.AsJson = False,
) -> None:
    """Show the models that can be served without a download, and the shard files that workers built of them."""
    from potluck.deploy.looking import clean_models, show_models

    if clean is not None:
        clean_models(_cache(cache), clean)
        return
    show_models(_cache(cache), as_json)
    if not as_json:
        hint("next: cluster serve smollm2 --fleet trio")


def _where(fleet: str | None, address: str | None, local: bool, **rest: Any) -> Where:
    from potluck.deploy.prepare import Where

    if address and (fleet or local):
        other = "--fleet names an emulated fleet" if fleet else "--local is for this machine alone"
        raise typer.BadParameter(f"{other}, --address a Ray cluster; leave one out")
    return Where(fleet, address, local, **rest)


def _where_words(fleet: str | None, address: str | None) -> str:
    return f" --fleet {fleet}" if fleet else f" --address {address}" if address else ""


def _cache(cache: Path | None) -> Path:
    return (cache or settings.read_settings().cache).expanduser()


def _find(model: str, cache: Path | None, offline: bool) -> ModelPath:
    from potluck.deploy.console import locating

    return locating(model, _cache(cache), offline)


def _prepare(model: str, where: Where, wish: Wish, plan: Path | None) -> Prepared:
    from potluck.deploy.console import locating
    from potluck.deploy.prepare import prepare

    return prepare(locating(model, where.cache, where.offline), where, wish, plan)


def main() -> None:
    """Entry point of `cluster`: every known error is one line on standard error and exit code 1 (2 for usage)."""
    settings.quiet_ray()
    try:
        app()
    except SystemExit:
        # The usual end; the errors below are costly to look up.
        raise
    except KeyboardInterrupt:
        complain("interrupted")
        sys.exit(130)
    except BrokenPipeError:
        sys.exit(141)
    except known_errors() as error:
        complain(str(error) or type(error).__name__)
        sys.exit(1)
