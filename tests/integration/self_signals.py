"""A signal at a moment of a run, sent by the process itself: a test that watches from outside may look too late.

`At` is made by the test and carried out by `arrange` in the process under test, before `tok4d` starts there.
"""

from __future__ import annotations

import multiprocessing
import os
import re
import sys
from dataclasses import dataclass
from typing import Any, cast


@dataclass(frozen=True)
class At:
    """Which signal, and when; exactly one of `step` and `opens`.

    Attributes:
        signal: number of the signal.
        step: after this step of the curriculum (1 is the first), its losses being written and its checkpoint not yet.
        opens: when a path that matches this regular expression is opened.
        worker: to a data-loading process instead.
    """

    signal: int
    step: int = 0
    opens: str = ""
    worker: bool = False

    def send(self) -> None:
        process = multiprocessing.active_children()[0].pid if self.worker else os.getpid()
        assert process is not None
        os.kill(process, self.signal)


def arrange(at: At) -> None:
    """Make this process send the signal, once."""
    if at.opens:
        _when_opened(at)
    else:
        _after_step(at)


def _when_opened(at: At) -> None:
    pattern, sent = re.compile(at.opens), False

    def hook(event: str, details: tuple[Any, ...]) -> None:
        nonlocal sent
        if event == "open" and not sent and isinstance(details[0], str) and pattern.search(details[0]):
            sent = True
            at.send()

    sys.addaudithook(hook)


def _after_step(at: At) -> None:
    from tok4d.training.module import TokenizerModule
    from tok4d.training.record import RecordLosses

    record, sent = RecordLosses.on_train_batch_end, False

    def recorded(self: RecordLosses, trainer: Any, pl_module: Any, *rest: Any) -> None:
        nonlocal sent
        record(self, trainer, pl_module, *rest)
        module = cast(TokenizerModule, pl_module)
        if module.between_steps and module.total_trained >= at.step and not sent:
            sent = True
            at.send()

    RecordLosses.on_train_batch_end = recorded  # type: ignore[method-assign]
