"""Whether a stage can `grow: clips`: known from the configuration, or from one sample of each of its tasks."""

from __future__ import annotations

from collections.abc import Iterator

from tok4d.config.schema import Curriculum, StackConfig, TaskConfig, TokenizerConfig
from tok4d.data.build import build_source
from tok4d.errors import ConfigError, Tok4dError
from tok4d.modality import PatchSize, patch_width
from tok4d.training.start import sample_patches
from tok4d.weights.linear import CONSTANTS
from tok4d.weights.linear_modes import check_room


def check_clips(curriculum: Curriculum, name: str, config: TokenizerConfig, *, look: bool) -> None:
    """Refuse `grow: clips` where there is nothing that it could grow from, or no room for it.

    Args:
        name: of the stage.
        config: of the model in this stage.
        look: whether a sample of a task may be loaded where its options do not tell how many frames it has; without
            it, such tasks are believed.

    Raises:
        ConfigError: saying what is missing, and what to do.
    """
    if curriculum.stages[name].grow != "clips":
        return
    frames, height, width = config.patch_size
    size = (frames, height, width)
    if frames < 2:
        raise ConfigError(
            "grow: clips: patches of one frame cannot show motion; give model.overrides.patch_size several frames, or "
            "say grow: scores"
        )
    _check_stacks(config)
    first = curriculum.order[0]
    start = next(_widths(curriculum, first, size, look))
    if start is not None and start * frames != patch_width(size):
        raise ConfigError(
            f"grow: clips: it continues a start on pictures, which the first task of stages.{first} has not; begin "
            "with a task of pictures, or say grow: scores"
        )
    picture = start or patch_width((1, height, width))
    if all(found is not None and found <= picture for found in _widths(curriculum, name, size, look)):
        raise ConfigError(
            "grow: clips: no task of this stage has samples of more than one frame; give it a task of clips, or say "
            "grow: scores"
        )


def _check_stacks(config: TokenizerConfig) -> None:
    stacks: dict[str, StackConfig] = {"encoder": config.encoder, "decoder": config.decoder}
    _, height, width = config.patch_size
    for name, stack in stacks.items():
        carried = min(stack.width - CONSTANTS - 1, patch_width((1, height, width)))
        try:
            check_room(name, config.latent, stack.blocks, carried, stack.mlp)
        except ConfigError as error:
            raise ConfigError(f"grow: clips: {error}; give it that, or say grow: scores") from error


def _widths(curriculum: Curriculum, name: str, size: PatchSize, look: bool) -> Iterator[int | None]:
    """Values of a patch that the samples of a stage's tasks fill, task by task; None: not known."""
    for task in curriculum.stages[name].tasks.values():
        try:
            yield _width(task, size) or (sample_patches(task, size, 1, curriculum.seed).shape[1] if look else None)
        except Tok4dError:  # a source or file that is named where all of them are checked
            yield None


def _width(task: TaskConfig, size: PatchSize) -> int | None:
    """The same by the options of a task's source alone."""
    source = build_source(task)
    shape = source.largest_shape()
    if shape is None:
        return None
    return source.host.grid(shape, size)[1].channels or patch_width(size)
