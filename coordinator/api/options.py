"""How the HTTP API is set up: who may ask, under which names, and how much at once."""

from __future__ import annotations

from dataclasses import dataclass

LOOPBACK_HOSTS = ("localhost", "127.0.0.1", "::1")


@dataclass(frozen=True, slots=True)
class ApiOptions:
    """Settings of the HTTP API.

    Attributes:
        aliases: other ids under which the served model answers.
        api_keys: bearer keys, any of which opens `/v1` and `/metrics`; none leaves them open.
        allowed_hosts: names the Host header may carry (see `security.default_hosts`); `*` allows every name.
        cors_origins: origins of web pages that may call the API; `*` allows every page.
        fingerprint: reported as `system_fingerprint`.
        max_choices: most sequences one request may start: prompts x n (or best_of).
        max_body_bytes: largest request body.
        body_timeout_s: longest wait for a request body, in seconds.
        write_timeout_s: longest wait for a client that does not read its answer, in seconds.
        inline_text: prompts of up to this many characters are tokenized on the event loop, longer ones in a thread.
    """

    aliases: tuple[str, ...] = ()
    api_keys: tuple[str, ...] = ()
    allowed_hosts: tuple[str, ...] = LOOPBACK_HOSTS
    cors_origins: tuple[str, ...] = ()
    fingerprint: str = "potluck"
    max_choices: int = 128
    max_body_bytes: int = 8 << 20
    body_timeout_s: float = 30.0
    write_timeout_s: float = 60.0
    inline_text: int = 8192
