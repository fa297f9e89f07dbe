"""The real `cluster serve` command as a process, and what a client sees of it."""

import json
import queue
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import httpx
import psutil

CLUSTER = Path(sys.executable).with_name("cluster")
# Fast enough that nothing is slowed down much: the faults are the subject, not the speeds.
FLEET = """
name: test
nodes:
  alpha: {flops: 60 GFLOPS, memory_bandwidth: 20 GB/s, memory: 2 GiB}
  beta: {flops: 50 GFLOPS, memory_bandwidth: 20 GB/s, memory: 2 GiB}
  gamma: {flops: 40 GFLOPS, memory_bandwidth: 20 GB/s, memory: 2 GiB, checkpoint: false}
links:
  default: {latency: 0.1 ms, bandwidth: 1 Gbit}
"""


class Served:
    """A running `cluster serve`, with everything that it leaves in a folder; `cache` there may hold something."""

    def __init__(self, model, folder, *flags, fleet=FLEET):
        (folder / "fleet.yaml").write_text(fleet)
        command = [CLUSTER, "serve", str(model), "--fleet", str(folder / "fleet.yaml"), "--port", "0", "--json"]
        command += ["--cache", str(folder / "cache"), *flags]
        self.errors = (folder / "stderr").open("w+")
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=self.errors, text=True)
        self.events = queue.SimpleQueue()
        self.seen = []
        self.reader = threading.Thread(target=self._read)
        self.reader.start()

    def _read(self):
        with self.process.stdout as lines:
            for line in lines:
                self.events.put(json.loads(line))
        self.events.put({"event": "ended"})

    def until(self, event, seconds=60):
        """The next event of that kind."""
        deadline = time.monotonic() + seconds
        while True:
            found = self.events.get(timeout=max(0.01, deadline - time.monotonic()))
            self.seen.append(found)
            if found["event"] == event:
                return found
            assert found["event"] != "ended", self.complaint()

    def listening(self):
        """Wait until it serves; a client for it."""
        said = self.until("listening")
        self.model, self.time_scale = said["model"], said["time_scale"]
        self.client = httpx.Client(base_url=said["url"], timeout=60)
        return self

    def workers(self):
        """node -> process of its worker."""
        found = {}
        for child in psutil.Process(self.process.pid).children(recursive=True):
            words = child.cmdline()
            if "potluck.worker" in words:
                found[words[words.index("--node") + 1]] = child
        return found

    def complaint(self):
        """What it wrote on standard error."""
        self.errors.flush()
        self.errors.seek(0)
        return self.errors.read()

    def complete(self, **options):
        """One short completion, whole."""
        body = {"model": self.model, "prompt": [5, 6, 7, 8], "max_tokens": 8, "temperature": 0} | options
        return self.client.post("/v1/completions", json=body)

    def stream(self, tokens, seen=None, client=None):
        """The events of a long stream, as parsed JSON, `[DONE]` as None. `seen` is called with each."""
        body = {"model": self.model, "prompt": [5, 6, 7, 8], "max_tokens": tokens, "temperature": 0}
        body |= {"stream": True, "ignore_eos": True}
        events = []
        with (client or self.client).stream("POST", "/v1/completions", json=body) as answer:
            for line in answer.iter_lines():
                if line.startswith("data: "):
                    events.append(None if line == "data: [DONE]" else json.loads(line[6:]))
                    if seen:
                        seen(events[-1])
        return events

    def end(self, number=signal.SIGTERM, seconds=30):
        """Send a signal and wait; the exit code."""
        self.process.send_signal(number)
        return self.process.wait(seconds)

    def close(self):
        """Whatever state it is in: gone afterwards."""
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait(10)
        self.reader.join()
        self.errors.close()
        if hasattr(self, "client"):
            self.client.close()


def gone(processes, seconds):
    """Whether all of these have ended within so long."""
    _, alive = psutil.wait_procs(processes, seconds)
    return [process for process in alive if process.status() != psutil.STATUS_ZOMBIE] == []
