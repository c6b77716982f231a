"""`tok4d weights`: released checkpoints in and out, a start from SigLIP2, pretrained networks by name."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tok4d.cli import STYLE
from tok4d.cli.console import emit, note, pairs
from tok4d.cli.files import Json
from tok4d.cli.weights_list import fetch_weights, list_weights
from tok4d.cli.weights_siglip2 import init_siglip2
from tok4d.errors import ConfigError, DataError, Tok4dError

if TYPE_CHECKING:
    from tok4d.model.tokenizer import Tokenizer

app = typer.Typer(help="Fetch, import, export and initialise weights.", no_args_is_help=True, **STYLE)
app.command("list")(list_weights)
app.command("fetch")(fetch_weights)
app.command("init-siglip2")(init_siglip2)

EXPORTED = (".safetensors", ".pt")
Force = Annotated[bool, typer.Option("--force", help="Overwrite what is there.")]


@app.command("import-atoken")
def import_atoken(
    checkpoint: Annotated[Path, typer.Argument(metavar="CHECKPOINT", help="A released .pt, or its safetensors.")],
    config: Annotated[Path, typer.Argument(metavar="CONFIG", help="The YAML file released with it.")],
    out: Annotated[Path, typer.Option("-o", "--out", metavar="FOLDER", help="Model folder to write.")],
    force: Force = False,
    as_json: Json = False,
) -> None:
    """Turn a released AToken checkpoint into a model folder that does what the released code does."""
    from tok4d.weights.folder import CONFIG, WEIGHTS

    _refuse_existing([out / WEIGHTS, out / CONFIG], force)
    arch = _read_arch(config)
    from tok4d.weights.atoken import load_atoken
    from tok4d.weights.checkpoints import read_checkpoint

    model = load_atoken(read_checkpoint(checkpoint), arch, where=checkpoint)
    model.save_pretrained(out)
    data = {"folder": str(out), **describe(model)}
    emit(data, as_json, lambda: _render(data))


@app.command("export-atoken")
def export_atoken(
    folder: Annotated[Path, typer.Argument(metavar="MODEL", help="Model folder.")],
    out: Annotated[Path, typer.Option("-o", "--out", metavar="FILE", help="FILE.safetensors or FILE.pt to write.")],
    force: Force = False,
    as_json: Json = False,
) -> None:
    """Write a model as a checkpoint with the released names, and its YAML configuration beside it."""
    if out.suffix not in EXPORTED:
        raise Tok4dError(f"--out {out}: the name must end in {' or '.join(EXPORTED)}")
    config_path = out.with_suffix(".yaml")
    _refuse_existing([out, config_path], force)
    from tok4d.model.tokenizer import Tokenizer
    from tok4d.weights.atoken import lost_in_export

    model = Tokenizer.from_pretrained(folder)
    _write_checkpoint(model, out, config_path)
    lost = lost_in_export(model)
    data = {"checkpoint": str(out), "config": str(config_path), **describe(model), "not_exported": lost}
    emit(data, as_json, lambda: typer.echo(f"{out} and {config_path}"))
    for line in lost:
        note(f"note: {line}")


def describe(model: Tokenizer) -> dict[str, Any]:
    """What a released model is, and the options by which it follows the release."""
    from tok4d.weights.atoken_arch import RELEASE, kind_of

    config, fsq, text = model.config, model.config.quantizer, model.config.text
    return {
        "kind": kind_of(config),
        "latent_channels": config.latent,
        "quantizer": None if fsq is None else {"groups": fsq.groups, "levels": list(fsq.levels)},
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "dtype": str(model.proj.weight.dtype).removeprefix("torch."),
        "text": None if text is None else text.source,
        "compatibility": {key: getattr(config, key) for key in RELEASE},
    }


def _read_arch(path: Path) -> dict[str, Any]:
    """A released YAML file, checked before gigabytes of weights are read."""
    from tok4d.config.loader import read_yaml
    from tok4d.weights.atoken_arch import config_of

    arch = read_yaml(path)
    try:
        config_of(arch)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from error
    return arch


def _write_checkpoint(model: Tokenizer, out: Path, config_path: Path) -> None:
    import torch
    import yaml

    from tok4d.weights import export_atoken
    from tok4d.weights.atoken_arch import arch_of
    from tok4d.weights.folder import replacing, write_tensors, write_text

    tensors, text = export_atoken(model), yaml.safe_dump(arch_of(model.config), sort_keys=False)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        if out.suffix == ".pt":
            with replacing(out) as partial:
                torch.save(tensors, partial)
        else:
            write_tensors(out, tensors, {"format": "pt"})
        write_text(config_path, text)
    except (OSError, RuntimeError) as error:  # torch.save's writer knows no OSError
        reason = getattr(error, "strerror", None) or str(error).partition("\n")[0]
        raise DataError(out, f"cannot be written: {reason}") from error


def _refuse_existing(paths: list[Path], force: bool) -> None:
    for path in paths:
        if path.exists() and not force:
            raise Tok4dError(f"{path} is there already; choose another --out, or overwrite it with --force")


def _render(data: dict[str, Any]) -> None:
    fsq, options = data["quantizer"], data["compatibility"]
    inputs = {
        f"inputs {name}": ", ".join(f"{k}: {v}" for k, v in its.items()) for name, its in options["inputs"].items()
    }
    rows = {
        "folder": data["folder"],
        "kind": data["kind"],
        "latent channels": data["latent_channels"],
        "quantizer": "none" if fsq is None else f"FSQ, {fsq['groups']} groups of levels {fsq['levels']}",
        "parameters": f"{data['parameters']:,}",
        "dtype": data["dtype"],
        "text tower": data["text"] or "none of this width",
        **{key.replace("_", " "): value for key, value in options.items() if key != "inputs"},
        **inputs,
    }
    pairs([(name, str(value)) for name, value in rows.items()])
