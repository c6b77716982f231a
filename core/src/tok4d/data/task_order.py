"""One task's endless order of samples: what stands at a position, and how many tokens it has, as pure functions."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

from tok4d.config.schema import TaskConfig
from tok4d.data.batch import Inputs, Loaded, load_sample
from tok4d.data.order import sample_rng, seed_of
from tok4d.data.packing import Packing
from tok4d.data.patience import patiently
from tok4d.data.source import Source
from tok4d.errors import ConfigError, DataError, PluginError
from tok4d.modality import PatchSize

MAX_REPLACEMENTS = 16
_FAR = 1_000_003


class TaskOrder:
    """The samples of a task by position, counted from the stage's beginning; every epoch is a new permutation.

    Args:
        key: the task's name.
        task, source: its configuration and its samples, at least one.
        seed: of the stage.
        patch_size, inputs: of the model; its options of `patchify` by modality.
    """

    def __init__(
        self, key: str, task: TaskConfig, source: Source, seed: int, patch_size: PatchSize, inputs: Inputs | None
    ) -> None:
        self.key, self.task, self.source, self.seed = key, task, source, seed
        self.patch_size, self.inputs = patch_size, inputs
        self.host = source.host.configured((inputs or {}).get(source.modality, {}))
        self._packing = Packing(task.tokens, self.count)

    def batch(self, number: int) -> range:
        """Positions of batch `number` of the task: `task.batch` of them, or as many as fit into `task.tokens`."""
        if self.task.tokens:
            return self._packing.span(number)
        return range(number * self.task.batch, (number + 1) * self.task.batch)

    def go_on(self, number: int, start: int) -> None:
        """Take it as known that batch `number` begins at the position `start`."""
        self._packing.go_on(number, start)

    def noise_seed(self, position: int) -> int:
        """Seed of the posterior noise at a position."""
        return seed_of(self.seed, self.key, "noise", position)

    def load(self, position: int) -> tuple[Loaded, list[str]]:
        """The sample at a position; a bad file is replaced by the next ones in an order of its own.

        Raises:
            DataError: when a position finds no usable file.
        """
        bad: list[str] = []
        for index in self._candidates(position):
            try:
                sample = patiently(partial(self._load, index, position))
                self._refuse_large(index, sample.tokens.num_tokens)
                self._refuse_silent(sample)
                return sample, bad
            except DataError as error:
                bad.append(str(error))
        raise self._none_left(bad)

    def count(self, position: int) -> int:
        """Tokens of the sample at a position, found without loading it.

        It is that of the file which `load` takes, unless only decoding shows that the file is bad.

        Raises:
            ConfigError: when the source does not know sizes beforehand.
            DataError: when a position finds no usable file.
        """
        bad: list[str] = []
        for index in self._candidates(position):
            try:
                return patiently(partial(self._count, index, position))
            except (ConfigError, PluginError):
                raise
            except (ValueError, OSError) as error:  # as in `load_sample`
                bad.append(str(error))
        raise self._none_left(bad)

    def _load(self, index: int, position: int) -> Loaded:
        rng = sample_rng(self.seed, self.key, position)
        return load_sample(self.source, index, self.patch_size, rng, self.inputs)

    def _count(self, index: int, position: int) -> int:
        rng = sample_rng(self.seed, self.key, position)
        found = self.source.token_count(index, self.patch_size, rng, self.host)
        if found is None:
            raise ConfigError(
                f"task {self.key!r}: {self.task.source} does not know the size of a sample before it is loaded, so it "
                "cannot be packed by tokens; give the task a batch instead"
            )
        self._refuse_large(index, found)
        return found

    def _candidates(self, position: int) -> Iterator[int]:
        """Indices of the sample at a position and of those that replace it."""
        size = len(self.source)
        for attempt in range(MAX_REPLACEMENTS):
            # Replacements walk the same permutation from far away: deterministic, and no worker needs to know.
            epoch, offset = divmod(position + attempt * _FAR, size)
            yield self.source.ordered(offset, seed_of(self.seed, self.key, "order", epoch))

    def _refuse_large(self, index: int, tokens: int) -> None:
        if 0 < self.task.tokens < tokens:
            raise DataError(
                self.source.key(index), f"has {tokens:,} tokens, more than the {self.task.tokens:,} of a whole step"
            )

    def _refuse_silent(self, sample: Loaded) -> None:
        if self.task.captioned and not any(letter.isalnum() for letter in sample.caption or ""):
            raise DataError(sample.key, "has no caption")

    def _none_left(self, bad: list[str]) -> DataError:
        return DataError(f"task {self.key!r}", f"{MAX_REPLACEMENTS} files in a row cannot be used; last: {bad[-1]}")
