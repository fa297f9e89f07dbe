"""`cluster status`: asks a running server."""

from __future__ import annotations

import http.client
import urllib.error
import urllib.request
from urllib.parse import urlsplit

import orjson

from potluck.deploy.console import show
from potluck.deploy.status_page import Data, status_page

_SECONDS = 10.0
_MOST_BYTES = 8 << 20


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
