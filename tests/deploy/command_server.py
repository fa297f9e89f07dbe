"""Runs `cluster` in forks of one process that has imported it: most of a short command is importing.

Reads a line of JSON for each, {"words", "out", "err"}, and answers with the exit code. A program of its own, because a
fork of the tests' process would have their threads' locks.
"""

import gc
import json
import os
import signal
import sys

import potluck.deploy.bench
import potluck.deploy.looking
import potluck.deploy.planning
import potluck.deploy.prepare
import potluck.deploy.run
import potluck.deploy.serve
import potluck.deploy.status  # noqa: F401
from potluck.deploy.cli import main


def become(words, out, err):
    """In the fork: a process as a shell would have started it, with a limit of its own."""
    signal.alarm(60)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    for number, path in ((1, out), (2, err)):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
    sys.argv = ["cluster", *words]


# A fork's end would look through all that was imported, and so copy it: 0.8 s a command instead of 0.3.
gc.freeze()
for line in sys.stdin:
    child = os.fork()
    if not child:
        become(**json.loads(line))
        main()
        sys.exit()
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
