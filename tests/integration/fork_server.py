"""Starts real `tok4d` processes quickly: imports torch and Lightning once, then forks for every command line.

Run as a program it reads requests, one JSON object a line: `{"argv": [...], "log": path, "environment": {}}` forks and
answers with the process id, `{"wait": pid}` answers with the exit code (negative for a signal). No tensor is touched
before a fork.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any


def serve() -> None:
    """Answer requests until standard input ends."""
    import pytorch_lightning.loggers
    import torch.utils.tensorboard

    import tok4d.cli.train
    import tok4d.training.run
    from tok4d.cli.main import main

    assert all((pytorch_lightning.loggers, torch.utils.tensorboard, tok4d.cli.train, tok4d.training.run))
    for line in sys.stdin:
        request = json.loads(line)
        if "wait" in request:
            answer = os.waitstatus_to_exitcode(os.waitpid(request["wait"], 0)[1])
        else:
            answer = os.fork()
            if answer == 0:
                _become(request, main)
        sys.stdout.write(f"{json.dumps(answer)}\n")
        sys.stdout.flush()


def _become(request: dict[str, Any], main: Callable[[], None]) -> None:
    """The child: a `tok4d` process with its own output, as if it had been started from a shell."""
    os.setsid()
    signal.signal(signal.SIGINT, signal.default_int_handler)  # tests in the background of a shell inherit "ignored"
    null, log = os.open(os.devnull, os.O_RDONLY), os.open(request["log"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    for source, target in ((null, 0), (log, 1), (log, 2)):
        os.dup2(source, target)
    sys.argv = ["tok4d", *request["argv"]]
    os.environ.update(request["environment"])
    code = 0
    try:
        main()
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        import traceback

        traceback.print_exc()
        code = 70
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


@dataclass
class Command:
    """A running `tok4d` process."""

    pid: int
    log: Path
    server: Server

    def signal_when(self, number: int, ready: Callable[[], bool], timeout: float = 60) -> None:
        """Send a signal as soon as `ready()`, which must be so before the process ends."""
        deadline = time.monotonic() + timeout
        while not ready():
            assert time.monotonic() < deadline, f"nothing happened; it said: {self.log.read_text()}"
            time.sleep(0.002)
        os.kill(self.pid, number)

    def wait(self) -> tuple[int, str]:
        """Exit code and everything it printed."""
        code = self.server.ask({"wait": self.pid})
        return code, self.log.read_text()


class Server:
    """The other end of `serve`, in a process of its own."""

    def __init__(self, logs: Path) -> None:
        self.logs, self.count = logs, 0
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        self.process = subprocess.Popen(
            [sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )

    def ask(self, request: dict[str, Any]) -> int:
        """One request, one answer."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()
        answer: int = json.loads(self.process.stdout.readline())
        return answer

    def start(self, *argv: object, **environment: str) -> Command:
        """A `tok4d` process with these arguments, and these variables besides its environment."""
        self.count += 1
        log = self.logs / f"{self.count}.log"
        log.touch()
        request = {"argv": [str(item) for item in argv], "log": str(log), "environment": environment}
        return Command(self.ask(request), log, self)

    def run(self, *argv: object) -> tuple[int, str]:
        """Start and wait."""
        return self.start(*argv).wait()

    def close(self) -> None:
        """End the server."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait(timeout=30)


if __name__ == "__main__":
    serve()
