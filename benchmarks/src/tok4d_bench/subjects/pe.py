"""PE-core's image tower (arXiv 2504.13181) through `timm`, which does not carry its text tower.

n = pictures, D = width of the embedding.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tok4d.errors import ConfigError, DataError
from tok4d.text.encoder import module_digest
from tok4d.weights.folder import read_tensors
from tok4d.weights.hf_folder import CONFIG, WEIGHTS, locate, read_json
from tok4d_bench.contracts import UnsuitedError
from tok4d_bench.subjects.common import PRECISIONS, digest_of, parameters
from tok4d_bench.subjects.hub import one_line
from tok4d_bench.subjects.towers import FRAMES, Tower

PREFIX = "vit_pe_core_"


class PeCore(Tower):
    """A folder as `timm` publishes it: `config.json` with an architecture `vit_pe_core_...`, and safetensors.

    Args:
        source: folder or hub id, such as one of timm's.
        frames: how many frames of a clip are seen.

    Raises:
        ConfigError: for a source that is not found, or holds another architecture.
        DataError: for files that are missing or broken.
    """

    def __init__(self, source: str = "", *, device: str = "cpu", dtype: str = "float32", frames: int = FRAMES) -> None:
        import timm
        from timm.data import create_transform, resolve_data_config

        if not source:
            raise ConfigError("baseline pe needs a source: pe:FOLDER_OR_ID")
        folder = locate(source)
        config = read_json(folder / CONFIG)
        architecture = str(config.get("architecture"))
        if not architecture.startswith(PREFIX) or architecture not in timm.list_models(f"{PREFIX}*"):
            known = ", ".join(timm.list_models(f"{PREFIX}*"))
            raise ConfigError(f"{folder / CONFIG}: architecture {architecture!r} is no PE-core; timm has {known}")
        given = dict(config.get("model_args") or {})
        given.setdefault("num_classes", config.get("num_classes"))
        with one_line(folder, "its model cannot be made"):
            model: Any = timm.create_model(architecture, pretrained=False, **given)
        with one_line(folder / WEIGHTS, "the weights do not fit the config"):
            model.load_state_dict(read_tensors(folder / WEIGHTS))
        model = model.float().eval().requires_grad_(False)
        data = resolve_data_config(dict(config.get("pretrained_cfg") or {}), model=model)
        self._transform = create_transform(**data, is_training=False)
        settings = {"dtype": dtype, "frames": frames, "version": timm.__version__, "input": data}
        weights = module_digest(model, architecture.encode())
        self.digest = digest_of(kind="pe", adapter=1, weights=weights, **settings)
        self.name, self.frames = Path(source).name if Path(source).is_dir() else source, frames
        self.model = model.to(torch.device(device), PRECISIONS[dtype])
        self._facts = {
            "kind": "pe",
            "class": architecture,
            "parameters": parameters(model),
            "library": f"timm {timm.__version__}",
            **settings,
        }

    def facts(self) -> dict[str, Any]:
        return dict(self._facts)

    def vectors(self, stills: Sequence[np.ndarray], projected: bool) -> Tensor:
        from PIL import Image

        weight = next(self.model.parameters())
        given = torch.stack([self._transform(Image.fromarray(still)) for still in stills])
        tokens = self.model.forward_features(given.to(weight.device, weight.dtype))
        found: Tensor = self.model.forward_head(tokens, pre_logits=not projected)
        if found.ndim != 2:
            raise DataError(self.name, f"gave vectors {list(found.shape)}")
        return found

    def embed_texts(self, texts: Sequence[str]) -> Tensor:
        """There are none.

        Raises:
            UnsuitedError: always, with the reason.
        """
        raise UnsuitedError(
            f"{self.name}: timm carries PE-core's image tower alone and transformers has no PE-core, so nothing here "
            "embeds its texts; its linear probe runs"
        )
