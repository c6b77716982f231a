"""`tok4d reconstruct`: files through the tokenizer and back, with the modality's metrics."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tok4d.cli.console import emit, progress, share, table
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
    ReadOptions,
    UseCodes,
    expand,
    known_suffixes,
    load_model,
    output_paths,
    read_options,
    read_patches,
)

if TYPE_CHECKING:
    from tok4d.metrics import PieceMean
    from tok4d.modality import Modality, Sample
    from tok4d.tokens import TokenSet


def reconstruct(
    files: Files,
    model: ModelFolder,
    out: Out,
    modality: ModalityName = None,
    use_codes: UseCodes = None,
    suffix: Format = None,
    read: ReadOptions = None,
    device: Device = "auto",
    dtype: Dtype = "float32",
    as_json: Json = False,
) -> None:
    """Encode and decode files one by one, write what comes back to OUT, and print its metrics per file and on average.

    Clips are read, restored and written a few frames at a time, so their length costs no memory.
    A file that cannot be used is listed with its reason; the others are still done, and the exit code is 1.
    """
    import torch

    loaded = load_model(model, device, dtype)
    codes = loaded.uses_codes(use_codes)
    batch, means, options = Batch(), _Means(), read_options(read)
    jobs = _jobs(expand(files, known_suffixes(modality), batch), modality, out, suffix, batch)
    results: list[dict[str, Any]] = []
    with progress(len(jobs), "reconstruct", as_json) as advance, torch.inference_mode():
        for path, owner, target in jobs:
            with share(advance) as part, batch.guard(path):
                values, tokens = _restore(path, owner, target, loaded, codes, options, means, part)
                row = {"file": str(path), "written": str(target), "modality": owner.name, "tokens": tokens}
                results.append({**row, "metrics": values})
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


def _restore(
    path: Path,
    owner: Modality,
    target: Path,
    loaded: Loaded,
    codes: bool,
    options: dict[str, Any],
    means: _Means,
    advance: Callable[[float], None],
) -> tuple[dict[str, float], int]:
    """Reconstruct one file, piece by piece where the modality can; returns its metrics and how many tokens it has."""
    from tok4d import streaming

    stream = streaming.open_stream(owner, path, loaded.model, options)
    if stream is None:
        sample, tokens = read_patches(path, owner, loaded.model, options)
        (restored,) = loaded.restore(_through(tokens, loaded, codes))
        owner.write(restored, target)  # first: what can't be written is a failure, and counts for no mean
        return means.add(owner, restored, sample), tokens.num_tokens
    running, count = means.of(owner), 0

    def counted() -> Iterator[streaming.Piece]:
        nonlocal count
        for piece in streaming.pieces(stream, owner, loaded.model, advance):
            count += piece.tokens.num_tokens
            yield piece

    with stream, running, owner.writer(target, stream.fps) as writer:
        for restored, original in streaming.reconstruct(counted(), owner, loaded.model, codes):
            writer.add(restored)
            running.piece(restored, original)
    return running.values, count


def _through(tokens: TokenSet, loaded: Loaded, codes: bool) -> TokenSet:
    model = loaded.model
    encoded = model.encode(tokens.to(loaded.device, loaded.dtype), pool=False)
    return model.decode(model.quantize(encoded).latents() if codes else encoded.latents("mean"))


class _Means:
    """Metrics of every modality that occurs, over all its files."""

    def __init__(self) -> None:
        self.running: dict[str, dict[str, Any]] = {}

    def _metrics(self, owner: Modality) -> dict[str, Any]:
        return self.running.setdefault(owner.name, {name: make() for name, make in owner.metrics().items()})

    def add(self, owner: Modality, restored: Sample, target: Sample) -> dict[str, float]:
        """Metrics of one file, which also count for the mean."""
        from tok4d.metrics import score_all

        values = score_all(owner.metrics(), restored, target)
        for name in values:
            self._metrics(owner)[name].update([restored], [target])
        return values

    def of(self, owner: Modality) -> _Running:
        """Metrics of one file that comes in pieces; those that need whole samples are left out."""
        from tok4d.metrics import PieceMean

        return _Running({k: m for k, m in self._metrics(owner).items() if isinstance(m, PieceMean)})

    def compute(self) -> dict[str, dict[str, float]]:
        """Mean of every metric that has a value, by modality; a modality without any is left out."""
        means = {
            owner: {name: float(metric.compute()) for name, metric in metrics.items() if int(metric.count)}
            for owner, metrics in self.running.items()
        }
        return {owner: mean for owner, mean in means.items() if mean}


class _Running:
    """Metrics of one file in pieces; `values` are there when the block has ended well."""

    def __init__(self, metrics: dict[str, PieceMean]) -> None:
        self.metrics = metrics
        self.values: dict[str, float] = {}

    def piece(self, restored: Sample, target: Sample) -> None:
        for metric in self.metrics.values():
            metric.piece(restored, target)

    def __enter__(self) -> None:
        for metric in self.metrics.values():
            metric.begin()

    def __exit__(self, kind: object, *_: object) -> None:
        if kind is None:
            self.values = {name: metric.close() for name, metric in self.metrics.items()}


def _render(results: list[dict[str, Any]], means: dict[str, dict[str, float]]) -> None:
    """A table per modality, since each has its own metrics."""
    for owner in dict.fromkeys(result["modality"] for result in results):
        mean = means.get(owner, {})
        own = [r for r in results if r["modality"] == owner]
        rows = [(r["file"], r["tokens"], *(r["metrics"].get(name) for name in mean)) for r in own]
        average = (f"mean of {len(own)} ({owner})", None, *mean.values())
        table(("file", "tokens", *mean), [*rows, average], ("file",))
