"""What is measured of a model after every stage, and of the floors that need no training.

Figures are per held-out object, so that two models can be compared object by object.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import deepcopy
from pathlib import Path
from typing import Any

import torch

from tok4d.config.loader import load_preset
from tok4d.config.schema import Curriculum, TaskConfig
from tok4d.data.batches import validation_batches
from tok4d.data.build import build_source
from tok4d.errors import ConfigError
from tok4d.metrics import score_all
from tok4d.model.pca import PatchPCA
from tok4d.model.tokenizer import Tokenizer
from tok4d.plugins.registry import modality
from tok4d.training.alignment import Alignment
from tok4d.training.check import task_objective
from tok4d.training.evaluate import Scores, evaluate, pca_reconstructor, reconstructor, score
from tok4d.training.stage_loss import targets, unpatchify
from tok4d.training.start import fit_pca, patches_of
from tok4d.weights.folder import write_text
from tok4d_bench.subjects.splats import splats_of

UNSEEN = ["sofa", "vehicle", "tree", "cup"]  # nouns that no training task of `mini` has
SPLATS = {"scale": (0.3, 0.4, 0.5, 0.6), "opacity": (0.7, 0.95)}  # in voxel sides; the best on training objects counts
FITTED_ON = 24  # training objects
PATCH = (4, 16, 16)


def held_out(curriculum: Curriculum, stage: str = "") -> dict[str, TaskConfig]:
    """Validation tasks of a stage (the last), and those of furniture again with the nouns that training never saw."""
    tasks = dict(curriculum.stages[stage or curriculum.order[-1]].validation)
    for name, task in list(tasks.items()):
        if "classes" in task.options:
            unseen = deepcopy(task)
            unseen.options |= {"classes": UNSEEN, "split": "all"}
            tasks[f"unseen_{name}"] = unseen
    return tasks


@torch.no_grad()
def measure(folder: Path, curriculum: Curriculum, stage: str) -> dict[str, Any]:
    """Per-sample metrics `{task: {metric: {key: value}}}` and figures of a model folder, on what a stage validates."""
    model = Tokenizer.from_pretrained(folder)
    tasks = held_out(curriculum, stage)
    text = model.config.text
    alignment = None if text is None else Alignment(text, model.embedding_width, tasks)
    batches = validation_batches(tasks, model.patch_size, inputs=model.config.inputs)
    scores = evaluate(model, batches, alignment)
    samples = by_task(scores)
    for name, task in tasks.items():
        if task.source.startswith("image/") and not name.startswith("unseen_"):
            samples[name] |= _perceptual(model, {name: task})
    return {"samples": samples, "figures": scores.figures, "bad": scores.bad}


@contextmanager
def cpu_clock(file: Path) -> Iterator[Callable[[], float]]:
    """CPU seconds of all commands that ever worked on something, kept in a file; the sum so far when called.

    What a command that was killed used is not in it.
    """
    began = time.process_time()
    try:
        yield lambda: float(json.loads(file.read_text())) if file.is_file() else 0.0
    finally:
        before = json.loads(file.read_text()) if file.is_file() else 0
        write_text(file, json.dumps(before + time.process_time() - began))


def by_task(scores: Scores) -> dict[str, dict[str, dict[str, float]]]:
    """Values `{task: {modality/metric: {key: value}}}`."""
    found: dict[str, dict[str, dict[str, float]]] = {}
    for host, named in scores.tasks.items():
        for name, values in named.items():
            task, _, metric = name.rpartition("/")
            found.setdefault(task, {})[f"{host}/{metric}"] = dict(values)
    return found


def _perceptual(model: Tokenizer, task: dict[str, TaskConfig]) -> dict[str, dict[str, float]]:
    """LPIPS with the VGG trunk at native size, of pictures."""
    from tok4d.losses import LPIPS

    distance = LPIPS(net="vgg", size=None)
    found: dict[str, float] = {}
    for batch in validation_batches(task, model.patch_size):
        got = unpatchify(model, batch, reconstructor(model)(batch))
        for one, other in zip(got, targets(batch), strict=True):
            host = modality(batch.modality)
            a, b = host.pictures(one), host.pictures(other)
            assert a is not None
            assert b is not None
            found[one.key] = float(distance(a.clamp(-1, 1), b).mean())
    return {f"{batch.modality}/lpips_vgg": found}


@torch.no_grad()
def floors(curriculum: Curriculum) -> dict[str, Any]:
    """What needs no training: PCA with the last stage's channels, and for assets one splat a voxel in its mean colour.

    `samples`: a PCA of all pictures, and one of all clips, that the curriculum restores, in its own shares, since the
    model too is one for all of them. `own`: a PCA of the task's data alone. `fewer`: `samples` by stage, with its
    channels, of stages that have fewer.
    """
    samples: dict[str, dict[str, dict[str, float]]] = {}
    own: dict[str, dict[str, dict[str, float]]] = {}
    together: dict[str, PatchPCA] = {}  # by modality
    by_stage = channels_of(curriculum)
    channels = by_stage[curriculum.order[-1]]
    last = curriculum.stages[curriculum.order[-1]]
    for name, task in last.validation.items():
        if task.source.startswith("mesh3d/"):
            samples[name] = splat_floor(task)
            continue
        batches = list(validation_batches({name: task}, PATCH))
        pca = fit_pca(last.tasks[name], PATCH, curriculum.init_samples, curriculum.seed)
        own[name] = by_task(score(batches, pca_reconstructor(pca, channels)))[name]
        host = task.source.partition("/")[0]
        if host not in together:
            together[host] = PatchPCA.fit(patches_of(restored_as(curriculum, host), PATCH, curriculum))
        samples[name] = by_task(score(batches, pca_reconstructor(together[host], channels)))[name]
    fewer: dict[str, dict[str, dict[str, dict[str, float]]]] = {}
    for stage, count in by_stage.items():
        for name, task in curriculum.stages[stage].validation.items() if count < channels else ():
            pca = together[task.source.partition("/")[0]]
            batches = list(validation_batches({name: task}, PATCH))
            fewer.setdefault(stage, {})[name] = by_task(score(batches, pca_reconstructor(pca, count)))[name]
    return {"samples": samples, "own": own, "fewer": fewer}


def channels_of(curriculum: Curriculum) -> dict[str, int]:
    """Latent channels in every stage."""
    found: dict[str, int] = {}
    count = load_preset(curriculum.model.preset, curriculum.model.overrides).latent
    for name in curriculum.order:
        count = curriculum.stages[name].latent or count
        found[name] = count
    return found


def restored_as(curriculum: Curriculum, host: str) -> list[TaskConfig]:
    """Tasks of a modality that restore something, in the first stage that has some."""
    for key in curriculum.order:
        found = [
            task
            for task in curriculum.stages[key].tasks.values()
            if task.source.startswith(f"{host}/") and task_objective(task).restores
        ]
        if found:
            return found
    raise ConfigError(f"curriculum {curriculum.name!r} restores nothing of modality {host!r}")


def splat_floor(task: TaskConfig) -> dict[str, dict[str, float]]:
    """Metrics of the voxels themselves as splats; size and opacity are those that suit training objects best."""
    train = deepcopy(task)
    train.options |= {"split": "train", "limit": FITTED_ON}
    choices = [(scale, opacity) for scale in SPLATS["scale"] for opacity in SPLATS["opacity"]]
    quality = [_mean_foreground(_splatted(train, *choice)) for choice in choices]
    return _splatted(task, *choices[quality.index(max(quality))])


def _mean_foreground(samples: dict[str, dict[str, float]]) -> float:
    values = samples["mesh3d/view_psnr_foreground"].values()
    return sum(values) / len(values)


def _splatted(task: TaskConfig, scale: float, opacity: float) -> dict[str, dict[str, float]]:
    source, found = build_source(task), dict[str, dict[str, float]]()
    factories = source.host.metrics()
    for index in range(len(source)):
        target = source.load(index)
        drawn = splats_of(target, scale, opacity)
        for name, value in score_all(factories, drawn, target).items():
            found.setdefault(f"mesh3d/{name}", {})[source.key(index)] = value
    return found
