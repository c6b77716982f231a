"""Understanding models with an image or video tower and a text tower, through `transformers`.

n = samples or texts, F = frames, H, W = height and width, D = width of the embedding.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from tok4d.errors import ConfigError, DataError
from tok4d.modality import Sample
from tok4d.text import EmbeddingCache, hf
from tok4d.text.encoder import TextEncoder, module_digest
from tok4d.text.siglip2 import Siglip2Text, canonicalize
from tok4d.weights.hf_folder import CONFIG, locate
from tok4d_bench.contracts import Subject, UnsuitedError
from tok4d_bench.subjects.codecs import to_bytes
from tok4d_bench.subjects.common import PRECISIONS, digest_of, parameters, pixels
from tok4d_bench.subjects.hub import one_line, quiet

FRAMES = 8  # of a clip whose frames are seen one by one
AT_ONCE = 32  # pictures of a pass
PROCESSORS = ("preprocessor_config.json", "processor_config.json", "video_preprocessor_config.json")


class Tower(Subject):
    """Pictures, and clips by some of their frames, as vectors; what they are compared with is up to subclasses.

    A clip is seen by `frames` frames, number i at i * (N - 1) / (frames - 1) rounded down. Where the model sees
    pictures, its embedding is the mean of the frames' unit vectors (as CLIP4Clip, arXiv 2104.08860, section 3.2), its
    features the mean of theirs.
    """

    embeds = ("image", "video")
    frames: int = FRAMES

    @abstractmethod
    def vectors(self, stills: Sequence[np.ndarray], projected: bool) -> Tensor:
        """Vectors `[n, D]` of pictures uint8 `[H, W, 3]`: embeddings before normalisation, or what a probe reads."""

    @torch.inference_mode()
    def embed(self, samples: Sequence[Sample]) -> Tensor:
        """Unit vectors `[n, D]`, float32."""
        return F.normalize(self._means(samples, True), dim=-1)

    @torch.inference_mode()
    def features(self, samples: Sequence[Sample], where: str) -> Tensor:
        """Pooled features `[n, D]` before the projection into the space of texts.

        Raises:
            UnsuitedError: for latents and codes, which these models have none of.
        """
        if where != "features":
            raise UnsuitedError(f"{self.name} has features to probe, no {where}")
        return self._means(samples, False)

    def _means(self, samples: Sequence[Sample], projected: bool) -> Tensor:
        stills = [frames_of(sample, self.frames) for sample in samples]
        flat = [frame for frames in stills for frame in frames]
        parts = [self.vectors(flat[i : i + AT_ONCE], projected).float().cpu() for i in range(0, len(flat), AT_ONCE)]
        rows = torch.cat(parts)
        if projected:
            rows = F.normalize(rows, dim=-1)
        return torch.stack([part.mean(0) for part in rows.split([len(frames) for frames in stills])])


def frames_of(sample: Sample, count: int) -> np.ndarray:
    """Frames uint8 `[F, H, W, 3]` that a model sees of a picture (one) or a clip (`count`, or all if it has fewer)."""
    levels = to_bytes(pixels(sample))
    if levels.ndim == 3:
        return levels[None]
    total = len(levels)
    if total <= count:
        return levels
    return levels[[i * (total - 1) // max(count - 1, 1) for i in range(count)]]


class HfTower(Tower):
    """A model of `transformers` with its processor and its text tower from one folder.

    Args:
        source: folder or hub id.
        frames: how many frames of a clip are seen.

    Raises:
        ConfigError: for a source that is not found, or one that holds another kind of model.
        DataError: for files that are missing or broken.
    """

    kind: ClassVar[str]
    classes: ClassVar[dict[str, str]]  # model type -> class

    def __init__(self, source: str, device: str, dtype: str, frames: int) -> None:
        library = hf.transformers()
        if not source:
            raise ConfigError(f"baseline {self.kind} needs a source: {self.kind}:FOLDER_OR_ID")
        if isinstance(frames, bool) or not isinstance(frames, int) or frames < 1:
            raise ConfigError(f"{self.kind}: frames must be a positive number, got {frames!r}")
        self.folder = locate(source, also=(*hf.TOKENIZER_FILES, *PROCESSORS))
        config = hf.read_config(self.folder)
        if config.model_type not in self.classes:
            raise ConfigError(
                f"{self.folder / CONFIG}: model_type {config.model_type!r} is no {self.kind} model; "
                f"known are {', '.join(self.classes)}"
            )
        cls = getattr(library, self.classes[config.model_type], None)
        if cls is None:
            raise ConfigError(
                f"baseline {self.kind}: transformers {library.__version__} has no {self.classes[config.model_type]}; "
                "pip install -U transformers"
            )
        model = hf.load_module(cls, self.folder, config, torch.device(device))
        self.processor = self.load_processor()
        self.config, self.frames = config, frames
        self.name = source if not Path(source).expanduser().is_dir() else Path(source).resolve().name
        described = [(self.folder / name).read_bytes() for name in PROCESSORS if (self.folder / name).is_file()]
        weights = module_digest(model, self.kind.encode(), *hf.describing_files(self.folder), *described)
        settings = {"dtype": dtype, "frames": frames, "version": library.__version__}
        self.digest = digest_of(kind=self.kind, adapter=1, weights=weights, **settings)
        self.model = model.to(PRECISIONS[dtype])
        self._facts = {
            "kind": self.kind,
            "class": type(model).__name__,
            "parameters": parameters(model),
            "processor": type(self.processor).__name__,
            "library": f"transformers {library.__version__}",
            **settings,
        }

    def load_processor(self) -> Any:
        """What turns pictures into the model's input, from the folder."""
        return load_part("AutoImageProcessor", self.folder)

    def facts(self) -> dict[str, Any]:
        return dict(self._facts)

    @cached_property
    @abstractmethod
    def text(self) -> TextEncoder:
        """The text tower, loaded on first use."""

    def embed_texts(self, texts: Sequence[str]) -> Tensor:
        """Embeddings `[n, D]` of the model's own text tower, through the cache on disk."""
        return EmbeddingCache().encode(self.text, texts).cpu()

    def inputs(self, **given: Any) -> dict[str, Any]:
        """What the processor makes of pictures or clips, on the model's device and in its precision."""
        weight = next(self.model.parameters())
        made = self.processor(**given, return_tensors="pt")
        return {
            name: value.to(weight.device, weight.dtype if value.is_floating_point() else None)
            for name, value in made.items()
            if isinstance(value, Tensor)
        }


