"""`tok4d bench explain`: what a loss does to a model."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from tok4d.cli.console import emit, note, progress
from tok4d.cli.files import Device, Json, ModelFolder, Out
from tok4d.errors import ConfigError, DataError, unknown_name

if TYPE_CHECKING:
    from tok4d_bench.explain.subject import Case

PARTS = ("distances", "gradients", "landscape")


def explain(
    model: ModelFolder,
    out: Out,
    data: str | None = typer.Option(None, "--data", metavar="SOURCE", help="Source of samples, such as image/photos."),
    options: str = typer.Option("", "--options", metavar="YAML", help="Its options: '{split: val, size: 128}'."),
    losses: str = typer.Option("", "--losses", metavar="YAML", help="The objective: '{l1: 1, lpips: 10}'."),
    curriculum: str | None = typer.Option(None, "--curriculum", help="Take source and losses of one of its tasks."),
    stage: str | None = typer.Option(None, "--stage", help="Its stage. Default: the last."),
    task: str | None = typer.Option(None, "--task", help="The stage's task. Default: the first."),
    side: int = typer.Option(
        128, "--side", min=0, help="Pictures and clips become squares of this side; 0: as they are."
    ),
    limit: int = typer.Option(64, "--limit", min=1, help="Samples for the distances."),
    few: int = typer.Option(8, "--few", min=1, help="Samples for gradients and landscape, of these."),
    network: list[str] = typer.Option([], "--network", help="For the distances; several are allowed."),
    pca: int = typer.Option(0, "--pca", min=0, help="Directions for their two parts. Default: a tenth of the samples."),
    points: int = typer.Option(5, "--points", help="Of the landscape along an axis, odd."),
    radius: float = typer.Option(0.5, "--radius", help="Of the landscape, in lengths of the model's own filters."),
    seed: int = typer.Option(0, "--seed", help="Of the landscape's directions."),
    parts: str = typer.Option(",".join(PARTS), "--parts", help="What to find out, comma-separated."),
    device: Device = "cpu",
    as_json: Json = False,
) -> None:
    """Explain a model's loss: the Fréchet distance in its mean and covariance parts on any network, gradients of every
    term and their cosines, and the landscape around the weights. Writes explain.json, explain.md and landscape.png.
    Files that could not be used are named, and the exit code is then 1.
    """
    wanted = _parts(parts)
    changes = {key: _yaml(f"--{key}", text) for key, text in (("options", options), ("losses", losses)) if text}
    from tok4d.cli.files import load_model, make_folder
    from tok4d_bench.explain.landscape import check_plane
    from tok4d_bench.explain.subject import make_case, task_of

    check_plane(points, radius)
    chosen = task_of(curriculum, stage, task, data, changes)
    loaded = load_model(model, device)
    case = make_case(loaded.model, chosen, limit, side, loaded.device)
    make_folder(out)
    found: dict[str, Any] = {
        "schema": 1,
        "model": {"name": model.resolve().name, "digest": loaded.digest},
        "task": {"source": chosen.source, "options": dict(chosen.options), "losses": dict(chosen.losses)},
        "side": side,
        "samples": sum(len(batch.keys) for batch in case.batches),
        "bad": list(case.bad),
        "seed": seed,
        **_measured(case, wanted, few, network, pca, points, radius, seed, as_json),
    }
    _write(out, found)
    emit(found, as_json, lambda: _render(out, found))
    for reason in case.bad:
        note(f"left out: {reason}")
    if case.bad:
        raise typer.Exit(1)


def _parts(text: str) -> list[str]:
    wanted = [part.strip() for part in text.split(",") if part.strip()]
    for part in wanted:
        if part not in PARTS:
            raise ConfigError(f"--parts: {unknown_name('part', part, PARTS)}")
    if not wanted:
        raise ConfigError(f"--parts names nothing; there are {', '.join(PARTS)}")
    return wanted


def _yaml(option: str, text: str) -> dict[str, Any]:
    """A mapping, read as curricula are: 1e-8 is a number there, which plain YAML takes for text."""
    import yaml
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    try:
        found = OmegaConf.to_container(OmegaConf.create(text))
    except (yaml.YAMLError, OmegaConfBaseException, ValueError) as error:
        raise ConfigError(f"{option} {text!r} is no YAML: {str(error).splitlines()[0]}") from error
    if not isinstance(found, dict) or None in found.values():
        raise ConfigError(f"{option} {text!r} must be a mapping with values, such as '{{split: val}}'")
    return {str(key): value for key, value in found.items()}


def _measured(
    case: Case,
    wanted: list[str],
    few: int,
    networks: list[str],
    pca: int,
    points: int,
    radius: float,
    seed: int,
    as_json: bool,
) -> dict[str, Any]:
    """The parts asked for, cheap ones first."""
    from tok4d_bench.explain.distances import distances
    from tok4d_bench.explain.gradients import pulls
    from tok4d_bench.explain.landscape import landscape

    some = _few(case, few)
    found: dict[str, Any] = {}
    if "distances" in wanted:
        note("Fréchet distances")
        found["distances"] = distances(case, networks, pca)
    if "gradients" in wanted:
        note("gradients by term")
        found["gradients"] = asdict(pulls(case, some))
    if "landscape" in wanted:
        with progress(points * points, "landscape", as_json) as advance:
            plane = landscape(case, some, points=points, radius=radius, seed=seed, advance=advance)
        found["landscape"] = {**asdict(plane), "rise": plane.rise}
    return found


def _few(case: Case, count: int) -> list[Any]:
    """Whole batches from the first on, with at least so many samples where there are so many."""
    kept: list[Any] = []
    for batch in case.batches:
        if sum(len(one.keys) for one in kept) >= count:
            break
        kept.append(batch)
    return kept


def _write(out: Path, found: dict[str, Any]) -> None:
    import json

    from tok4d.cli.console import finite
    from tok4d.weights.folder import write_text
    from tok4d_bench.explain.heatmap import heat_map
    from tok4d_bench.explain.report import markdown

    try:
        write_text(out / "explain.json", json.dumps(finite(found), indent=2, default=str) + "\n")
        write_text(out / "explain.md", markdown(found))
        if "landscape" in found:
            heat_map(found["landscape"]["losses"], out / "landscape.png")
    except OSError as error:
        raise DataError(out, f"cannot be written: {error.strerror or error}") from error


def _render(out: Path, found: dict[str, Any]) -> None:
    from tok4d_bench.explain.report import markdown

    typer.echo(markdown(found))
    typer.echo(f"written: {out / 'explain.json'}, {out / 'explain.md'}")
