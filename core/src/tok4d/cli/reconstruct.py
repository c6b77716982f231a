"""`tok4d reconstruct`: files through the tokenizer and back, with the modality's metrics."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tok4d.cli.console import emit, progress, table
from tok4d.cli.decode import Format, output_suffix
from tok4d.cli.files import (
    Batch,
    Device,
    Dtype,
    Files,
    Json,
    Loaded,
    ModalityName,
    ModelFolder,
    Out,
    UseCodes,
    expand,
    known_suffixes,
    load_model,
    output_paths,
    read_patches,
)

if TYPE_CHECKING:
    from tok4d.modality import Modality, Sample
    from tok4d.tokens import TokenSet


def reconstruct(
    files: Files,
    model: ModelFolder,
    out: Out,
    modality: ModalityName = None,
    use_codes: UseCodes = None,
    suffix: Format = None,
    device: Device = "auto",
    dtype: Dtype = "float32",
    as_json: Json = False,
) -> None:
    """Encode and decode files one by one, write what comes back to OUT, and print its metrics per file and on average.

    A file that cannot be used is listed with its reason; the others are still done, and the exit code is 1.
    """
    import torch

    loaded = load_model(model, device, dtype)
    codes = loaded.uses_codes(use_codes)
    batch, means = Batch(), _Means()
    jobs = _jobs(expand(files, known_suffixes(modality), batch), modality, out, suffix, batch)
    results: list[dict[str, Any]] = []
    with progress(len(jobs), "reconstruct", as_json) as advance, torch.inference_mode():
        for path, owner, target in jobs:
            with batch.guard(path):
                sample, tokens = read_patches(path, owner, loaded.model)
                (restored,) = loaded.restore(_through(tokens, loaded, codes))
                values = means.add(owner, restored, sample)
                owner.write(restored, target)
                row = {"file": str(path), "written": str(target), "modality": owner.name, "tokens": tokens.num_tokens}
                results.append({**row, "metrics": values})
            advance(1)
    mean = means.compute()
    data = {"model": loaded.digest, "files": results, "mean": mean, "failed": batch.failures}
    emit(data, as_json, lambda: _render(results, mean))
    batch.finish(results, "files")


def _jobs(
    paths: list[Path], name: str | None, out: Path, suffix: str | None, batch: Batch
) -> list[tuple[Path, Modality, Path]]:
    """Inputs that some modality reads, each with its modality and output."""
    from tok4d.plugins.registry import modality_for

    owners: dict[Path, Modality] = {}
    for path in paths:
        with batch.guard(path):
            owners[path] = modality_for(path, name)
    inputs = list(owners)
    outputs = output_paths(inputs, out, lambda path: (path.stem, output_suffix(owners[path].name, suffix)))
    return [(path, owners[path], target) for path, target in zip(inputs, outputs, strict=True)]


def _through(tokens: TokenSet, loaded: Loaded, codes: bool) -> TokenSet:
    model = loaded.model
    encoded = model.encode(tokens.to(loaded.device, loaded.dtype), pool=False)
    return model.decode(model.quantize(encoded).latents() if codes else encoded.latents("mean"))


class _Means:
    """Metrics of every modality that occurs, over all its files."""

    def __init__(self) -> None:
        self.running: dict[str, dict[str, Any]] = {}

    def add(self, owner: Modality, restored: Sample, target: Sample) -> dict[str, float]:
        """Metrics of one file, which also count for the mean."""
        from tok4d.metrics import score_one

        factories: dict[str, Callable[[], Any]] = owner.metrics()
        totals = self.running.setdefault(owner.name, {name: make() for name, make in factories.items()})
        values = {name: score_one(make, restored, target) for name, make in factories.items()}
        for total in totals.values():
            total.update([restored], [target])
        return values

    def compute(self) -> dict[str, dict[str, float]]:
        """Mean of every metric by modality."""
        return {
            owner: {name: float(metric.compute()) for name, metric in metrics.items()}
            for owner, metrics in self.running.items()
        }


def _render(results: list[dict[str, Any]], means: dict[str, dict[str, float]]) -> None:
    """A table per modality, since each has its own metrics."""
    for owner, mean in means.items():
        own = [r for r in results if r["modality"] == owner]
        rows = [(r["file"], r["tokens"], *(r["metrics"][name] for name in mean)) for r in own]
        average = (f"mean of {len(own)} ({owner})", None, *mean.values())
        table(("file", "tokens", *mean), [*rows, average], ("file",))