def load_part(name: str, folder: Path) -> Any:
    """A processor from a folder, by one of the `Auto` classes of `transformers`.

    Raises:
        DataError: when the folder has none, or one that cannot be used.
    """
    if not any((folder / file).is_file() for file in PROCESSORS):
        raise DataError(folder, f"it has no processor ({' or '.join(PROCESSORS)}); copy its files from the release")
    library = hf.transformers()
    with quiet(library.utils.logging), one_line(folder, "its processor cannot be loaded"):
        return getattr(library, name).from_pretrained(folder, local_files_only=True, trust_remote_code=False)


def pooled(outputs: Any) -> Tensor:
    """`get_..._features` gives a tensor or, in newer versions, an output with `pooler_output`."""
    found: Tensor = outputs if isinstance(outputs, Tensor) else outputs.pooler_output
    return found


class Siglip2(HfTower):
    """SigLIP (arXiv 2303.15343) and SigLIP2 (arXiv 2502.14786), fixed sizes and NaFlex; texts as in `tok4d.text`."""

    kind = "siglip2"
    classes: ClassVar[dict[str, str]] = {"siglip": "SiglipModel", "siglip2": "Siglip2Model"}

    def __init__(self, source: str = "", *, device: str = "cpu", dtype: str = "float32", frames: int = FRAMES) -> None:
        super().__init__(source, device, dtype, frames)

    def vectors(self, stills: Sequence[np.ndarray], projected: bool) -> Tensor:
        """The pooled vector is the embedding: there is no projection."""
        return pooled(self.model.get_image_features(**self.inputs(images=list(stills))))

    @cached_property
    def text(self) -> TextEncoder:
        return Siglip2Text(str(self.folder), next(self.model.parameters()).device)


