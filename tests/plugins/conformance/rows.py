"""`Rows`: a correct modality in as few lines as possible, for the broken ones to spoil."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from tok4d.data.source import Source
from tok4d.errors import DataError, Tok4dError
from tok4d.modality import DEFAULT_PATCH, Modality, Sample, patch_width
from tok4d.origin import Origin
from tok4d.tokens import TokenSet

MAGIC = b"ROWS"
PER_TOKEN = 64


def _spread(part: TokenSet, steps: int) -> torch.Tensor:
    """Features in the order of their coordinates, zeros where a token is missing."""
    place = part.coords[:, 1].long()
    return part.feats.new_zeros(steps, PER_TOKEN).index_copy(0, place, part.feats[:, :PER_TOKEN])


@dataclass
class Ramps(Source):
    """Rising numbers; with a generator they are scaled."""

    def __len__(self):
        return 3

    def key(self, index):
        return f"ramp-{index}"

    def load(self, index, rng=None):
        row = torch.linspace(-1, 1, 10 * (index + 1)) * (1.0 if rng is None else rng.random())
        return Sample("rows", {"row": row}, key=self.key(index))


class Rows(Modality):
    """Lists of numbers; a correct modality in as few lines as possible."""

    name = "rows"
    axes = ("x",)
    suffixes = (".rows",)
    field = "row"

    def read(self, path, **options):
        try:
            raw = Path(path).read_bytes()
        except OSError as error:
            raise DataError(path, f"cannot be read: {error.strerror}") from error
        count = int.from_bytes(raw[4:8], "little")
        if raw[:4] != MAGIC or not 0 < count == (len(raw) - 8) / 4:
            raise DataError(path, "not a file of rows, or cut short")
        values = np.frombuffer(raw[8:], "<f4").astype(np.float32)
        return Sample(self.name, {"row": torch.from_numpy(values)}, key=str(path))

    def write(self, sample, path):
        values = sample.data["row"].detach().clamp(-1, 1).numpy().astype("<f4")
        Path(path).write_bytes(MAGIC + len(values).to_bytes(4, "little") + values.tobytes())

    def patchify(self, sample, patch_size=DEFAULT_PATCH):
        row = sample.data["row"]
        steps = -(-len(row) // PER_TOKEN)
        feats = F.pad(row, (0, steps * PER_TOKEN - len(row))).reshape(steps, PER_TOKEN)
        feats = F.pad(feats, (0, patch_width(patch_size) - PER_TOKEN))
        coords = F.pad(torch.arange(steps, dtype=torch.int32)[:, None], (1, 2))
        origin = Origin(self.name, (len(row),), (1, steps, 1, 1), patch_size, PER_TOKEN)
        return TokenSet(feats, coords, (steps,), (origin,))

    def unpatchify(self, tokens, head=None):
        if len(tokens.origins) != len(tokens) or any(o.modality != self.name for o in tokens.origins):
            raise Tok4dError("rows need their own origins")
        return [self.restore(part, part.origins[0]) for part in tokens.unpack()]

    def restore(self, part, origin):
        return Sample(self.name, {"row": _spread(part, origin.grid[1]).flatten()[: origin.shape[0]]})

    def sources(self):
        return {"ramps": Ramps}

    def preview(self, sample):
        from PIL import Image

        return [Image.fromarray((sample.data["row"].clamp(-1, 1)[None].numpy() * 127 + 128).astype(np.uint8))]


def row_samples() -> list[Sample]:
    generator = torch.Generator().manual_seed(0)
    return [Sample("rows", {"row": torch.rand(n, generator=generator) * 1.8 - 0.9}) for n in (1, 64, 65, 200)]
