"""Checks of the class itself and of the module that announces it."""

from __future__ import annotations

import json
import subprocess
import sys

from tok4d.modality import Modality, Sample
from tok4d.testing.conformance.base import Case, describe, fail
from tok4d.tokens import TokenSet

AXES = ("t", "x", "y", "z")
HEAVY = {
    *("torch", "torchvision", "torchmetrics", "pytorch_lightning", "transformers", "numpy", "scipy", "numba", "pandas"),
    *("matplotlib", "cv2", "decord", "av", "open3d", "trimesh", "kaolin", "gsplat", "lpips", "skimage"),
}
_PROBE = """
import importlib, json, sys
module = importlib.import_module(sys.argv[1])
print(json.dumps({"modules": sorted(sys.modules), "api": getattr(module, "HOOK_API_VERSION", None)}))
"""


class ClassChecks(Case):
    """Class attributes, the fixture itself, the plugin module."""

    def test_class_attributes(self, modality: Modality) -> None:
        cls = type(modality).__name__
        for name in ("name", "axes", "suffixes", "field"):
            if not hasattr(modality, name):
                fail(f"{cls} lacks the class attribute {name!r}; see tok4d.modality.Modality")
        if not isinstance(modality.name, str) or not modality.name.isidentifier() or not modality.name.islower():
            fail(f"{cls}.name must be a lower-case identifier such as 'radar', got {modality.name!r}")
        axes = tuple(modality.axes)
        known = [axis for axis in AXES if axis in axes]
        if not axes or list(axes) != known or isinstance(modality.axes, str):
            fail(f"{cls}.axes must be a tuple of axes out of {AXES}, in that order, got {modality.axes!r}")
        if not modality.suffixes or isinstance(modality.suffixes, str):
            fail(f"{cls}.suffixes must be a tuple such as ('.radar',), got {modality.suffixes!r}")
        for suffix in modality.suffixes:
            if not suffix.startswith(".") or suffix != suffix.lower() or len(suffix) < 2:
                fail(f"{cls}.suffixes must be lower case with the dot, got {suffix!r}")

    def test_samples_are_awkward(self, modality: Modality, samples: list[Sample], tokens: list[TokenSet]) -> None:
        for index, sample in enumerate(samples):
            if sample.modality != modality.name:
                fail(f"{describe(index, sample)} has modality {sample.modality!r}, expected {modality.name!r}")
            if modality.field not in sample.data:
                fail(f"{describe(index, sample)} lacks the main tensor data[{modality.field!r}]")
        shapes = {tuple(sample.data[modality.field].shape) for sample in samples}
        if len(shapes) < 3:
            fail(f"the fixture `samples` needs at least three different shapes, got {sorted(shapes)}")
        if min(t.num_tokens for t in tokens) != 1 or max(t.num_tokens for t in tokens) < 2:
            counts = [t.num_tokens for t in tokens]
            fail(f"the fixture `samples` needs one of a single token and one of several, got {counts} tokens")

    def test_registered_module_is_light(self, modality: Modality) -> None:
        module = self.plugin_module or _module_of(modality)
        done = subprocess.run([sys.executable, "-c", _PROBE, module], capture_output=True, text=True, check=False)
        if done.returncode:
            fail(f"importing the plugin module {module} failed: {done.stderr.strip().splitlines()[-1:]}")
        seen = json.loads(done.stdout.splitlines()[-1])
        if loaded := sorted(HEAVY & set(seen["modules"])):
            fail(
                f"importing {module} loads {', '.join(loaded)}; give hooks strings ('module:attribute') and import "
                "heavy packages in the module that they name, since every `tok4d --help` imports the plugin module"
            )
        if not isinstance(seen["api"], int):
            fail(f"{module} must state the hook API it was written for: HOOK_API_VERSION = 1")


class TokenChecks(Case):
    """What patchify gives: features, coordinates, origin."""

    def test_patch_width_and_padding(self, samples: list[Sample], tokens: list[TokenSet]) -> None:
        from tok4d.modality import patch_width

        for index, (sample, t) in enumerate(zip(samples, tokens, strict=True)):
            where = describe(index, sample)
            if t.width != patch_width(self.patch_size):
                fail(f"{where}: patchify gave width {t.width}, must be {patch_width(self.patch_size)}; pad with zeros")
            if len(t) != 1 or len(t.origins) != 1:
                fail(f"{where}: patchify must give one sample with one Origin, got {len(t)} and {len(t.origins)}")
            used = t.origins[0].channels
            if used is not None and not 1 <= used <= t.width:
                fail(f"{where}: Origin.channels must be in [1, {t.width}] or None, got {used}")
            if used is not None and bool(t.feats[:, used:].any()):
                fail(f"{where}: features beyond Origin.channels = {used} must be zero; losses ignore them")

    def test_coordinates(self, modality: Modality, samples: list[Sample], tokens: list[TokenSet]) -> None:
        for index, (sample, t) in enumerate(zip(samples, tokens, strict=True)):
            t.validate()
            for axis, name in enumerate(AXES):
                if name not in modality.axes and (t.coords[:, axis].any() or t.origins[0].grid[axis] != 1):
                    fail(f"{describe(index, sample)} uses axis {name!r}, which is not in axes = {modality.axes}")

    def test_origin_describes_the_sample(
        self, modality: Modality, samples: list[Sample], tokens: list[TokenSet]
    ) -> None:
        for index, (sample, t) in enumerate(zip(samples, tokens, strict=True)):
            origin, shape = t.origins[0], tuple(sample.data[modality.field].shape)
            if origin.modality != modality.name:
                fail(f"{describe(index, sample)}: Origin.modality is {origin.modality!r}, not {modality.name!r}")
            if tuple(origin.shape) != shape:
                fail(f"{describe(index, sample)}: Origin.shape is {origin.shape}, the main tensor's is {shape}")
            if tuple(origin.patch) != self.patch_size:
                fail(f"{describe(index, sample)}: Origin.patch is {origin.patch}, asked for {self.patch_size}")


def _module_of(modality: Modality) -> str:
    """The module that the installed entry point of a registered modality names."""
    from tok4d.plugins.loader import discover
    from tok4d.plugins.registry import modalities, provider

    owner = provider("modalities", modality.name) if modality.name in modalities() else None
    targets = [candidate.target for candidate in discover() if candidate.name == owner]
    if not targets:
        fail("set plugin_module = 'your_package.plugin' in the test class, or install the plugin (pip install -e .)")
    return targets[0].partition(":")[0]
