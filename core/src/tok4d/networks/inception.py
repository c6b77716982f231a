"""The Inception-v3 of FID (Szegedy et al., arXiv 1512.00567; TensorFlow's port of 2015-12-05), 2048 pooled features.

It differs from torchvision's: averages leave the padding out, the last block pools by the maximum, and pictures are
resized as TensorFlow 1 did. Names and results are those of torch-fidelity, whose file of weights it reads.

N = images, C = channels, H W = height and width.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tok4d.data.fetch import Report
from tok4d.networks.base import FeatureNetwork
from tok4d.networks.resize import levels, like_tensorflow_1

SIDE = 299
NAME = "inception-v3-fid"

Kernel = int | tuple[int, int]
Step = tuple[str, int, Kernel]  # name of a convolution, its channels, its kernel
Branch = list[Step | tuple[Step, Step]]  # two steps side by side see the same and are joined


class _Conv(nn.Module):
    """A convolution without bias, batch statistics, ReLU."""

    def __init__(self, before: int, channels: int, kernel: Kernel, stride: int = 1, padding: Kernel = 0) -> None:
        super().__init__()
        self.conv = nn.Conv2d(before, channels, kernel, stride, padding, bias=False)
        self.bn = nn.BatchNorm2d(channels, eps=1e-3)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.bn(self.conv(x)), inplace=True)


class _Mixed(nn.Module):
    """Branches side by side, their results joined along the channels.

    Args:
        before: channels that come in.
        branches: what each does.
        pool: `mean` or `max` of 3x3, whose branch has a 1x1 convolution to `pooled` channels; `half`: the maximum at
            half the size, and the last convolution of every branch halves too.
        pooled: channels of the pooling branch; unused where the size is halved.
    """

    def __init__(self, before: int, branches: list[Branch], pool: str, pooled: int = 0) -> None:
        super().__init__()
        self.branches, self.pool = branches, pool
        for branch in branches:
            width = before
            for step in branch:
                halves = pool == "half" and step is branch[-1]
                for name, channels, kernel in _side_by_side(step):
                    padding = 0 if halves else _same(kernel)
                    self.add_module(name, _Conv(width, channels, kernel, 2 if halves else 1, padding))
                width = sum(channels for _, channels, _ in _side_by_side(step))
        self.branch_pool = None if pool == "half" else _Conv(before, pooled, 1)

    def forward(self, x: Tensor) -> Tensor:
        results = []
        for branch in self.branches:
            y = x
            for step in branch:
                y = torch.cat([getattr(self, name)(y) for name, _, _ in _side_by_side(step)], 1)
            results.append(y)
        return torch.cat([*results, self._pooled(x)], 1)

    def _pooled(self, x: Tensor) -> Tensor:
        if self.branch_pool is None:
            return F.max_pool2d(x, 3, 2)
        near = F.max_pool2d(x, 3, 1, 1) if self.pool == "max" else F.avg_pool2d(x, 3, 1, 1, count_include_pad=False)
        out: Tensor = self.branch_pool(near)
        return out


def _side_by_side(step: Step | tuple[Step, Step]) -> tuple[Step, ...]:
    return (step,) if isinstance(step[0], str) else step


def _same(kernel: Kernel) -> Kernel:
    """Padding that keeps the size."""
    return kernel // 2 if isinstance(kernel, int) else (kernel[0] // 2, kernel[1] // 2)


def _a(before: int, pooled: int) -> _Mixed:
    five: Branch = [("branch5x5_1", 48, 1), ("branch5x5_2", 64, 5)]
    return _Mixed(before, [[("branch1x1", 64, 1)], five, _double(64, 96)], "mean", pooled)


def _b(before: int) -> _Mixed:
    return _Mixed(before, [[("branch3x3", 384, 3)], _double(64, 96)], "half")


def _double(first: int, then: int) -> Branch:
    return [("branch3x3dbl_1", first, 1), ("branch3x3dbl_2", then, 3), ("branch3x3dbl_3", then, 3)]


def _c(before: int, c: int) -> _Mixed:
    row, column = (1, 7), (7, 1)
    single: Branch = [("branch7x7_1", c, 1), ("branch7x7_2", c, row), ("branch7x7_3", 192, column)]
    kernels: list[tuple[int, Kernel]] = [(c, 1), (c, column), (c, row), (c, column), (192, row)]
    double: Branch = [(f"branch7x7dbl_{i}", width, kernel) for i, (width, kernel) in enumerate(kernels, 1)]
    return _Mixed(before, [[("branch1x1", 192, 1)], single, double], "mean", 192)


def _d(before: int) -> _Mixed:
    three: Branch = [("branch3x3_1", 192, 1), ("branch3x3_2", 320, 3)]
    kernels: list[Kernel] = [1, (1, 7), (7, 1), 3]
    seven: Branch = [(f"branch7x7x3_{i}", 192, kernel) for i, kernel in enumerate(kernels, 1)]
    return _Mixed(before, [three, seven], "half")


def _e(before: int, pool: str) -> _Mixed:
    def fork(name: str) -> tuple[Step, Step]:
        return (f"{name}a", 384, (1, 3)), (f"{name}b", 384, (3, 1))

    single: Branch = [("branch3x3_1", 384, 1), fork("branch3x3_2")]
    double: Branch = [("branch3x3dbl_1", 448, 1), ("branch3x3dbl_2", 384, 3), fork("branch3x3dbl_3")]
    return _Mixed(before, [[("branch1x1", 320, 1)], single, double], pool, 192)


class InceptionV3(FeatureNetwork):
    """FID's features.

    Images are rounded to 8 bits, so no gradient reaches them, and resized to 299x299 (bilinear, not antialiased) as
    TensorFlow 1 did; the network sees `(levels - 128) / 128`.
    """

    name, width = NAME, 2048
    preprocessing = "8 bits, 299x299 bilinear of TensorFlow 1, (levels - 128) / 128"

    def __init__(self) -> None:
        super().__init__()
        self.Conv2d_1a_3x3 = _Conv(3, 32, 3, stride=2)
        self.Conv2d_2a_3x3 = _Conv(32, 32, 3)
        self.Conv2d_2b_3x3 = _Conv(32, 64, 3, padding=1)
        self.MaxPool_1 = nn.MaxPool2d(3, 2)
        self.Conv2d_3b_1x1 = _Conv(64, 80, 1)
        self.Conv2d_4a_3x3 = _Conv(80, 192, 3)
        self.MaxPool_2 = nn.MaxPool2d(3, 2)
        self.Mixed_5b, self.Mixed_5c, self.Mixed_5d = _a(192, 32), _a(256, 64), _a(288, 64)
        self.Mixed_6a = _b(288)
        self.Mixed_6b, self.Mixed_6c, self.Mixed_6d, self.Mixed_6e = (_c(768, c) for c in (128, 160, 160, 192))
        self.Mixed_7a = _d(768)
        self.Mixed_7b, self.Mixed_7c = _e(1280, "mean"), _e(2048, "max")

    def features(self, samples: Tensor) -> Tensor:
        x = (like_tensorflow_1(levels(samples), SIDE) - 128) / 128
        for layer in self.children():
            x = layer(x)
        return x.mean((2, 3))


def load(source: str, report: Report) -> InceptionV3:
    """The network from torch-fidelity's file.

    Args:
        source: the file; empty: where it is looked for.

    Raises:
        ConfigError: when there is none, with the places and how to get it.
        DataError: when the file is damaged or holds something else.
    """
    from tok4d.networks.files import locate
    from tok4d.networks.stored import read_float32
    from tok4d.weights.folder import assign

    path = locate(NAME, source)
    tensors = {name: tensor for name, tensor in read_float32(path).items() if not name.startswith("fc.")}
    with torch.device("meta"):
        network = InceptionV3()
    assign(network, tensors, path)
    return network
