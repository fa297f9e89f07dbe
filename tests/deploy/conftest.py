"""Fixtures of the command's tests."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ENVIRONMENT = {**os.environ, "HF_HUB_OFFLINE": "1", "COLUMNS": "200", "TERM": "dumb"}


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    """cluster(*words) -> what the command did, in a fork of command_server.py."""
    out, err = (tmp_path_factory.mktemp("said") / name for name in ("out", "err"))
    program = [sys.executable, str(Path(__file__).with_name("command_server.py"))]
    with subprocess.Popen(
        program, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1, env=ENVIRONMENT
    ) as server:

        def run(*words):
            asked = {"words": [*map(str, words)], "out": str(out), "err": str(err)}
            server.stdin.write(json.dumps(asked) + "\n")
            code = int(server.stdout.readline())
            return subprocess.CompletedProcess(words, code, out.read_text(), err.read_text())

        yield run
        server.stdin.close()
