"""What a rasterizer is given, checked once for all backends."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor

from tok4d.errors import Tok4dError

MAX_SIDE = 16384  # pixels
MIN_LENGTH = 1e-15  # of a quaternion, and one over the largest: its square must be a float32
RIGID = 1e-4  # tolerance of a matrix's fixed entries


@dataclass(frozen=True, eq=False)
class Scene:
    """Gaussians and cameras; see `rasterize` for the fields."""

    means: Tensor
    quaternions: Tensor
    scales: Tensor
    opacities: Tensor
    colors: Tensor
    world_to_camera: Tensor
    intrinsics: Tensor
    background: Tensor | None
    width: int
    height: int
    filter_2d: float

    def checked(self) -> Scene:
        """The same in float32, or in float64 if any of the Gaussians' tensors is.

        Raises:
            Tok4dError: for anything that no backend could draw, with the name and the value.
        """
        self._check_types()
        self._check_shapes()
        for name, tensor in self.tensors():
            check_range(name, tensor)
        self._check_values()
        gaussians = (self.means, self.quaternions, self.scales, self.opacities, self.colors)
        dtype = torch.float64 if any(t.dtype == torch.float64 for t in gaussians) else torch.float32
        return self.cast(dtype)

    def cast(self, dtype: torch.dtype) -> Scene:
        """All tensors in one precision."""
        tensors: dict[str, Any] = {name: tensor.to(dtype) for name, tensor in self.tensors()}
        return replace(self, **tensors)

    def tensors(self) -> Iterator[tuple[str, Tensor]]:
        """Names and values of all tensors there are."""
        for field in fields(self)[:8]:
            if field.name != "background" or self.background is not None:
                yield field.name, getattr(self, field.name)

    def needs_gradient(self, *names: str) -> bool:
        """Whether a gradient of one of these tensors is asked for."""
        return torch.is_grad_enabled() and any(getattr(self, name).requires_grad for name in names)

    def _check_types(self) -> None:
        for name, tensor in self.tensors():
            if not isinstance(tensor, Tensor) or not tensor.is_floating_point():
                found = tensor.dtype if isinstance(tensor, Tensor) else type(tensor).__name__
                raise Tok4dError(f"{name} must be a tensor of floating point, got {found}")
            if tensor.device != self.means.device:
                raise Tok4dError(f"means are on {self.means.device}, {name} on {tensor.device}: they must be on one")
        for side, value in (("width", self.width), ("height", self.height)):
            if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= MAX_SIDE:
                raise Tok4dError(f"{side} must be a whole number of pixels in [1, {MAX_SIDE}], got {value!r}")
        if not 0 <= self.filter_2d < float("inf"):
            raise Tok4dError(f"filter_2d must be a variance in square pixels, at least 0, got {self.filter_2d}")

    def _check_shapes(self) -> None:
        n = self.means.shape[0] if self.means.ndim else 0
        v = self.world_to_camera.shape[0] if self.world_to_camera.ndim else 0
        wanted = {
            "means": (n, 3),
            "quaternions": (n, 4),
            "scales": (n, 3),
            "opacities": (n,),
            "colors": (n, 3),
            "world_to_camera": (v, 4, 4),
            "intrinsics": (v, 3, 3),
            "background": (3,),
        }
        for name, tensor in self.tensors():
            if tuple(tensor.shape) != wanted[name]:
                raise Tok4dError(
                    f"{name} of {n} Gaussians in {v} views must be {wanted[name]}, got {tuple(tensor.shape)}"
                )

    def _check_values(self) -> None:
        lengths = self.quaternions.detach().double().norm(dim=1)
        usable = (lengths > MIN_LENGTH) & (lengths < 1 / MIN_LENGTH)
        if not usable.all():
            first = int((~usable).nonzero()[0])
            raise Tok4dError(f"quaternion {first} is no rotation: its length is {float(lengths[first]):.3g}")
        cameras, lenses = self.world_to_camera.detach(), self.intrinsics.detach()
        if not _near(cameras[:, 3], (0, 0, 0, 1)):
            raise Tok4dError("the last row of every world_to_camera must be (0, 0, 0, 1): is it transposed?")
        if not (_near(lenses[:, 2], (0, 0, 1)) and _near(lenses[:, :2, :2][:, [0, 1], [1, 0]], (0, 0))):
            raise Tok4dError("intrinsics must be [[fx, 0, cx], [0, fy, cy], [0, 0, 1]], without skew")
        if lenses.numel() and float(lenses[:, [0, 1], [0, 1]].min()) <= 0:
            raise Tok4dError("focal lengths in intrinsics must be positive")


def check_range(name: str, tensor: Tensor) -> None:
    """Refuse NaN and infinity, and the numbers before an activation where those after it belong."""
    if not tensor.numel():
        return
    low, high = (float(end) for end in torch.aminmax(tensor.detach()))  # NaN if any is
    if not (low > -float("inf") and high < float("inf")):
        raise Tok4dError(f"{name} must be finite, got {int((~torch.isfinite(tensor)).sum())} values that are not")
    if name == "opacities" and not (low >= 0 and high <= 1):
        raise Tok4dError(f"opacities must be in [0, 1], got {low:.4g} to {high:.4g}: are they logits?")
    if name == "scales" and low < 0:
        raise Tok4dError(f"scales must be at least 0, got {low:.4g}: are they logarithms?")


def _near(values: Tensor, wanted: tuple[int, ...]) -> bool:
    return bool(((values - values.new_tensor(wanted)).abs() < RIGID).all())
