"""Starts real `tok4d` processes quickly: imports torch and Lightning once, then forks for every command line.

Run as a program it reads requests, one JSON object a line: `{"argv": [...], "log": path, "environment": {}}` forks and
answers with the process id (`"program"` names a module beside this one whose `main` runs instead of `tok4d`; `"at"`
holds the fields of `self_signals.At`), `{"wait": pid}` answers with the exit code (negative for a signal). No tensor is
touched before a fork.
"""

from __future__ import annotations

import importlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from self_signals import At, arrange


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
        if request["at"]:
            arrange(At(**request["at"]))
        if request["program"]:
            main = importlib.import_module(request["program"]).main
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

    def kill(self) -> None:
        """End it at once, if it has not ended."""
        os.kill(self.pid, signal.SIGKILL)

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

    def start(self, *argv: object, program: str = "", at: At | None = None, **environment: str) -> Command:
        """A `tok4d` process, or one of `program`, with these arguments and variables besides its environment.

        `at`: a signal that it gets on its way.
        """
        self.count += 1
        log = self.logs / f"{self.count}.log"
        log.touch()
        argv_ = [str(item) for item in argv]
        request = {"argv": argv_, "log": str(log), "environment": environment, "program": program}
        return Command(self.ask(request | {"at": asdict(at) if at else None}), log, self)

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
