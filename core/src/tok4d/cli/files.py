"""What `encode`, `decode` and `reconstruct` share: options, models, expanding inputs, naming outputs, failed files."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tok4d.cli.console import note
from tok4d.errors import ConfigError, DataError, PluginError, Tok4dError, unknown_name

if TYPE_CHECKING:
    import torch

    from tok4d.modality import Modality, Sample
    from tok4d.model.tokenizer import Tokenizer
    from tok4d.origin import Origin
    from tok4d.tokens import TokenSet

Files = Annotated[list[str], typer.Argument(metavar="FILES", help="Files, folders or glob patterns.")]
ModelFolder = Annotated[Path, typer.Option("-m", "--model", metavar="MODEL", help="Model folder.")]
Out = Annotated[Path, typer.Option("-o", "--out", metavar="OUT", help="Folder for the results.")]
Device = Annotated[str, typer.Option("--device", help="cpu, cuda, cuda:1, or auto.")]
Dtype = Annotated[str, typer.Option("--dtype", help="Precision of the model: float32 or bf16.")]
ModalityName = Annotated[str | None, typer.Option("--modality", help="Read all files as this modality.")]
UseCodes = Annotated[
    bool | None,
    typer.Option("--codes/--latents", help="FSQ codes or continuous latents. Default: codes if it has any."),
]
ReadOptions = Annotated[
    list[str] | None,
    typer.Option("--read", metavar="KEY=VALUE", help="An option of the modality's reader, such as size=256."),
]
BatchSize = Annotated[int, typer.Option("--batch-size", min=1, help="Files per batch.")]
Json = Annotated[bool, typer.Option("--json", help="Give JSON alone on stdout.")]


@dataclass(frozen=True)
class Loaded:
    """A model ready to run, and the digest of its weights as saved."""

    model: Tokenizer
    digest: str
    device: torch.device
    dtype: torch.dtype

    def uses_codes(self, wanted: bool | None) -> bool:
        """Whether to work with codes.

        Raises:
            Tok4dError: when codes are wanted of a model that has none.
        """
        if wanted and self.model.quantizer is None:
            raise Tok4dError("--codes: this model has continuous latents; use --latents")
        return self.model.quantizer is not None if wanted is None else wanted

    def restore(self, patches: TokenSet) -> list[Sample]:
        """Patches of one modality to samples in float32 on the CPU."""
        owner = _modality(patches.origins[0].modality)
        head = dict(self.model.heads.items()).get(owner.name)
        return owner.unpatchify(patches.to("cpu" if head is None else None, dtype=_float32()), head)


def load_model(folder: Path, device: str = "auto", dtype: str = "float32") -> Loaded:
    """Load a model folder.

    Raises:
        Tok4dError: for a missing or broken folder, and a device or precision that cannot be had.
    """
    import torch

    from tok4d.model.tokenizer import Tokenizer

    precisions = {"float32": torch.float32, "bf16": torch.bfloat16}
    if dtype not in precisions:
        raise Tok4dError(unknown_name("dtype", dtype, precisions))
    place = pick_device(device)
    model = Tokenizer.from_pretrained(folder)
    digest = model.digest  # of the weights as saved, before any cast
    return Loaded(model.to(place, precisions[dtype]), digest, place, precisions[dtype])


def pick_device(name: str) -> torch.device:
    """A torch device by name; `auto` is the first GPU, else the CPU.

    Raises:
        Tok4dError: for a name torch does not know, or a device that is not there.
    """
    import torch

    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if name.startswith("meta"):
        raise Tok4dError(f"--device {name}: holds shapes without values; give cpu, cuda, or auto")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise Tok4dError(f"--device {name}: not available here: {str(error).splitlines()[0]}") from error
    return device


@dataclass
class Batch:
    """Outcome of a run over files; a failed file never stops the others."""

    failures: list[dict[str, str]] = field(default_factory=list)

    @contextmanager
    def guard(self, *paths: Path | str) -> Iterator[None]:
        """Record an error that belongs to these files, and go on."""
        try:
            yield
        except (Tok4dError, OSError) as error:
            for path in paths:
                self.failures.append({"file": str(path), "error": _reason(error, path)})

    def finish(self, results: Sequence[Any], what: str) -> None:
        """List the failures on stderr and leave with exit code 1 if there are any."""
        for failure in self.failures:
            note(f"error: {failure['file']}: {failure['error']}")
        if self.failures:
            total = len(self.failures) + len(results)
            note(f"{len(self.failures)} of {total} {what} failed")
            raise typer.Exit(1)


def _reason(error: Exception, path: Path | str) -> str:
    if isinstance(error, DataError) and error.path == str(path):
        return error.reason
    return getattr(error, "strerror", None) or str(error)


def expand(files: Sequence[str], suffixes: Sequence[str], batch: Batch) -> list[Path]:
    """All files that the arguments name, each once, in order; what is not there becomes a failure of the batch."""
    from tok4d.data.source import find_files

    found: dict[Path, Path] = {}
    for item in files:
        with batch.guard(item):
            for path in [Path(item)] if Path(item).is_file() else find_files(item, suffixes):
                found.setdefault(path.resolve(), path)
    return list(found.values())


def known_suffixes(name: str | None) -> list[str]:
    """Suffixes of one modality, or of all that load."""
    from tok4d.plugins.registry import modalities, modality

    if name is not None:
        return list(modality(name).suffixes)
    suffixes: list[str] = []
    for candidate in modalities():
        try:
            suffixes += modality(candidate).suffixes
        except PluginError as error:
            note(f"warning: {error}")
    return list(dict.fromkeys(suffixes))


def output_paths(inputs: Sequence[Path], out: Path, name: Callable[[Path], tuple[str, str]]) -> list[Path]:
    """One distinct output in `out` per input.

    `name` gives stem and suffix of an output. Inputs that would share a name keep their own suffix in it: `a.png` and
    `a.jpg` become `a.png.tok.safetensors` and `a.jpg.tok.safetensors`. What still clashes is numbered in order, `-2`.

    Raises:
        Tok4dError: when `out` cannot be made, or an output would overwrite an input.
    """
    make_folder(out)
    names = [name(path) for path in inputs]
    shared = {key for key, count in Counter((stem + suffix).lower() for stem, suffix in names).items() if count > 1}
    taken: set[str] = set()
    outputs = []
    for path, (stem, suffix) in zip(inputs, names, strict=True):
        base = path.name if (stem + suffix).lower() in shared else stem
        chosen, number = f"{base}{suffix}", 2
        while chosen.lower() in taken:  # also on file systems that ignore case
            chosen, number = f"{base}-{number}{suffix}", number + 1
        taken.add(chosen.lower())
        outputs.append(out / chosen)
    originals = {path.resolve() for path in inputs}
    for path in outputs:
        if path.resolve() in originals:
            raise Tok4dError(f"{path} is an input and would be overwritten; choose another folder with --out")
    return outputs


def make_folder(out: Path) -> None:
    """The folder of `--out`, before any work.

    Raises:
        Tok4dError: when it cannot be made, or written to.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise Tok4dError(f"--out {out}: cannot make the folder: {error.strerror}") from error
    if not os.access(out, os.W_OK | os.X_OK):
        raise Tok4dError(f"--out {out}: may not be written to")


