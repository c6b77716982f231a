"""Gaussians to Kaolin's container and back, by a stand-in of its documented constructor; with Kaolin, by itself."""

from __future__ import annotations

import sys
import types
from dataclasses import dataclass

import pytest
import torch
from gaussian_assets import random_gaussians

from tok4d.errors import Tok4dError
from tok4d_mesh3d.kaolin_gaussians import from_kaolin, to_kaolin


@dataclass
class Container:
    """The attributes of `kaolin.rep.GaussianSplatModel` and their shapes."""

    positions: torch.Tensor
    orientations: torch.Tensor
    scales: torch.Tensor
    opacities: torch.Tensor
    sh_coeff: torch.Tensor
    transform: torch.Tensor | None = None

    def __post_init__(self) -> None:
        n = len(self.positions)
        shapes = [tuple(x.shape) for x in (self.orientations, self.scales, self.opacities, self.sh_coeff)]
        assert shapes == [(n, 4), (n, 3), (n,), (n, 1, 3)]


def stand_in(monkeypatch: pytest.MonkeyPatch, **attributes: object) -> None:
    module, rep = types.ModuleType("kaolin"), types.ModuleType("kaolin.rep")
    for name, value in attributes.items():
        setattr(rep, name, value)
    module.rep = rep
    monkeypatch.setitem(sys.modules, "kaolin", module)
    monkeypatch.setitem(sys.modules, "kaolin.rep", rep)


def same(one, other) -> None:
    for name in ("means", "scales", "quaternions", "opacities", "colors"):
        torch.testing.assert_close(getattr(one, name), getattr(other, name), atol=1e-6, rtol=0)


def test_there_and_back(monkeypatch):
    stand_in(monkeypatch, GaussianSplatModel=Container)
    gaussians = random_gaussians(7)
    held = to_kaolin(gaussians)
    assert held.positions is gaussians.means
    same(from_kaolin(held), gaussians)
    held.transform = torch.eye(4)
    with pytest.raises(Tok4dError, match="as_transformed"):
        from_kaolin(held)


def test_a_kaolin_without_the_container_and_none_at_all(monkeypatch):
    stand_in(monkeypatch)
    with pytest.raises(Tok4dError, match=r"came after version 0\.18"):
        to_kaolin(random_gaussians(2))
    monkeypatch.setitem(sys.modules, "kaolin", None)
    with pytest.raises(Tok4dError, match="Kaolin is not installed"):
        to_kaolin(random_gaussians(2))


def test_with_kaolin_itself():
    rep = pytest.importorskip("kaolin.rep", reason="NVIDIA Kaolin is not installed")
    if not hasattr(rep, "GaussianSplatModel"):
        pytest.skip("this Kaolin is older than its container of Gaussians")
    gaussians = random_gaussians(7)
    same(from_kaolin(to_kaolin(gaussians)), gaussians)
