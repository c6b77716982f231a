"""Networks that only a hub has: real loading code, on made files in the real format."""

from __future__ import annotations

import hashlib
import warnings
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from tok4d.errors import ConfigError, DataError, Tok4dError
from tok4d.networks import VideoNetwork, available, load_network
from tok4d.networks.catalogue import find_weights
from tok4d.networks.files import places, torch_hub
from tok4d.networks.inception import InceptionV3

INCEPTION = find_weights("inception-v3-fid").file


@pytest.fixture(autouse=True)
def empty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is loaded, in the cache or in torch's hub."""
    monkeypatch.setenv("TOK4D_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setattr("tok4d.networks.load._networks", {})


class Clips(nn.Module):
    """Takes what I3D takes: means of the three channels, over frames and pixels, then zeros."""

    def __init__(self, features: int = 400) -> None:
        super().__init__()
        self.features = features
        self.scale = nn.Parameter(torch.tensor(2.0))

    def forward(self, x: Tensor, rescale: bool = True, resize: bool = True, return_features: bool = False) -> Tensor:
        if rescale or resize or not return_features:
            raise RuntimeError("asked for something else")
        if x.shape[2] < 2:
            raise RuntimeError("too few frames")
        out = torch.zeros(x.shape[0], self.features)
        out[:, :3] = self.scale * x.mean(dim=[2, 3, 4])
        out[:, 3] = x.shape[3]
        out[:, 4] = x.shape[4]
        out[:, 5] = x.shape[2]
        return out


def program(path: Path, features: int = 400) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that the format is old
        torch.jit.script(Clips(features)).save(str(path))
    return path


def test_i3d_gives_the_program_what_it_takes(tmp_path: Path) -> None:
    path = program(tmp_path / "mine.pt")
    network = load_network("i3d", str(path))
    assert isinstance(network, VideoNetwork)
    clips = torch.zeros(2, 5, 3, 60, 100)
    clips[1, :, 0] = 0.5
    clips[0, :, :, :, :20] = clips[0, :, :, :, 80:] = 1  # outside the square centre
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = network(clips)
    assert (found.shape, found.dtype) == ((2, 400), torch.float32)
    torch.testing.assert_close(found[1, :6], torch.tensor([1.0, 0, 0, 224, 224, 5]))
    assert found[0, :3].abs().max() < 0.02  # what bilinear weights carry over the edge
    assert not any(parameter.requires_grad for parameter in network.parameters())
    assert not network.train().model.training
    expected = hashlib.sha256(f"{network.preprocessing}\n".encode() + path.read_bytes()).hexdigest()
    assert network.digest == expected
    with pytest.raises(Tok4dError, match=r"cannot take clips of \[1, 3, 1, 224, 224\].*too few frames"):
        network(clips[:1, :1])


def test_i3d_is_found_where_it_is_put() -> None:
    (first, second) = places(find_weights("i3d"))
    program(second)
    assert available("i3d").where == str(second)
    program(first)
    assert (available("i3d").present, available("i3d").where) == (True, str(first))
    assert load_network("i3d").path == first


def test_files_that_are_no_i3d(tmp_path: Path) -> None:
    torch.save({"a": torch.zeros(1)}, tmp_path / "state.pt")
    (tmp_path / "text.pt").write_text("text")
    whole = program(tmp_path / "whole.pt").read_bytes()
    (tmp_path / "cut.pt").write_bytes(whole[: len(whole) // 2])
    for name in ("state.pt", "text.pt", "cut.pt"):
        with pytest.raises(DataError, match=f"{name}: is not a complete TorchScript program") as caught:
            load_network("i3d", str(tmp_path / name))
        assert "\n" not in str(caught.value)
    other = load_network("i3d", str(program(tmp_path / "other.pt", 32)))
    with pytest.raises(DataError, match=r"gave \[2, 32\] for 2 clips, I3D gives \[2, 400\]"):
        other(torch.zeros(2, 3, 3, 30, 30))


@pytest.mark.parametrize("name", ["i3d", "inception-v3-fid"])
def test_what_is_missing_is_one_line(name: str, tmp_path: Path) -> None:
    weights = find_weights(name)
    assert not available(name).present
    with pytest.raises(ConfigError) as caught:
        load_network(name)
    said = str(caught.value)
    assert "\n" not in said
    assert f"{weights.file} is missing" in said
    assert all(str(path.parent) in said for path in places(weights))
    assert weights.how in said
    with pytest.raises(ConfigError, match=r"nowhere\.pth: no such file; "):
        load_network(name, str(tmp_path / "nowhere.pth"))


@pytest.fixture(scope="module")
def inception(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file as torch-fidelity's: the whole network, its classifier of 1008 classes too."""
    torch.manual_seed(0)
    state = InceptionV3().state_dict()
    state |= {"fc.weight": torch.zeros(1008, 2048), "fc.bias": torch.zeros(1008)}
    path = tmp_path_factory.mktemp("inception") / "weights.pth"
    torch.save(state, path)
    return path


def test_inception_from_a_file(inception: Path) -> None:
    network = load_network("inception-v3-fid", str(inception))
    images = (torch.rand(1, 3, 20, 30) * 2 - 1).requires_grad_()
    found = network(images)
    assert (found.shape, found.dtype, found.requires_grad) == ((1, 2048), torch.float32, False)
    assert bool(found.isfinite().all())
    assert torch.equal(found, network(((images + 1) * 127.5).round() / 127.5 - 1))  # 8 bits are all it sees
    assert network.licence.startswith("Apache-2.0")
    assert not any(parameter.requires_grad for parameter in network.parameters())


def test_a_file_that_is_not_what_its_name_says(inception: Path, tmp_path: Path) -> None:
    for path in places(find_weights("inception-v3-fid")):
        path.parent.mkdir(parents=True)
        path.symlink_to(inception)
        assert available("inception-v3-fid").where == str(path)
        with pytest.raises(DataError, match=r"has SHA-256 [0-9a-f]{64}, its name says 6726825d\.\.\.; get it again"):
            load_network("inception-v3-fid")
        path.unlink()
    renamed = tmp_path / "torch" / "weights.pth"
    renamed.symlink_to(inception)
    assert load_network("inception-v3-fid", str(renamed)).width == 2048


def test_inception_files_of_something_else(tmp_path: Path) -> None:
    torch.save({"Conv2d_1a_3x3.conv.weight": torch.zeros(32, 3, 3, 3)}, tmp_path / "part.pth")
    with pytest.raises(DataError, match=r"lacks Conv2d_1a_3x3\.bn\.weight"):
        load_network("inception-v3-fid", str(tmp_path / "part.pth"))


def test_torchs_hub_is_found_as_torch_finds_it(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = [{"TORCH_HOME": "/a"}, {"XDG_CACHE_HOME": "/b"}, {"TORCH_HOME": "/a", "XDG_CACHE_HOME": "/b"}, {}]
    for setting in settings:
        for name in ("TORCH_HOME", "XDG_CACHE_HOME"):
            monkeypatch.delenv(name, raising=False)
        for name, value in setting.items():
            monkeypatch.setenv(name, value)
        assert torch_hub() == Path(torch.hub.get_dir()) / "checkpoints"


def test_siglip2_in_the_cache_of_the_hubs_client(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    absent = available("siglip2")
    assert (absent.present, absent.where) == (False, str(tmp_path))
    assert "hf download google/siglip2-base-patch16-naflex" in absent.how
    folder = tmp_path / "models--google--siglip2-base-patch16-naflex"
    (folder / "refs").mkdir(parents=True)
    (folder / "refs" / "main").write_text("abc")
    snapshot = folder / "snapshots" / "abc"
    snapshot.mkdir(parents=True)
    (snapshot / "config.json").write_text("{}")
    assert not available("siglip2").present
    (snapshot / "model.safetensors").touch()
    assert (available("siglip2").present, available("siglip2").where) == (True, str(snapshot))
