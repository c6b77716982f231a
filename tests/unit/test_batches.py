"""Batches: a pure function of the step, whoever loads them, and whatever is wrong with some files."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import pytest
import torch

from tok4d.config.schema import StageConfig, TaskConfig
from tok4d.data import batches as module
from tok4d.data.batches import Batch, FromStep, StageBatches, load_tokens, validation_batches
from tok4d.data.source import Source
from tok4d.errors import ConfigError, DataError, Tok4dError
from tok4d.modality import Sample
from tok4d.training.data import StageData
from tok4d.training.stage_loss import targets
from tok4d_image.sources import ImageShapes

PATCH = (1, 4, 4)
OPTIONS = {"count": 24, "side": 12, "split": "train", "size": 8, "flips": ["horizontal"]}


def stage(**options: object) -> StageConfig:
    def task(weight: float, seed: int) -> TaskConfig:
        return TaskConfig("image/shapes", {**OPTIONS, "seed": seed, **options}, weight, batch=4)

    return StageConfig(steps=12, tasks={"one": task(1, 0), "two": task(2, 1)})


def all_batches(rank: int = 0, world: int = 1, **options: object) -> list[Batch]:
    served = StageBatches(stage(**options), "images", 5, PATCH, rank, world)
    return [served[step] for step in range(len(served))]


def same(a: Batch, b: Batch) -> bool:
    return (
        (a.step, a.task, a.keys, a.noise_seeds, a.bad) == (b.step, b.task, b.keys, b.noise_seeds, b.bad)
        and torch.equal(a.tokens.feats, b.tokens.feats)
        and torch.equal(a.tokens.coords, b.tokens.coords)
        and a.tokens.origins == b.tokens.origins
    )


def test_a_batch_is_a_function_of_its_step():
    in_order, fresh = all_batches(), StageBatches(stage(), "images", 5, PATCH)
    for step in (11, 3, 7):
        assert same(fresh[step], in_order[step])
    other = [StageBatches(stage(), "images", 6, PATCH)[step].keys for step in range(12)]
    assert other != [batch.keys for batch in in_order], "the seed must matter"


@pytest.mark.parametrize("workers", [0, 1, 2])
def test_any_number_of_workers_serves_the_same_batches(workers):
    loader = StageData(stage(), "images", 5, PATCH, start=4, workers=workers).train_dataloader()
    assert len(loader) == 8
    expected = all_batches()[4:]
    assert all(same(a, b) for a, b in zip(loader, expected, strict=True))


def test_a_worker_that_inherits_nothing_serves_them_too():
    """Where processes begin anew instead of as a copy: macOS, Windows, and Linux from Python 3.14 on."""
    loader = StageData(stage(), "images", 5, PATCH, start=10, workers=1).train_dataloader()
    loader.multiprocessing_context = "spawn"
    assert all(same(a, b) for a, b in zip(loader, all_batches()[10:], strict=True))


def test_two_processes_together_have_the_batch_of_one():
    whole = all_batches()
    halves = [all_batches(rank, 2) for rank in (0, 1)]
    for batch, even, odd in zip(whole, *halves, strict=True):
        assert even.task == odd.task == batch.task
        for number, part in enumerate(batch.tokens.unpack()):
            mine, place = (even, odd)[number % 2], number // 2
            assert mine.keys[place] == batch.keys[number]
            assert mine.noise_seeds[place] == batch.noise_seeds[number]
            assert torch.equal(mine.tokens.unpack()[place].feats, part.feats)
    with pytest.raises(DataError, match="batch 4 must be divisible by the 3 processes"):
        StageBatches(stage(), "images", 5, PATCH, 0, 3)


def test_noise_belongs_to_a_sample_not_to_its_batch():
    batch, half = all_batches()[0], all_batches(1, 2)[0]
    ours, theirs = (b.noise(3).split(list(b.tokens.lengths)) for b in (batch, half))
    assert torch.equal(ours[1], theirs[0])
    assert torch.equal(ours[3], theirs[1])
    assert not torch.equal(ours[0], ours[1])
    seeds = [seed for one in all_batches() for seed in one.noise_seeds]
    assert len(set(seeds)) == len(seeds), "no seed is used twice in a stage"
    noise = torch.cat([one.noise(48).flatten() for one in all_batches()])
    assert abs(float(noise.mean())) < 0.05
    assert abs(float(noise.std()) - 1) < 0.05


@dataclass
class Unreliable(ImageShapes):
    """Some numbers cannot be loaded, each in its own way."""

    broken: dict[int, str] = field(default_factory=dict)

    def load(self, index, rng=None) -> Sample:
        fault = self.broken.get(self.numbers[index])
        if fault == "data":
            raise DataError(f"picture-{self.numbers[index]}", "is truncated")
        if fault == "system":
            raise PermissionError(13, "Permission denied")
        sample = super().load(index, rng)
        if fault == "nan":
            sample.data["image"][0, 0, 0] = float("nan")
        if fault == "config":
            raise ConfigError("the recipe is misspelt")
        return sample


@pytest.fixture
def broken(monkeypatch) -> dict[int, str]:
    """Numbers that cannot be loaded, by fault; to be filled by the test."""
    faults: dict[int, str] = {}

    def build(task: TaskConfig) -> Source:
        return Unreliable("image", **task.options, broken=faults)

    monkeypatch.setattr(module, "build_source", build)
    return faults


def test_bad_files_are_replaced_the_same_way_every_time_and_named(broken):
    good = all_batches(split="all")
    broken.update({3: "data", 5: "nan", 8: "system"})
    first, again = all_batches(split="all"), all_batches(split="all")
    assert all(same(a, b) for a, b in zip(first, again, strict=True))
    touched = 0
    for before, after in zip(good, first, strict=True):
        hit = [key.rsplit("/", 1)[1] in {"3", "5", "8"} for key in before.keys]
        assert len(after.bad) >= sum(hit)
        assert len(after.keys) == 4
        assert not any(key.rsplit("/", 1)[1] in {"3", "5", "8"} for key in after.keys)
        assert after.noise_seeds == before.noise_seeds
        for place, was_bad in enumerate(hit):
            assert was_bad or after.keys[place] == before.keys[place], "good samples stay where they are"
        touched += sum(hit)
    assert touched
    reasons = " ".join(reason for batch in first for reason in batch.bad)
    assert "picture-3: is truncated" in reasons
    assert "a NaN or infinite feature" in reasons
    assert "Permission denied" in reasons


def test_nothing_but_bad_files_stops_with_the_last_reason(broken):
    broken.update(dict.fromkeys(range(24), "data"))
    with pytest.raises(DataError, match=r"16 files in a row cannot be used; last: picture-\d+: is truncated"):
        StageBatches(stage(), "images", 5, PATCH)[0]


def test_a_wrong_configuration_is_no_bad_file(broken):
    broken.update(dict.fromkeys(range(24), "config"))
    with pytest.raises(ConfigError, match="the recipe is misspelt"):
        StageBatches(stage(), "images", 5, PATCH)[0]


@pytest.mark.parametrize("workers", [0, 1])
def test_an_error_in_a_loader_process_arrives_as_it_was(broken, workers):
    broken.update(dict.fromkeys(range(24), "data"))
    loader = StageData(stage(), "images", 5, PATCH, start=0, workers=workers).train_dataloader()
    with pytest.raises(DataError, match="16 files in a row") as caught:
        next(iter(loader))
    assert "\n" not in str(caught.value)


def test_an_empty_side_of_a_split_is_refused(broken, monkeypatch):
    monkeypatch.setattr(Unreliable, "__len__", lambda self: 0)
    with pytest.raises(DataError, match="image/shapes: task 'one' has no samples"):
        StageBatches(stage(), "images", 5, PATCH).source("one")


def test_validation_visits_everything_once_in_order(broken, caplog):
    task = {"val": TaskConfig("image/shapes", {"count": 11, "side": 8}, batch=4)}
    found = list(validation_batches(task, PATCH))
    assert [len(batch.tokens) for batch in found] == [4, 4, 3]
    keys = [key for batch in found for key in batch.keys]
    assert keys == [f"shapes/0/{number}" for number in range(11)]
    broken.update({2: "data", 9: "nan"})
    left = list(validation_batches(task, PATCH))
    assert [key for batch in left for key in batch.keys] == [key for key in keys if key[-2:] not in ("/2", "/9")]
    assert [len(batch.bad) for batch in left] == [1, 0, 1]
    assert "picture-2: is truncated" in caplog.text


def test_from_step_counts_what_is_left():
    assert list(FromStep(3, 6)) == [3, 4, 5]
    assert (len(FromStep(3, 6)), len(FromStep(6, 6)), len(FromStep(7, 6))) == (3, 0, 0)


def test_load_tokens_checks_values(broken):
    broken[0] = "nan"
    source = Unreliable("image", count=1, side=8, broken=broken)
    with pytest.raises(Tok4dError, match=r"shapes/0/0: sample 0 has a NaN"):
        load_tokens(source, 0, PATCH)


def test_extras_travel_with_their_sample(monkeypatch):
    def extras(self, sample: Sample) -> dict[str, torch.Tensor]:
        return {"mean": sample.data["image"].mean()[None]}

    assert all_batches()[0].extras == ()
    monkeypatch.setattr("tok4d_image.modality.ImageModality.extras", extras)
    batch, odd = all_batches()[0], all_batches(1, 2)[0]
    samples = targets(batch)
    assert [float(sample.data["mean"]) for sample in samples] == [float(s.data["image"].mean()) for s in samples]
    assert torch.equal(batch.unpack()[3].extras[0]["mean"], batch.extras[3]["mean"])
    assert torch.equal(odd.extras[1]["mean"], batch.extras[3]["mean"])
    assert batch.to("meta").extras[0]["mean"].device.type == "meta"
    task = {"val": TaskConfig("image/shapes", {"count": 3, "side": 8}, batch=2)}
    assert [len(found.extras) for found in validation_batches(task, PATCH)] == [2, 1]


def test_captions_and_labels_travel_with_their_sample():
    batch, odd = all_batches()[0], all_batches(1, 2)[0]
    told = {}
    for seed in (0, 1):
        source = ImageShapes("image", **{**OPTIONS, "seed": seed})
        told |= {source.key(i): (source.load(i).caption, source.load(i).label) for i in range(len(source))}
    found = list(zip(batch.captions, batch.labels, strict=True))
    assert found == [told[key] for key in batch.keys]
    assert len({caption for caption, _ in found}) > 1
    assert list(zip(odd.captions, odd.labels, strict=True)) == found[1::2]
    assert (batch.to("meta").captions, batch.to("meta").labels) == (batch.captions, batch.labels)
    assert [(one.captions, one.labels) for one in batch.unpack()] == [
        ((caption,), (label,)) for caption, label in found
    ]
    task = {"val": TaskConfig("image/shapes", {**OPTIONS, "split": "all"}, batch=16)}
    served = [pair for b in validation_batches(task, PATCH) for pair in zip(b.captions, b.labels, strict=True)]
    whole = ImageShapes("image", **{**OPTIONS, "split": "all"})
    assert served == [(whole.load(i).caption, whole.load(i).label) for i in range(24)]


def test_samples_without_caption_and_label_say_none(monkeypatch):
    load = ImageShapes.load

    def bare(self, index, rng=None) -> Sample:
        sample = load(self, index, rng)
        sample.caption = sample.label = None
        return sample

    monkeypatch.setattr(ImageShapes, "load", bare)
    batch = all_batches()[0]
    assert (batch.captions, batch.labels) == ((None,) * 4, (None,) * 4)


def test_samples_without_a_caption_are_replaced_where_captions_are_asked_for(monkeypatch):
    """Of 24, every third has none, and one nothing that a tower would read."""
    silent = {0: None, 3: "", 6: " ... ", 9: None}
    real = ImageShapes.load

    def load(self, index, rng=None):
        sample = real(self, index, rng)
        return replace(sample, caption=silent.get(index, sample.caption))

    monkeypatch.setattr(ImageShapes, "load", load)
    options = {"count": 24, "side": 12}
    for captioned in (False, True):
        task = TaskConfig("image/shapes", options, batch=4, captioned=captioned)
        found = StageBatches(StageConfig(steps=6, tasks={"one": task}), "images", 5, PATCH)
        captions = [caption for step in range(6) for caption in found[step].captions]
        bad = [reason for step in range(6) for reason in found[step].bad]
        assert len(captions) == 24
        assert all(caption and caption.strip(" .") for caption in captions) is captioned
        assert len(set(bad)) == (4 if captioned else 0)
        assert all(reason.endswith("has no caption") for reason in bad)