def read_options(items: Sequence[str] | None) -> dict[str, Any]:
    """`--read` options; values are YAML scalars.

    Raises:
        ConfigError: for one that is not KEY=VALUE.
    """
    import yaml

    options: dict[str, Any] = {}
    for item in items or ():
        key, equals, value = item.partition("=")
        if not key or not equals:
            raise ConfigError(f"--read needs KEY=VALUE, got {item!r}")
        try:
            options[key] = yaml.safe_load(value)
        except yaml.YAMLError as error:
            raise ConfigError(f"--read {item}: {value!r} is no YAML value") from error
    return options


def read_patches(
    path: Path, modality: Modality, model: Tokenizer, read: Mapping[str, Any] | None = None
) -> tuple[Sample, TokenSet]:
    """Read one file and cut it into validated tokens, as the model's head and its `inputs` ask.

    The sample is what the tokens hold: without what a model's options cut away.
    """
    options = model.config.inputs.get(modality.name, {})
    head = dict(model.heads.items()).get(modality.name)
    host = (modality if head is None else modality.fitting(head)).configured(options)
    sample = host.read(path, **(read or {}))
    tokens = host.patchify(sample, model.patch_size).validate()
    if options and tuple(sample.data[modality.field].shape) != tokens.origins[0].shape:
        (kept,) = modality.unpatchify(tokens)
        sample = replace(sample, data=kept.data)
    return sample, tokens


def check_patch(origins: Sequence[Origin], model: Tokenizer) -> None:
    """Refuse tokens that were cut with another patch size.

    Raises:
        Tok4dError: naming both sizes.
    """
    for origin in origins:
        if origin.patch != model.patch_size:
            raise Tok4dError(f"its tokens have patches of {origin.patch}, the model has {model.patch_size}")


def chunks(items: Sequence[Any], size: int) -> Iterator[Sequence[Any]]:
    """Consecutive runs of at most `size` items."""
    for start in range(0, len(items), size):
        yield items[start : start + size]


def _modality(name: str) -> Modality:
    from tok4d.plugins.registry import modality

    return modality(name)


def _float32() -> torch.dtype:
    import torch

    return torch.float32
