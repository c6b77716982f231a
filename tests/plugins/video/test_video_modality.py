"""Clips as samples: whole or in pieces the same, exact lengths and sizes, options, and bounds."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import load_file
from test_video_conformance import smooth

from tok4d.errors import ConfigError, DataError, Tok4dError
from tok4d.modality import Sample
from tok4d.plugins.registry import modality
from tok4d.tokens import TokenSet

VIDEO = modality("video")


def sample(frames: int = 10, height: int = 40, width: int = 56, fps: float = 25.0) -> Sample:
    return Sample("video", {"video": smooth(frames, height, width)}, fps)


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    path = tmp_path_factory.mktemp("clip") / "a.mp4"
    VIDEO.write(sample(38), path)
    return path


@pytest.mark.parametrize("frames", [1, 3, 4, 5, 16, 17, 33])
@pytest.mark.parametrize("size", [(16, 16), (17, 33)])
def test_frame_count_size_and_rate_come_back(tmp_path, frames, size):
    original = sample(frames, *size, fps=30000 / 1001)
    tokens = VIDEO.patchify(original).validate()
    (restored,) = VIDEO.unpatchify(tokens)
    assert torch.equal(restored.data["video"], original.data["video"])
    VIDEO.write(restored, tmp_path / "a.mp4")
    again = VIDEO.read(tmp_path / "a.mp4")
    assert again.data["video"].shape == (frames, 3, *size)
    assert again.fps == pytest.approx(30000 / 1001, rel=1e-6) or frames == 1
    assert (again.data["video"] - original.data["video"]).abs().mean() < 0.03


def test_pieces_are_the_whole(clip):
    whole = VIDEO.read(clip)
    with VIDEO.stream(clip, 16) as stream:
        pieces = list(stream)
        assert stream.frames == 38
        assert stream.fps == whole.fps
    assert [len(piece.data["video"]) for piece in pieces] == [16, 16, 6]
    assert torch.equal(torch.cat([piece.data["video"] for piece in pieces]), whole.data["video"])
    with VIDEO.stream(clip, 16, options={"frames": 20, "size": 20}) as stream:
        assert [tuple(piece.data["video"].shape) for piece in stream] == [(16, 3, 20, 28), (4, 3, 20, 28)]


def test_writing_in_pieces_is_writing_whole(clip, tmp_path):
    whole = VIDEO.read(clip)
    VIDEO.write(whole, tmp_path / "whole.mp4")
    with VIDEO.writer(tmp_path / "pieces.mp4", whole.fps) as writer:
        for part in whole.data["video"].split(16):
            writer.add(Sample("video", {"video": part}))
    assert (tmp_path / "pieces.mp4").read_bytes() == (tmp_path / "whole.mp4").read_bytes()

    def change_size() -> None:
        with VIDEO.writer(tmp_path / "half.mp4", 25) as writer:
            for frames in (whole.data["video"], torch.zeros(1, 3, 8, 8)):
                writer.add(Sample("video", {"video": frames}))

    with pytest.raises(DataError, match="frames change from"):
        change_size()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["pieces.mp4", "whole.mp4"]


def test_reading_less(clip):
    whole = VIDEO.read(clip).data["video"]
    small = VIDEO.read(clip, size=20)
    assert small.data["video"].shape == (38, 3, 20, 28)
    some = VIDEO.read(clip, stride=3, frames=4)
    assert torch.equal(some.data["video"], whole[[0, 3, 6, 9]])
    assert some.fps == pytest.approx(25 / 3)
    span = VIDEO.read(clip, start=0.4, end=0.8)
    assert torch.equal(span.data["video"], whole[10:20])
    assert torch.equal(VIDEO.read(clip, frames=3, spread=True).data["video"], whole[[0, 18, 37]])
    assert len(VIDEO.read(clip, rate=5).data["video"]) == 8
    assert VIDEO.read(clip, size=4000).data["video"].shape[-2:] == whole.shape[-2:], "never enlarged"


def test_both_readers_agree(clip):
    one, other = VIDEO.read(clip, reader="decord"), VIDEO.read(clip, reader="pyav")
    assert (one.meta["reader"], other.meta["reader"]) == ("decord", "pyav")
    assert (one.data["video"] - other.data["video"]).abs().max() <= 2 / 255 + 1e-6  # 1/255 of the range [-1, 1]


def test_bad_options_and_clips_that_are_too_large(clip, monkeypatch):
    with pytest.raises(ConfigError, match=r"unknown video option 'sise'.*size"):
        VIDEO.read(clip, sise=3)
    with pytest.raises(ConfigError, match="stride must be a number of at least 1, got 0"):
        VIDEO.read(clip, stride=0)
    with pytest.raises(ConfigError, match="end must be after start"):
        VIDEO.read(clip, start=2.0, end=1.0)
    with pytest.raises(ConfigError, match="stride or rate"):
        VIDEO.read(clip, stride=2, rate=5)
    monkeypatch.setattr("tok4d_video.modality.MAX_VALUES", 38 * 3 * 40 * 56 - 1)
    with pytest.raises(DataError, match=r"38 frames of 40 x 56 pixels are 255,360 values.*size="):
        VIDEO.read(clip)
    with pytest.raises(DataError, match=r"\[frames, 3, height, width\]"):
        VIDEO.patchify(Sample("video", {"video": torch.zeros(3, 16, 16)}))
    with pytest.raises(Tok4dError, match="given to 'video'"):
        VIDEO.unpatchify(modality("image").patchify(Sample("image", {"image": torch.zeros(3, 16, 16)})))


def test_the_released_rules_for_length_and_size(clip):
    released = VIDEO.configured({"fit": "crop", "frames": "floor"})
    tokens = released.patchify(sample(17, 40, 55))
    assert tokens.origins[0].shape == (16, 3, 32, 48)
    with released.stream(clip, 16) as stream:
        assert [len(piece.data["video"]) for piece in stream] == [16, 16, 4], "36 of 38 frames"


def test_a_clip_gives_the_same_tokens_in_any_batch():
    clips = [sample(n, 33, 40) for n in (1, 5, 17)]
    alone = [VIDEO.patchify(one) for one in clips]
    for part, one in zip(TokenSet.pack(alone).unpack(), alone, strict=True):
        assert torch.equal(part.feats, one.feats)
        assert torch.equal(part.coords, one.coords)


def test_token_files_hold_a_whole_clip_whether_encoded_in_pieces_or_not(clip, tmp_path):
    from tok4d import streaming
    from tok4d.testing.models import tiny_tokenizer
    from tok4d.tokenfile import load_tokens, save_tokens

    model = tiny_tokenizer((4, 16, 16)).eval()
    with torch.inference_mode():
        whole = model.encode(VIDEO.patchify(VIDEO.read(clip))).latents()
        with streaming.open_stream(VIDEO, clip, model, {}) as stream:
            made = streaming.encode(streaming.pieces(stream, VIDEO, model), VIDEO, model, codes=False)
        assert torch.equal(made.coords, whole.coords)
        torch.testing.assert_close(made.feats, whole.feats, atol=1e-5, rtol=0)
        assert made.origins == whole.origins
        save_tokens(tmp_path / "a.tok.safetensors", made, model_digest="0" * 64)
        back = load_tokens(tmp_path / "a.tok.safetensors").tokens()
        pieces = list(streaming.decode(back, VIDEO, model))
        expected = VIDEO.unpatchify(model.decode(whole))[0].data["video"]
        assert [len(piece.data["video"]) for piece in pieces] == [16, 16, 6]
        joined = torch.cat([piece.data["video"] for piece in pieces])
        torch.testing.assert_close(joined, expected, atol=1e-5, rtol=0)
    assert load_file(tmp_path / "a.tok.safetensors")["latents"].shape == made.feats.shape