class Clip(HfTower):
    """CLIP (arXiv 2103.00020) and MetaCLIP 2, as published: texts as they are, padded to the model's length."""

    kind = "clip"
    classes: ClassVar[dict[str, str]] = {"clip": "CLIPModel", "metaclip_2": "MetaClip2Model"}

    def __init__(self, source: str = "", *, device: str = "cpu", dtype: str = "float32", frames: int = FRAMES) -> None:
        super().__init__(source, device, dtype, frames)

    def vectors(self, stills: Sequence[np.ndarray], projected: bool) -> Tensor:
        inputs = self.inputs(images=list(stills))
        if projected:
            return pooled(self.model.get_image_features(**inputs))
        return pooled(self.model.vision_model(**inputs))

    @cached_property
    def text(self) -> TextEncoder:
        return HfText(self, self.config.text_config.max_position_embeddings, self.config.projection_dim)


class VideoPrism(HfTower):
    """VideoPrism's video and text towers (arXiv 2402.13217): a clip is one input, a picture a clip that stands still.

    Args:
        frames: default the model's own number.
        canonical: whether texts are made lower-case and lose their punctuation, as those of SigLIP.
    """

    kind = "videoprism"
    classes: ClassVar[dict[str, str]] = {"videoprism": "VideoPrismClipModel"}

    def __init__(
        self,
        source: str = "",
        *,
        device: str = "cpu",
        dtype: str = "float32",
        frames: int | None = None,
        canonical: bool = True,
    ) -> None:
        super().__init__(source, device, dtype, 1 if frames is None else frames)
        self.frames = self.config.vision_config.num_frames if frames is None else frames
        self.canonical = canonical
        self.digest = digest_of(base=self.digest, frames=self.frames, canonical=canonical)
        self._facts |= {"frames": self.frames, "canonical": canonical}

    def load_processor(self) -> Any:
        return load_part("AutoVideoProcessor", self.folder)

    def vectors(self, stills: Sequence[np.ndarray], projected: bool) -> Tensor:
        raise UnsuitedError(f"{self.name} sees clips as a whole")

    def _means(self, samples: Sequence[Sample], projected: bool) -> Tensor:
        """One clip after the other, since they may differ in size; too short ones repeat their frames evenly."""
        rows = []
        for sample in samples:
            seen = frames_of(sample, self.frames)
            chosen = seen[[i * len(seen) // self.frames for i in range(self.frames)]]
            clip = torch.from_numpy(np.ascontiguousarray(chosen.transpose(0, 3, 1, 2)))
            inputs = self.inputs(videos=[clip], do_sample_frames=False)
            rows.append(pooled(self.model.get_video_features(**inputs)).reshape(-1))
        return torch.stack(rows).float().cpu()

    @cached_property
    def text(self) -> TextEncoder:
        config = self.config.text_config
        return HfText(
            self, config.max_position_embeddings, config.hidden_size, canonicalize if self.canonical else None
        )


class HfText(TextEncoder):
    """The text half of a model that is loaded already, and the tokenizer beside it.

    Args:
        length: tokens that a text is padded to.
        width: of the embedding.
        canonical: how texts are read; None: as they are, spaces apart.
    """

    def __init__(self, tower: HfTower, length: int, width: int, canonical: Callable[[str], str] | None = None) -> None:
        self.kind, self.width, self.length = tower.kind, width, length
        self.device = next(tower.model.parameters()).device
        self._model, self._canonical = tower.model, canonical
        self.tokenizer = hf.load_tokenizer(tower.folder, tower.config.text_config.vocab_size)
        self._digest = digest_of(model=tower.digest, canonical=canonical is not None)

    @property
    def digest(self) -> str:
        return self._digest

    def canonical(self, text: str) -> str:
        return super().canonical(text) if self._canonical is None else self._canonical(text)

    def forward(self, texts: list[str]) -> Tensor:
        given = self.tokenizer(
            texts,
            padding="max_length",
            truncation=True,
            max_length=self.length,
            return_attention_mask=True,
            return_tensors="pt",
        ).to(self.device)
        return pooled(
            self._model.get_text_features(input_ids=given["input_ids"], attention_mask=given["attention_mask"])
        )
