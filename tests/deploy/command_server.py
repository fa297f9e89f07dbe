"""Runs `cluster` in forks of one process that has imported it: most of a short command is importing.

Reads a line of JSON for each, {"words", "out", "err"}, and answers with the exit code. A program of its own, because a
fork of the tests' process would have their threads' locks.
"""

import json
import multiprocessing
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


def run(words, out, err):
    become(words, out, err)
    main()


# Its processes leave without taking apart all that was imported, which alone would take 0.7 s a command.
forks = multiprocessing.get_context("fork")
for line in sys.stdin:
    child = forks.Process(target=run, kwargs=json.loads(line))
    child.start()
    child.join()
    print(child.exitcode, flush=True)
