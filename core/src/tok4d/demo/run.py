"""What `tok4d demo` does, for any modality: train, encode to files, decode from the files alone, score, report.

OUT/run/                  the training run (see `tok4d.training.run`)
OUT/tokens/NAME.tok.safetensors
OUT/pictures/NAME.{original,pca,model}.png, and .mp4 or .html for samples that a page plays or lets people turn
OUT/index.html, OUT/results.json
"""

from __future__ import annotations

import json
import logging
import re
import statistics
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from tok4d.config.schema import Curriculum, TaskConfig
from tok4d.data.batches import Batch, validation_batches
from tok4d.demo.report import write_report
from tok4d.errors import ConfigError, Tok4dError
from tok4d.metrics import score_all
from tok4d.modality import Modality, Sample
from tok4d.model.pca import PatchPCA
from tok4d.model.tokenizer import Tokenizer
from tok4d.plugins.registry import modality
from tok4d.tokenfile import SUFFIX, load_tokens, save_tokens
from tok4d.tokens import TokenSet
from tok4d.training.run import Result
from tok4d.training.stage_loss import targets, unpatchify
from tok4d.training.start import fit_pca
from tok4d.weights.folder import write_text

log = logging.getLogger(__name__)


@dataclass
class Row:
    """One held-out sample: what it cost, how well each method restored it, and its pictures."""

    key: str
    modality: str
    shape: list[int]
    tokens: int
    file_bytes: int
    scores: dict[str, dict[str, float]] = field(default_factory=dict)  # method -> metric -> value
    pictures: dict[str, str] = field(default_factory=dict)  # method -> file, relative to the report
    shown: dict[str, str] = field(default_factory=dict)  # the same, for what a page plays or lets people turn

    @property
    def gain(self) -> float:
        """PSNR of the model's mean latents over the PCA's, in dB."""
        return self.scores["model"]["psnr"] - self.scores["pca"]["psnr"]


@dataclass
class Report:
    """Everything the demo measured.

    Attributes:
        rows: held-out samples.
        training: what was trained, and how fast.
        latents: statistics of the held-out samples' latents.
        stages: validation at the end of every stage, `{modality/metric: value}` with the stage's name.
    """

    rows: list[Row]
    training: dict[str, Any]
    latents: dict[str, float]
    stages: list[dict[str, Any]]

    def summary(self) -> dict[str, Any]:
        """Means over the samples of every modality with the paired gain over the PCA, and what was trained."""
        names = list(dict.fromkeys(row.modality for row in self.rows))
        measured = {name: _summary([row for row in self.rows if row.modality == name]) for name in names}
        return {**self.training, **self.latents, "modalities": measured, "stages": self.stages}


def _summary(rows: list[Row]) -> dict[str, Any]:
    gains = [row.gain for row in rows]
    means = {
        f"{method} {metric}": statistics.mean(row.scores[method][metric] for row in rows)
        for method in rows[0].scores
        for metric in rows[0].scores[method]
        if all(metric in row.scores[method] for row in rows)  # some need what not every sample has
    }
    return {
        "samples": len(rows),
        "tokens per sample": statistics.mean(row.tokens for row in rows),
        **means,
        "median gain over PCA (dB)": statistics.median(gains),
        "least gain over PCA (dB)": min(gains),
    }


def check_demo(curriculum: Curriculum) -> None:
    """Refuse, before any training, a curriculum that would leave nothing to show.

    Raises:
        ConfigError: when the last stage has no validation task, or its modality no `psnr` metric.
    """
    name = curriculum.order[-1]
    tasks = curriculum.stages[name].validation
    if not tasks:
        raise ConfigError(f"stages.{name}.validation is empty; the demo needs held-out samples to show")
    for key, task in tasks.items():
        host = modality(task.source.split("/")[0])
        if "psnr" not in host.metrics():
            raise ConfigError(
                f"stages.{name}.validation.{key}: the demo needs a metric 'psnr' of modality {host.name!r}"
            )


