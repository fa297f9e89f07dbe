"""Starts worker processes and makes sure that they end. The worker itself is another program to this one."""

from __future__ import annotations

import contextlib
import json
import queue
import subprocess
import sys
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import IO

_LAST_LINES = 3
_LAST_SECONDS = 1.0


class WorkerError(Exception):
    """A worker did not start; one line with its own last words."""


@dataclass(frozen=True, slots=True)
class WorkerLaunch:
    """How to start a worker.

    Attributes:
        listen: host:port; port 0 takes a free one.
        cache: folder for fetched tensors ("~" is the user's home where the worker runs).
        memory: bytes it may use, None for what the machine has.
        emulate: the JSON of an emulated node, None for a real one.
        log: file for its log, None to share this process's standard error.
    """

    node: str
    cache: str
    listen: str = "127.0.0.1:0"
    memory: int | None = None
    threads: int = 1
    emulate: str | None = None
    device: str = "auto"
    log: str | None = None

    def command(self) -> list[str]:
        """The command line."""
        words = [sys.executable, "-m", "potluck.worker", "--node", self.node, "--listen", self.listen]
        words += ["--cache", str(Path(self.cache).expanduser()), "--threads", str(self.threads)]
        words += ["--device", self.device]
        if self.memory is not None:
            words += ["--memory", str(self.memory)]
        if self.emulate is not None:
            words += ["--emulate", self.emulate]
        return words


class WorkerProcess:
    """A running worker; ends when told, or when this process does."""

    def __init__(self, process: subprocess.Popen[str], address: str) -> None:
        self._process = process
        self.address = address
        self.pid = process.pid

    def exit_code(self) -> int | None:
        """None while it runs; negative: the signal that ended it."""
        return self._process.poll()

    def close_stdin(self) -> None:
        """Ask it to end; returns at once."""
        if self._process.stdin:
            with contextlib.suppress(OSError):
                self._process.stdin.close()

    def stop(self, grace: float = 3.0) -> int:
        """End it: kindly, then firmly. Returns the exit code; the process is gone and reaped."""
        self.close_stdin()
        for end in (self._process.terminate, self._process.kill):
            try:
                return self._process.wait(grace)
            except subprocess.TimeoutExpired:
                end()
        return self._process.wait()


def spawn_worker(launch: WorkerLaunch, token: str, deadline: float = 60.0) -> WorkerProcess:
    """Start a worker and wait until it says where it listens.

    Raises:
        WorkerError: it ended or kept silent for `deadline` seconds, or its log cannot be written.
    """
    try:
        log = _open_log(launch.log)
    except OSError as error:
        raise WorkerError(f"worker {launch.node!r} cannot write its log {launch.log}: {error.strerror}") from None
    begins = log.tell() if log else 0
    try:
        # A session of its own: Ctrl-C in the terminal must not end workers before the requests they serve.
        process = subprocess.Popen(
            launch.command(),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            start_new_session=True,
        )
    finally:
        if log is not None:
            log.close()
    try:
        return WorkerProcess(process, _greet(process, token, deadline))
    except WorkerError as error:
        process.kill()
        code = process.wait()
        if process.stdin:
            with contextlib.suppress(OSError):
                process.stdin.close()
        words = _last_words(launch.log, begins)
        raise WorkerError(f"worker {launch.node!r} {error} (exit code {code}){words}") from None


def _greet(process: subprocess.Popen[str], token: str, deadline: float) -> str:
    if process.stdin is None or process.stdout is None:
        raise WorkerError("has no pipes")
    lines: queue.SimpleQueue[str] = queue.SimpleQueue()
    threading.Thread(target=_read_line, args=(process.stdout, lines), daemon=True).start()
    try:
        process.stdin.write(token + "\n")
        process.stdin.flush()
    except OSError:
        _let_end(process)
        raise WorkerError("ended at once") from None
    try:
        line = lines.get(timeout=deadline)
    except queue.Empty:
        raise WorkerError(f"did not start within {deadline:g} s") from None
    try:
        return str(json.loads(line)["address"])
    except (ValueError, KeyError, TypeError):
        _let_end(process)
        raise WorkerError("ended while starting") from None


def _let_end(process: subprocess.Popen[str]) -> None:
    """Give its last words time to reach the log, and it to end by its own exit code."""
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(_LAST_SECONDS)


def _read_line(stream: IO[str], lines: queue.SimpleQueue[str]) -> None:
    # Read to its end, so that the worker never blocks on a full pipe; the end is the worker's.
    with contextlib.suppress(ValueError, OSError), stream:
        lines.put(stream.readline())
        stream.read()


def _open_log(path: str | None) -> IO[str] | None:
    if path is None:
        return None
    file = Path(path).expanduser()
    file.parent.mkdir(parents=True, exist_ok=True)
    return file.open("a", encoding="utf-8")


def _last_words(path: str | None, begins: int) -> str:
    if path is None:
        return ""
    # Earlier runs' words are before `begins`.
    lines = Path(path).expanduser().read_bytes()[begins:].decode("utf-8", "replace").strip().splitlines()
    return ": " + " / ".join(line.strip() for line in lines[-_LAST_LINES:]) if lines else ""
