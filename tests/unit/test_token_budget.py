"""Packing by tokens: where batches begin, who gets what, and that resuming and splitting change nothing."""

from __future__ import annotations

from dataclasses import dataclass, field
from math import ceil
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from tok4d.config.schema import StageConfig, TaskConfig
from tok4d.data import batches as module
from tok4d.data.batches import Batch, StageBatches, validation_batches
from tok4d.data.packing import Packing, share_out
from tok4d.errors import ConfigError, DataError
from tok4d.training.data import StageData
from tok4d_image.sources import ImageFolder, ImageShapes

PATCH = (1, 4, 4)
# 32 px shrunk to 8, 16 or 32: 4, 16 or 64 tokens, drawn by the sample's own generator.
OPTIONS = {"count": 20, "side": 32, "resolutions": [8, 16, 32]}


def stage(tokens: int = 150, **options: object) -> StageConfig:
    def task(weight: float, seed: int) -> TaskConfig:
        return TaskConfig("image/shapes", {**OPTIONS, "seed": seed, **options}, weight, tokens=tokens)

    return StageConfig(steps=24, tasks={"one": task(1, 0), "two": task(2, 1)})


def served(rank: int = 0, world: int = 1, start: int = 0, **options: object) -> list[Batch]:
    batches = StageBatches(stage(**options), "images", 5, PATCH, rank, world)
    return [batches[step] for step in range(start, len(batches))]


def test_batches_by_hand():
    sizes = [3, 4, 2, 9, 10, 1, 1, 0, 0, 8, 5]
    packing = Packing(10, lambda position: sizes[position % len(sizes)])
    # Of samples without tokens each counts as one: 1 + 1 + 1 + 1 = 4, and 8 does not fit.
    expected = [range(3), range(3, 4), range(4, 5), range(5, 9), range(9, 10), range(10, 12), range(12, 14)]
    assert [packing.span(number) for number in range(7)] == expected
    assert Packing(10, lambda position: sizes[position % len(sizes)]).span(5) == range(10, 12), "from anywhere"


@given(st.lists(st.integers(0, 50), min_size=1, max_size=60), st.integers(50, 120))
def test_every_position_is_in_one_batch_that_is_full(sizes: list[int], budget: int):
    def size(position: int) -> int:
        return sizes[position % len(sizes)]

    packing = Packing(budget, size)
    spans = [packing.span(number) for number in range(12)]
    assert [position for span in spans for position in span] == list(range(spans[-1].stop))
    for span in spans:
        total = sum(max(1, size(position)) for position in span)
        assert len(span) >= 1
        assert total <= budget
        assert total + max(1, size(span.stop)) > budget


def test_sizes_are_asked_for_once_and_in_order():
    asked: list[int] = []

    def size(position: int) -> int:
        asked.append(position)
        return 7

    packing = Packing(21, size)
    packing.span(9)
    packing.span(3)
    assert asked == list(range(31))


@given(st.lists(st.integers(0, 1000), max_size=40), st.integers(1, 9))
def test_processes_get_all_samples_and_about_as_many_tokens(counts: list[int], world: int):
    parts = share_out(counts, world)
    assert sorted(place for part in parts for place in part) == list(range(len(counts)))
    assert all(part == sorted(part) for part in parts)
    sums = [sum(counts[place] for place in part) for part in parts]
    assert max(sums) <= sum(counts) / world + max(counts, default=0)
    assert max(sums) - min(sums) <= max(counts, default=0)
    if len(counts) >= world:
        assert all(parts) or min(counts) == 0


def test_shares_by_hand():
    assert share_out([5, 4, 3, 3, 3], 2) == [[0, 3], [1, 2, 4]]
    assert share_out([7, 1], 3) == [[0], [1], []]
    assert share_out([0, 0, 0, 0], 2) == [[0, 2], [1, 3]]


def test_a_batch_is_as_full_as_the_budget_allows_and_a_function_of_its_step():
    whole = served()
    assert len(whole) == 24
    used = {"one": 0, "two": 0}
    for batch in whole:
        assert batch.tokens.num_tokens <= 150
        used[batch.task] += batch.tokens.num_tokens
        assert batch.share == 1
    assert all(batch.tokens.num_tokens > 150 - 64 for batch in whole)
    assert len({len(batch.keys) for batch in whole}) > 3, "sizes differ"
    assert used["two"] / used["one"] == pytest.approx(2, rel=0.15), "equal budgets make shares of tokens"
    fresh = StageBatches(stage(), "images", 5, PATCH)
    for step in (23, 2, 11):
        assert torch.equal(fresh[step].tokens.feats, whole[step].tokens.feats)
        assert fresh[step].noise_seeds == whole[step].noise_seeds


