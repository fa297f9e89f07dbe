"""The flags that several commands share, each with its documented default."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from potluck.deploy import settings


class DType(StrEnum):
    """Compute types that `--dtype` takes."""

    AUTO = "auto"
    FLOAT32 = "float32"
    BFLOAT16 = "bfloat16"
    FLOAT16 = "float16"
    QUANTIZED = "quantized"
    WEIGHT_ONLY = "weight-only"


class Bits(StrEnum):
    """What `--quantize` takes."""

    NONE = "none"
    INT8 = "int8"
    INT4 = "int4"


class SpreadName(StrEnum):
    """What `--spread` takes."""

    BEST = "best"
    ALL = "all"
    FEWEST = "fewest"


class SolverName(StrEnum):
    """What `--solver` takes."""

    EXACT = "exact"
    PROPORTIONAL = "proportional"


class GoalName(StrEnum):
    """What `--goal` takes."""

    LATENCY = "latency"
    THROUGHPUT = "throughput"
    BALANCED = "balanced"


class WireName(StrEnum):
    """What `--wire` takes."""

    TCP = "tcp"
    GRPC = "grpc"


_SERVING, _PLACING, _WHAT_IF, _OUTPUT = "Serving", "Placement", "What if", "Output"

Model = Annotated[
    str,
    typer.Argument(help="Alias (see `cluster models`), GGUF file, model folder or org/name[@revision]."),
]
FleetName = Annotated[
    str | None,
    typer.Option(
        "--fleet", help="Emulate the fleet of this YAML file, or of a shipped name: home, household, pair, trio."
    ),
]
Described = Annotated[
    str | None,
    typer.Option(
        "--fleet",
        help="Plan for the fleet of this YAML file, a shipped one (home, household, pair, trio) or one machine of "
        "`cluster catalogue`. Default: this machine, or the Ray cluster at --address, as measured.",
    ),
]
Add = Annotated[
    list[str] | None,
    typer.Option(
        "--add",
        help="What if there was this machine of `cluster catalogue`, too? MACHINE or MACHINE=NAME; may be repeated.",
        rich_help_panel=_WHAT_IF,
    ),
]
Remove = Annotated[
    list[str] | None,
    typer.Option("--remove", help="What if this node was not there? May be repeated.", rich_help_panel=_WHAT_IF),
]
LinkKind = Annotated[
    list[str] | None,
    typer.Option(
        "--link",
        help="What if all links were of this kind (wifi, 1g, 2.5g, 10g, thunderbolt), or those between two nodes: "
        "a-b=1g? May be repeated.",
        rich_help_panel=_WHAT_IF,
    ),
]
Prompt = Annotated[
    int | None,
    typer.Option(
        "--prompt",
        min=1,
        help="Tokens of the prompt that times are predicted for (default: 128).",
        show_default=False,
        rich_help_panel=_WHAT_IF,
    ),
]
Html = Annotated[
    Path | None,
    typer.Option(
        "--html",
        help="Draw the fleet, the ring and the time line of a token on this page, which needs no network.",
        rich_help_panel=_OUTPUT,
    ),
]
PlanFile = Annotated[
    Path | None,
    typer.Option("--plan", help="Use this plan instead of solving for one.", rich_help_panel=_PLACING),
]
Address = Annotated[
    str | None,
    typer.Option(help="An existing Ray cluster (host:port or auto).", envvar=settings.RAY_ADDRESS, show_envvar=True),
]
ComputeType = Annotated[
    DType,
    typer.Option(
        "--dtype",
        help="quantized: weights of 4 to 8 bits stay as the model's file has them, activations are rounded to 8 bits; "
        "weight-only: activations are not. float16: weights in half precision, all else in bfloat16. auto: quantized "
        "if the file has such weights, else bfloat16 where the processor is built for it, else float32.",
        rich_help_panel=_PLACING,
    ),
]
Quantize = Annotated[
    Bits,
    typer.Option(
        "--quantize",
        help="Keep the weights of a full-precision model in so many bits (scales for every 32); embedding and head "
        "keep 8.",
        rich_help_panel=_PLACING,
    ),
]
Streaming = Annotated[
    bool,
    typer.Option(
        "--streaming/--no-streaming",
        help="Read layers that no memory has room for from disk for every token, or refuse such a model.",
        rich_help_panel=_PLACING,
    ),
]
Rounds = Annotated[
    int,
    typer.Option(min=1, max=64, help="How often a token goes round the nodes (piped ring).", rich_help_panel=_PLACING),
]
Context = Annotated[
    int | None,
    typer.Option(min=16, help="Longest sequence in tokens (default: the model's, at most 8192).", show_default=False),
]
KvTokens = Annotated[
    int | None,
    typer.Option(
        "--kv-tokens",
        min=16,
        help="Tokens of KV that all requests together may hold (default: 4 contexts, at most 16384).",
        show_default=False,
    ),
]
StepSeconds = Annotated[
    float,
    typer.Option(min=1.0, help="A step without an answer for so long counts as a lost node.", rich_help_panel=_SERVING),
]
Wire = Annotated[
    WireName,
    typer.Option(
        help="How activations travel between nodes: tcp, a port of their own, or grpc, slower, through the one port "
        "that carries everything else.",
        rich_help_panel=_SERVING,
    ),
]
Grace = Annotated[
    float,
    typer.Option(min=0.0, help="Seconds running answers get when the server is stopped.", rich_help_panel=_SERVING),
]
RemeasureAfter = Annotated[
    int,
    typer.Option(
        "--remeasure-after",
        min=0,
        max=1000,
        help="Measure nodes and links again, while idle, when the latest requests that ran alone, at least so many, "
        "took over 30 % more or less than predicted in the median; 0 never does.",
        rich_help_panel=_SERVING,
    ),
]
ChatTemplate = Annotated[
    Path | None,
    typer.Option(help="Jinja file to use instead of the model's own chat template.", rich_help_panel=_SERVING),
]
MaxRows = Annotated[
    int,
    typer.Option(
        "--max-rows",
        min=8,
        max=4096,
        help="Most tokens computed in one step (prefill chunks).",
        rich_help_panel=_SERVING,
    ),
]
Local = Annotated[bool, typer.Option("--local", help="Start the workers without Ray, on this machine only.")]
Threads = Annotated[
    int,
    typer.Option(min=0, max=1024, help="Compute threads of a real node; 0 for one per core.", rich_help_panel=_SERVING),
]
Fewest = Annotated[
    bool,
    typer.Option("--fewest", help="Use as few nodes as can hold the model: --spread fewest.", rich_help_panel=_PLACING),
]
Spread = Annotated[
    SpreadName | None,
    typer.Option(
        "--spread",
        help="best leaves out the nodes that would not help, all gives everybody a layer, fewest takes as few as hold "
        "the model. Default: best; to serve and run, an emulated fleet shows all its nodes.",
        show_default=False,
        rich_help_panel=_PLACING,
    ),
]
Share = Annotated[
    list[str] | None,
    typer.Option(
        "--share",
        help="Burden a node less: laptop=30% of its memory and of the time of a token. May be repeated.",
        rich_help_panel=_PLACING,
    ),
]
Goal = Annotated[
    GoalName,
    typer.Option(
        "--goal",
        help="latency: the shortest time per token of one user who has the fleet to himself; throughput: most tokens "
        "per second of many requests, by several routes side by side where the model fits more than once; balanced: "
        "the least sum of both times.",
        rich_help_panel=_PLACING,
    ),
]
Solver = Annotated[
    SolverName,
    typer.Option("--solver", help="exact, or proportional: by speed alone, for comparison.", rich_help_panel=_PLACING),
]
Batch = Annotated[
    int,
    typer.Option(
        "--batch", min=1, help="Requests that generate at once when times are predicted.", rich_help_panel=_WHAT_IF
    ),
]
Without = Annotated[
    list[str] | None,
    typer.Option("--without", help="Leave out this node; may be repeated.", rich_help_panel=_PLACING),
]
With = Annotated[
    list[str] | None,
    typer.Option("--with", help="This node must get a layer; may be repeated.", rich_help_panel=_PLACING),
]
Cache = Annotated[
    Path | None,
    typer.Option(
        help="Folder for fetched tensors, assembled models, calibration and logs (default: ~/.cache/potluck).",
        envvar=settings.CACHE,
        show_envvar=True,
        show_default=False,
    ),
]
Offline = Annotated[
    bool, typer.Option("--offline", help="Never ask the Hugging Face hub.", envvar=settings.OFFLINE, show_envvar=True)
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.", rich_help_panel=_OUTPUT)]
