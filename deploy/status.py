"""`cluster status`: a look at a running server."""

from __future__ import annotations

import http.client
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import urlsplit

import orjson
from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from potluck.deploy.accuracy_text import accuracy_table, outcome_lines, remeasuring_text
from potluck.deploy.console import show
from potluck.deploy.tables import bytes_text, seconds_text

_SECONDS = 10.0
_MOST_BYTES = 8 << 20
Data = Mapping[str, Any]


class StatusError(Exception):
    """A server cannot be asked; one line with the remedy."""


def show_status(url: str, api_key: str | None, as_json: bool) -> None:
    """Print what a server says of itself.

    Raises:
        StatusError: nothing answers there, it wants another key, or it is no server of Potluck's.
    """
    status = fetch_status(server_root(url), api_key)
    try:
        shown = None if as_json else status_page(status)
    except (KeyError, TypeError, ValueError, AttributeError):
        raise StatusError(f"the server at {url} is another version of Potluck; --json shows what it says") from None
    show(shown or "", status, as_json)


def server_root(url: str) -> str:
    """`http://host:port` of what was typed: with or without scheme, `/v1` or a slash at the end.

    Raises:
        StatusError: it names no server.
    """
    text = url if "://" in url else f"http://{url}"
    try:
        parts = urlsplit(text)
        named = parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port is None or parts.port > 0)
    except ValueError:
        named = False
    if not named or any(mark.isspace() for mark in text) or not text.isascii():
        raise StatusError(f"{url!r} is no server's address; write http://HOST:PORT")
    return f"{parts.scheme}://{parts.netloc}{parts.path.rstrip('/').removesuffix('/v1')}"


def fetch_status(root: str, api_key: str | None) -> Data:
    """What the server answers at /status.

    Raises:
        StatusError: see `show_status`.
    """
    headers = {"Accept": "application/json"} | ({"Authorization": f"Bearer {api_key}"} if api_key else {})
    try:
        # No proxy and no redirect is followed: the key is for this server.
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}), _NoRedirect)
        with opener.open(urllib.request.Request(f"{root}/status", headers=headers), timeout=_SECONDS) as answer:
            data = orjson.loads(answer.read(_MOST_BYTES))
    except urllib.error.HTTPError as error:
        raise StatusError(_refusal(root, error, bool(api_key))) from None
    except (OSError, http.client.HTTPException) as error:
        raise StatusError(_unreachable(root, error)) from None
    except ValueError:
        raise StatusError(_foreign(root)) from None
    if not isinstance(data, dict) or data.get("name") != "potluck":
        raise StatusError(_foreign(root))
    return data


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *given: object) -> None:
        return None


def _unreachable(root: str, error: Exception) -> str:
    reason = getattr(error, "reason", error)
    said = getattr(reason, "strerror", None) or str(reason) or type(reason).__name__
    if isinstance(error, http.client.HTTPException):
        return _foreign(root)
    return f"nothing answers at {root} ({said}); start `cluster serve`, or give its address: cluster status HOST:PORT"


def _refusal(root: str, error: urllib.error.HTTPError, with_key: bool) -> str:
    with error:
        try:
            said = str(orjson.loads(error.read(_MOST_BYTES))["error"]["message"])
        except (OSError, ValueError, KeyError, TypeError):
            said = ""
    if error.code == 401:
        wrong = "does not take this key" if with_key else "wants a key"
        return f"the server at {root} {wrong}; give the one it was started with: --api-key KEY"
    return f"the server at {root} refuses: {said}" if error.code == 403 and said else _foreign(root)


def _foreign(root: str) -> str:
    return (
        f"what answers at {root} is no Potluck server of this version; look at the address that `cluster serve` printed"
    )


def status_page(status: Data) -> RenderableType:
    """Everything for people, most important first."""
    parts: list[RenderableType] = [_headline(status)]
    if status["nodes"]:
        parts.append(_nodes_table(status))
        parts.append(_accuracy(status))
    parts += [Text(f"lost: {node}: {reason}", style="yellow") for node, reason in status.get("lost", {}).items()]
    parts += [Text(line, style="yellow") for line in _remeasured_lines(status)]
    return Group(*parts)


def _headline(status: Data) -> Text:
    line = Text(status["model"], style="bold")
    line.append(f" · epoch {status.get('epoch', 0)} · ", style="not bold")
    if not status["ready"]:
        return line.append(f"not serving: {status['reason']}", style="red")
    words = [f"{status['running']} running", f"{status['waiting']} waiting", f"KV {status['kv_used']:.0%}"]
    return line.append(" · ".join([*words, f"{status['tokens_per_second']:.1f} tok/s"]), style="not bold")


def _nodes_table(status: Data) -> Table:
    table = Table(box=box.SIMPLE_HEAD, title=f"fleet: {status['fleet']}", title_justify="left", title_style="bold")
    for heading in ("node", "holds", "weights + KV", "in memory", "computing", "waiting", "sending", "stalled"):
        table.add_column(heading, overflow="fold", no_wrap=heading == "node")
    for node in status["nodes"]:
        name = node["node"]
        table.add_row(
            name + (" *" if node["requests_arrive"] else ""),
            " | ".join(_holdings(status["stages"], name)) or "[dim]nothing[/dim]",
            f"{bytes_text(node['weight_bytes'] + node['kv_bytes'])} of {bytes_text(node['memory'])}",
            bytes_text(node["resident_bytes"]) if node["resident_bytes"] else "unknown",
            *(f"{node[kind]:.0%}" for kind in ("compute", "wait", "transfer")),
            seconds_text(node["stall_seconds"]) if node["stall_seconds"] else "-",
        )
    table.caption, table.caption_justify = "* requests arrive here", "left"
    return table


def _holdings(stages: list[Data], node: str) -> Iterator[str]:
    for stage in stages:
        for share in stage.get("shares", [stage]):
            if share.get("node") == node:
                split = [f"{axis.replace('_', ' ')} {share[axis]}" for axis in _AXES if axis in share]
                words = ", ".join(stage["parts"]) + (f" ({', '.join(split)})" if split else "")
                yield f"{words} from disk" if share.get("residency") == "streamed" else words


_AXES = ("kv_heads", "heads", "ffn_columns", "vocabulary")


def _accuracy(status: Data) -> RenderableType:
    if "time_to_first_token" in status["accuracy"]:
        return accuracy_table(status["accuracy"])
    first, each = (status["predicted"][name] for name in ("time_to_first_token", "time_per_output_token"))
    return Text(
        f"predicted: {seconds_text(first)} to the first token, {seconds_text(each)} per token; nothing is measured yet"
    )


def _remeasured_lines(status: Data) -> Iterator[str]:
    again = status.get("remeasured")
    if not again:
        return
    if again["outcome"] is None:
        yield remeasuring_text(again["cause"], again["deviation"])
    else:
        yield "nodes and links were measured again:"
        yield from outcome_lines(again["outcome"], status["described"])