def evaluate_run(curriculum: Curriculum, result: Result, out: Path) -> Report:
    """Encode, decode and score every validation sample of the curriculum's last stage, and write the report."""
    stage = curriculum.stages[curriculum.order[-1]]
    model = result.model
    rows: list[Row] = []
    means: list[torch.Tensor] = []
    for folder in ("tokens", "pictures"):
        (out / folder).mkdir(parents=True, exist_ok=True)
    digest = model.digest
    for key, task in stage.validation.items():
        pca = fit_pca(_trained_on(curriculum, key, task), model.patch_size, curriculum.init_samples, curriculum.seed)
        for batch in validation_batches({key: task}, model.patch_size):
            for one in batch.unpack():
                row, mean = _evaluate(model, digest, pca, one, out, f"{len(rows):02d}-{_plain(one.keys[0])}")
                rows.append(row)
                means.append(mean)
    report = Report(
        rows, _training(curriculum, result, model), latent_statistics(torch.cat(means)), _stages(curriculum, result)
    )
    summary, plain = report.summary(), [asdict(row) for row in rows]
    write_text(out / "results.json", json.dumps({"summary": summary, "rows": plain}, indent=1))
    shown = [row | {"gain": made.gain} for row, made in zip(plain, rows, strict=True)]
    write_report(out / "index.html", shown, summary)
    return report


def _plain(key: str) -> str:
    """A sample's name as part of a file name and an address."""
    return re.sub(r"[^\w.-]+", "-", Path(key).stem).strip("-.") or "sample"


def _trained_on(curriculum: Curriculum, key: str, task: TaskConfig) -> TaskConfig:
    """The training task of a validation task: of its name, else of its modality, from the last stage on."""
    stages = [curriculum.stages[name] for name in reversed(curriculum.order)]
    named = [stage.tasks[key] for stage in stages if key in stage.tasks]
    host = task.source.split("/")[0]
    akin = [other for stage in stages for other in stage.tasks.values() if other.source.split("/")[0] == host]
    return next(iter([*named, *akin, *stages[0].tasks.values()]))


def _stages(curriculum: Curriculum, result: Result) -> list[dict[str, Any]]:
    """The last validation of every stage, in order."""
    last = {row["stage"]: row for row in result.validation}
    return [last[name] for name in curriculum.order if name in last]


@torch.no_grad()
def _evaluate(
    model: Tokenizer, digest: str, pca: PatchPCA, batch: Batch, out: Path, name: str
) -> tuple[Row, torch.Tensor]:
    host = modality(batch.modality)
    (target,) = targets(batch)
    encoded = model.encode(batch.tokens, pool=False)
    path = out / "tokens" / f"{name}{SUFFIX}"
    save_tokens(path, encoded.latents("mean"), model_digest=digest)
    restored = load_tokens(path).tokens()  # from here on the original is not looked at
    noise = batch.noise(model.config.latent)
    patches: dict[str, TokenSet] = {
        "pca": pca.reconstruct(batch.tokens, model.config.latent),
        "model": model.decode(restored),
        "model, sampled": model.decode(encoded.latents("sample", noise=noise)),
    }
    row = Row(
        batch.keys[0], batch.modality, list(batch.tokens.origins[0].shape), len(restored.feats), path.stat().st_size
    )
    samples = {"original": target}
    for method, tokens in patches.items():
        samples[method] = unpatchify(model, batch, tokens, use_head=method != "pca")[0]
        row.scores[method] = score_all(host.metrics(), samples[method], target)
    for method in ("original", "pca", "model"):
        row.pictures.update(_picture(host, samples[method], method, out, name))
        row.shown.update(_shown(host, samples[method], method, out, name))
    return row, encoded.posterior.mean


def _picture(host: Modality, sample: Sample, method: str, out: Path, name: str) -> dict[str, str]:
    """The first preview of a sample as PNG; nothing for a modality without one."""
    pictures = host.preview(sample)
    if not pictures:
        return {}
    file = f"pictures/{name}.{method}.png"
    pictures[0].save(out / file)
    return {method: file}


def _shown(host: Modality, sample: Sample, method: str, out: Path, name: str) -> dict[str, str]:
    """The sample as a page plays it, or a viewer of the model's; nothing where it cannot be written."""
    if not host.shows or (host.shows == ".html" and method != "model"):
        return {}
    file = f"pictures/{name}.{method}{host.shows}"
    try:
        host.write(sample, out / file)
    except Tok4dError as error:  # an encoder that is not installed is no reason to lose the report
        log.warning("%s", error)
        return {}
    return {method: file}


def latent_statistics(means: torch.Tensor) -> dict[str, float]:
    """Posterior means `[T, L]` of the held-out samples: spread, largest value, channels that carry something."""
    deviation = means.std(0)
    return {
        "latent deviation (mean over channels)": float(deviation.mean()),
        "latent largest absolute value": float(means.abs().max()),
        "latent channels in use (deviation > 0.1)": int((deviation > 0.1).sum()),
    }


def _training(curriculum: Curriculum, result: Result, model: Tokenizer) -> dict[str, Any]:
    return {
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "latent channels": model.config.latent,
        "training steps": sum(curriculum.stages[name].steps for name in curriculum.order),
        "training tokens/s": result.tokens_per_second,
    }
