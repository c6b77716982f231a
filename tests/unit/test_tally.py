"""A step's sums over processes: what they must have in common, and what is said when they have not."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from tok4d.config.schema import StageConfig, TaskConfig
from tok4d.data.batches import Batch, StageBatches
from tok4d.errors import DataError, Tok4dError
from tok4d.training import tally as module
from tok4d.training.callbacks import CountBadFiles
from tok4d.training.tally import StepReport, Tally


def batch(share: float, start: int = 8, bad: tuple[str, ...] = ()) -> Batch:
    task = TaskConfig("image/shapes", {"count": 8, "side": 8}, batch=2)
    made = StageBatches(StageConfig(steps=1, tasks={"one": task}), "images", 0, (1, 4, 4))[0]
    return replace(made, share=share, next_start=(1, start), bad=bad)


def closed(monkeypatch: pytest.MonkeyPatch, *batches: Batch) -> StepReport:
    """What the first of several processes with a batch each finds."""
    tallies = [Tally(()) for _ in batches]
    for tally, one in zip(tallies, batches, strict=True):
        tally.add(one, torch.tensor(2.0), {})
    heads: list[Tensor] = []
    monkeypatch.setattr(module, "world", lambda: len(batches))
    monkeypatch.setattr(module, "gathered", lambda found: [found, *([list(b.bad) for b in batches[1:]])])
    monkeypatch.setattr(module, "summed", lambda x: heads.append(x) or torch.full_like(x, float("inf")))
    for tally in tallies[1:]:
        with pytest.raises((DataError, OverflowError)):
            tally.close()
    monkeypatch.setattr(module, "summed", lambda x: x + sum(heads))
    report, faults, missed = tallies[0].close()
    assert (faults, missed) == (0, set())
    return report


def test_shares_weigh_the_losses(monkeypatch):
    report = closed(monkeypatch, batch(0.25), batch(0.75, bad=("a: cut",)), batch(0.0))
    assert report.losses == {"one/loss": 2.0}
    assert report.bad == ("a: cut",)


@pytest.mark.parametrize(
    "others", [[batch(0.667)], [batch(0.5, start=9)], [batch(0.25, start=0), batch(0.25, start=16)]]
)
def test_processes_that_took_other_samples_stop(monkeypatch, others):
    """Shares that are no whole, or a next batch that begins somewhere else; of the last, the sum is three times 8."""
    with pytest.raises(DataError, match="the processes disagree on its samples"):
        closed(monkeypatch, batch(0.5, start=8), *others)


def test_a_file_that_is_met_again_is_one_file(caplog):
    count = CountBadFiles(max_bad=2)
    for _ in range(50):
        count._count(("a: cut", "b: empty"))
    assert count.bad == 2
    assert caplog.messages == ["skipped a: cut", "skipped b: empty"]
    later = CountBadFiles(max_bad=2, known=count.known)
    later._count(("b: empty",))
    with pytest.raises(Tok4dError, match="3 files could not be used, more than max_bad = 2"):
        later._count(("c: cut",))