def test_no_sample_is_lost_or_seen_twice_in_an_epoch():
    one = [batch for batch in served() if batch.task == "two"]
    keys = [key for batch in one for key in batch.keys]
    assert len(keys) > 60
    for epoch in range(len(keys) // 20):
        assert len(set(keys[20 * epoch : 20 * epoch + 20])) == 20


@pytest.mark.parametrize("world", [2, 3])
def test_processes_together_have_the_batch_of_one(world):
    parts = [served(rank, world) for rank in range(world)]
    for step, batch in enumerate(served()):
        mine = [part[step] for part in parts]
        counted = [one for one in mine if one.share]
        assert sorted(seed for one in counted for seed in one.noise_seeds) == sorted(batch.noise_seeds)
        assert sorted(key for one in counted for key in one.keys) == sorted(batch.keys)
        assert sum(one.share for one in mine) == pytest.approx(1)
        tokens = [one.tokens.num_tokens for one in counted]
        assert max(tokens) <= batch.tokens.num_tokens / world + 64
        # The mean over all samples is the sum of shares times the processes' own means.
        means = [sample.tokens.feats.mean() for one in mine for sample in one.unpack()]
        weights = [sample.share for one in mine for sample in one.unpack()]
        whole = torch.stack([sample.tokens.feats.mean() for sample in batch.unpack()]).mean()
        torch.testing.assert_close(sum(w * m for w, m in zip(weights, means, strict=True)), whole)


def test_a_process_without_samples_has_one_that_counts_nothing():
    batches = [StageBatches(stage(tokens=64, resolutions=[32]), "images", 5, PATCH, rank, 3) for rank in range(3)]
    mine = [one[0] for one in batches]
    assert [one.share for one in mine] == [1, 0, 0]
    assert mine[1].keys == mine[2].keys == mine[0].keys
    assert mine[2].unpack()[0].share == 0


def test_shares_of_ordinary_batches_are_equal():
    config = StageConfig(steps=2, tasks={"one": TaskConfig("image/shapes", {"count": 8, "side": 8}, batch=4)})
    for world in (1, 2, 4):
        batch = StageBatches(config, "images", 5, PATCH, 0, world)[1]
        assert batch.share == 1 / world
        assert [one.share for one in batch.unpack()] == [1 / 4] * (4 // world)


@pytest.mark.parametrize("workers", [0, 2])
def test_resuming_with_any_number_of_workers(workers):
    loader = StageData(stage(), "images", 5, PATCH, start=9, workers=workers).train_dataloader()
    assert len(loader) == 15
    for expected, got in zip(served()[9:], loader, strict=True):
        assert torch.equal(expected.tokens.feats, got.tokens.feats)
        assert (expected.keys, expected.share) == (got.keys, got.share)


def test_a_run_goes_on_without_looking_at_earlier_samples(monkeypatch):
    whole = served()
    starts = {batch.task: batch.next_start for batch in whole[:17]}
    assert [batch.next_start[0] for batch in whole[:17] if batch.task == "one"] == list(range(1, len(whole) // 3))[:6]
    resumed = StageBatches(stage(), "images", 5, PATCH)
    resumed.go_on(starts)
    asked: list[int] = []
    count = ImageShapes.token_count
    monkeypatch.setattr(ImageShapes, "token_count", lambda *a, **k: (asked.append(1), count(*a, **k))[1])
    batch = resumed[17]
    assert len(asked) == len(batch.keys) + 1
    for step in (17, 20, 23, 3):  # the last is before the start: found out again
        assert torch.equal(resumed[step].tokens.feats, whole[step].tokens.feats)
        assert resumed[step].next_start == whole[step].next_start
    resumed.go_on(starts)
    assert torch.equal(resumed[18].tokens.feats, whole[18].tokens.feats)


def test_what_is_larger_than_a_step_is_replaced_and_named(tmp_path: Path):
    for number in range(8):
        side = 40 if number == 3 else 8
        Image.new("RGB", (side, side), (number, 0, 0)).save(tmp_path / f"{number}.png")
    (tmp_path / "9.png").write_bytes(b"no picture")
    config = StageConfig(steps=6, tasks={"one": TaskConfig("image/folder", {"path": str(tmp_path)}, tokens=20)})
    batches = StageBatches(config, "images", 5, PATCH)
    found = [batches[step] for step in range(6)]
    assert all(len(batch.keys) == 5 for batch in found), "20 tokens are five pictures of 4"
    keys = {Path(key).name for batch in found for key in batch.keys}
    assert keys == {f"{number}.png" for number in (0, 1, 2, 4, 5, 6, 7)}
    bad = " ".join(reason for batch in found for reason in batch.bad)
    assert "3.png: has 100 tokens, more than the 20 of a whole step" in bad
    assert "9.png: is not a readable image" in bad


@dataclass
class Surprising(ImageShapes):
    """Knows no sizes, or only finds out in decoding that a sample is bad."""

    secret: bool = False
    broken: list[int] = field(default_factory=list)

    def shape(self, index, rng=None):
        return None if self.secret else super().shape(index, rng)

    def load(self, index, rng=None):
        if self.numbers[index] in self.broken:
            raise DataError(self.key(index), "is damaged inside")
        return super().load(index, rng)


def test_a_source_that_knows_no_sizes_is_refused(monkeypatch):
    monkeypatch.setattr(module, "build_source", lambda task: Surprising("image", **task.options, secret=True))
    with pytest.raises(ConfigError, match="task 'two': image/shapes does not know the size of a sample before"):
        served()


def test_damage_that_shows_in_decoding_moves_no_batch(monkeypatch):
    good = served()
    monkeypatch.setattr(module, "build_source", lambda task: Surprising("image", **task.options, broken=[4, 11]))
    for before, after in zip(good, served(), strict=True):
        assert before.noise_seeds == after.noise_seeds
        kept = [a for a, b in zip(after.keys, before.keys, strict=True) if b.rsplit("/", 1)[1] not in ("4", "11")]
        assert kept == [key for key in before.keys if key.rsplit("/", 1)[1] not in ("4", "11")]


def test_validation_by_tokens_sees_everything_once():
    task = {"val": TaskConfig("image/shapes", {"count": 11, "side": 8}, tokens=12)}
    found = list(validation_batches(task, PATCH))
    assert [len(batch.keys) for batch in found] == [3, 3, 3, 2]
    assert [key for batch in found for key in batch.keys] == [f"shapes/0/{number}" for number in range(11)]
    halves = [list(validation_batches(task, PATCH, rank, 2)) for rank in (0, 1)]
    assert sorted(key for half in halves for batch in half for key in batch.keys) == sorted(
        key for batch in found for key in batch.keys
    )
    assert all(len(batch.keys) == 1 for half in halves for batch in half), "six tokens are one picture"


def test_negative_budgets_are_refused():
    config = stage(tokens=-1)
    with pytest.raises(ConfigError, match="tokens of task 'one'"):
        config.check("images")


@settings(max_examples=60, deadline=None)
@given(
    sides=st.tuples(st.integers(1, 70), st.integers(1, 70)),
    size=st.sampled_from([0, 8, 24]),
    resolutions=st.sampled_from([[], [16], [8, 16, 32]]),
    min_scale=st.sampled_from([1.0, 0.5]),
    flips=st.sampled_from([[], ["horizontal", "transpose"], ["transpose"]]),
    max_side=st.sampled_from([0, 20]),
    seed=st.integers(0, 5),
)
def test_the_shape_told_is_the_shape_loaded(
    tmp_path_factory, sides, size, resolutions, min_scale, flips, max_side, seed
):
    path = tmp_path_factory.mktemp("sizes") / "a.png"
    Image.new("RGB", sides[::-1]).save(path)
    source = ImageFolder(
        "image", path=str(path), size=size, resolutions=resolutions, min_scale=min_scale, flips=flips, max_side=max_side
    )
    for rngs in ([None, None, None], [np.random.default_rng(seed) for _ in range(3)]):
        image = source.load(0, rngs[0]).data["image"]
        assert source.shape(0, rngs[1]) == tuple(image.shape)
        count = source.token_count(0, PATCH, rngs[2])
        assert count == ceil(image.shape[1] / 4) * ceil(image.shape[2] / 4)
