"""Worker processes: how they start, fail to start and end. Programs that are no workers stand in for broken ones."""

import dataclasses
import json
import os
import signal
import subprocess
import sys

import pytest

from potluck.coordinator.processes import WorkerError, WorkerLaunch, spawn_worker

TOKEN = "t" * 32
SAYS_HELLO = """
import json, os, sys
sys.stdin.readline()
print(json.dumps({"address": "127.0.0.1:1", "pid": os.getpid()}), flush=True)
"""
PARENT = """
import sys, time
from potluck.coordinator.processes import WorkerLaunch, spawn_worker
print(spawn_worker(WorkerLaunch("attic", sys.argv[1]), "t" * 32).pid, flush=True)
time.sleep(60)
"""


@dataclasses.dataclass(frozen=True, slots=True)
class Program(WorkerLaunch):
    """Something else than a worker."""

    source: str = ""

    def command(self):
        return [sys.executable, "-S", "-E", "-c", self.source]


@pytest.fixture
def launch(tmp_path):
    return lambda **more: WorkerLaunch("attic", str(tmp_path / "cache"), log=str(tmp_path / "attic.log"), **more)


@pytest.fixture
def program(tmp_path):
    return lambda source: Program("attic", str(tmp_path), log=str(tmp_path / "attic.log"), source=source)


def refusal(launch, token=TOKEN, deadline=30.0):
    with pytest.raises(WorkerError) as refused:
        spawn_worker(launch, token, deadline)
    assert "\n" not in str(refused.value)
    return str(refused.value)


def test_a_wrong_flag_is_told_in_one_line_with_the_worker_s_own_words(launch):
    reason = refusal(launch(device="abacus"))
    assert "worker 'attic' ended while starting (exit code 2)" in reason
    assert "--device: invalid choice: 'abacus'" in reason


def test_an_address_that_cannot_be_had_is_told(launch):
    assert "(exit code 2)" in refusal(launch(listen="192.0.2.1:1"))


def test_words_of_an_earlier_run_are_not_told(program):
    refusal(program("import sys; sys.stdin.readline(); sys.exit('the first failure')"))
    reason = refusal(program("import sys; sys.stdin.readline(); sys.exit('the second failure')"))
    assert reason == "worker 'attic' ended while starting (exit code 1): the second failure"


def test_without_a_log_the_exit_code_is_told(program):
    silent = dataclasses.replace(program("import sys; sys.stdin.readline(); sys.exit(9)"), log=None)
    assert refusal(silent) == "worker 'attic' ended while starting (exit code 9)"


@pytest.mark.parametrize("line", ["hello", "[]", "{}"])
def test_a_greeting_that_is_none_is_refused_and_the_program_ended(program, line):
    source = f"import sys, time; sys.stdin.readline(); print({line!r}, flush=True); time.sleep(60)"
    assert refusal(program(source)) == "worker 'attic' ended while starting (exit code -9)"


def test_one_that_ends_before_it_reads_is_told(program):
    # More than a pipe holds: the write itself meets the closed end.
    reason = refusal(program("import sys; sys.exit('no thanks')"), token="t" * (1 << 20))
    assert reason == "worker 'attic' ended at once (exit code 1): no thanks"


def test_one_that_keeps_silent_is_ended(program):
    reason = refusal(program("import time; time.sleep(60)"), deadline=0.3)
    assert "did not start within 0.3 s (exit code -9)" in reason


def test_a_log_that_cannot_be_written_is_told(launch, tmp_path):
    (tmp_path / "attic.log").mkdir()
    assert refusal(launch()) == f"worker 'attic' cannot write its log {tmp_path}/attic.log: Is a directory"


def test_one_that_ignores_every_plea_is_killed(program):
    source = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN)" + SAYS_HELLO + "import time; time.sleep(60)"
    process = spawn_worker(program(source), TOKEN)
    assert process.exit_code() is None
    assert process.stop(grace=0.2) == -signal.SIGKILL
    assert process.exit_code() == -signal.SIGKILL


def test_one_that_chatters_on_is_not_held_up(program):
    source = SAYS_HELLO + "for _ in range(2000): print('x' * 100)\nsys.stdin.read()"
    process = spawn_worker(program(source), TOKEN)
    assert process.stop(grace=10.0) == 0


def test_a_worker_gets_the_flags_it_was_launched_with(tmp_path):
    emulate = json.dumps({"disk": 2e6})
    words = WorkerLaunch("attic", str(tmp_path), memory=1 << 30, threads=2, emulate=emulate, device="cpu").command()
    flags = dict(zip(words[3::2], words[4::2], strict=True))
    assert words[:3] == [sys.executable, "-m", "potluck.worker"]
    assert (flags["--node"], flags["--memory"], flags["--threads"]) == ("attic", str(1 << 30), "2")
    assert (flags["--emulate"], flags["--device"], flags["--cache"]) == (emulate, "cpu", str(tmp_path))
    assert TOKEN not in " ".join(words)


def test_a_worker_starts_and_stops(launch):
    process = spawn_worker(launch(), TOKEN)
    host, port = process.address.rsplit(":", 1)
    assert (host, int(port) > 0, process.exit_code()) == ("127.0.0.1", True, None)
    assert process.stop(grace=20.0) == 0


def test_no_worker_outlives_the_program_that_started_it(tmp_path):
    words = [sys.executable, "-c", PARENT, str(tmp_path / "cache")]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as parent:
        pid = int(parent.stdout.readline())
        os.kill(pid, 0)
        parent.kill()
        # Both write to the same pipe: it ends when the last of them has.
        parent.communicate(timeout=20)
    assert parent.returncode == -signal.SIGKILL
