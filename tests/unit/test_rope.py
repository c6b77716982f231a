"""4D RoPE: numbers computed by hand, and the property that makes it relative."""

from __future__ import annotations

from math import cos, sin

import pytest
import torch

from tok4d.errors import Tok4dError
from tok4d.nn.rope import frequencies, rotate, rotations


def normal(*shape: int, seed: int = 0, dtype=torch.float32) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def coords(*rows: tuple[int, int, int, int]) -> torch.Tensor:
    return torch.tensor(rows, dtype=torch.int32)


def test_frequencies_of_head_dim_16():
    """r = 2; exponents are divided by 16, not by r: 10000^(-1/16) = 10^(-0.25)."""
    torch.testing.assert_close(frequencies(16), torch.tensor([1.0, 0.5623413]))
    torch.testing.assert_close(frequencies(72)[8], torch.tensor(10000.0 ** (-8 / 72)))


@pytest.mark.parametrize("size", [12, 4, 60])
def test_other_head_dims_are_refused(size):
    with pytest.raises(Tok4dError, match=f"divisible by 8, got {size}"):
        rotations(coords((0, 0, 0, 0)), size)


def test_pairs_run_axis_by_axis():
    """Pair index = axis * r + i, axes in the order t, x, y, z."""
    place = (1, 20, 3, 7)
    angles = [c * f for c in place for f in (1.0, 0.5623413251903491)]
    expected = torch.tensor([complex(cos(a), sin(a)) for a in angles])
    torch.testing.assert_close(rotations(coords(place), 16)[0], expected, rtol=0, atol=2e-6)


def test_rotate_turns_adjacent_channels():
    x, rotation = normal(3, 2, 16), rotations(coords((1, 2, 3, 4), (0, 0, 9, 0), (5, 0, 0, 1)), 16)
    expected = torch.empty_like(x)
    for token in range(3):
        for pair in range(8):
            angle = float(rotation[token, pair].angle())
            turn = torch.tensor([[cos(angle), -sin(angle)], [sin(angle), cos(angle)]])
            for head in range(2):
                expected[token, head, 2 * pair : 2 * pair + 2] = turn @ x[token, head, 2 * pair : 2 * pair + 2]
    torch.testing.assert_close(rotate(x, rotation), expected)


@pytest.mark.parametrize("axis", range(4))
def test_products_depend_on_differences_only(axis):
    q, k = normal(1, 1, 64, dtype=torch.float64), normal(1, 1, 64, seed=1, dtype=torch.float64)

    def product(a: int, b: int) -> float:
        places = [[3, 3, 3, 3], [3, 3, 3, 3]]
        places[0][axis], places[1][axis] = a, b
        one, other = rotations(torch.tensor(places, dtype=torch.int32), 64).split(1)
        return float((rotate(q, one) * rotate(k, other)).sum())

    assert product(5, 2) == pytest.approx(product(15, 12), abs=1e-5)
    assert product(5, 2) == pytest.approx(product(3, 0), abs=1e-5)
    assert abs(product(5, 2) - product(2, 5)) > 1e-2, "direction matters"
    assert abs(product(5, 2) - product(5, 3)) > 1e-2, "distance matters"


def test_norms_stay_and_the_origin_changes_nothing():
    x = normal(4, 3, 32)
    turned = rotate(x, rotations(coords((0, 0, 0, 0), (1, 0, 0, 0), (7, 63, 63, 63), (3, 9, 1, 0)), 32))
    torch.testing.assert_close(turned.norm(dim=-1), x.norm(dim=-1))
    assert torch.equal(turned[0], x[0])
    assert not torch.allclose(turned[1], x[1])


def test_scale_multiplies_coordinates():
    torch.testing.assert_close(rotations(coords((2, 4, 6, 8)), 16, 0.5), rotations(coords((1, 2, 3, 4)), 16))
    assert torch.equal(rotations(coords((2, 4, 6, 8)), 16, 0.0), torch.ones(1, 8, dtype=torch.complex64))


def test_half_precision_is_rotated_in_float32():
    x = normal(50, 2, 64).bfloat16()
    rotation = rotations(torch.arange(200, dtype=torch.int32).view(50, 4), 64)
    assert torch.equal(rotate(x, rotation), rotate(x.float(), rotation).bfloat16())
