"""Losses: values by hand, whatever is packed with whatever."""

from __future__ import annotations

from math import e

import pytest
import torch
from torch import Tensor

from tok4d.errors import ConfigError, PluginError
from tok4d.losses.objective import Objective
from tok4d.losses.terms import KL, L1, L2
from tok4d.modality import Sample
from tok4d.model.bottleneck import Encoded, Posterior
from tok4d.tokens import TokenSet


def sample(values: list[float] | Tensor, **more: Tensor) -> Sample:
    return Sample("radar", {"wave": torch.as_tensor(values, dtype=torch.float32), **more}, key="a.rad")


def encoded(lengths: tuple[int, ...] = (1,), mean: float = 0.0, logvar: float = 0.0) -> Encoded:
    count = sum(lengths)
    coords = torch.arange(4 * count, dtype=torch.int32).view(count, 4)
    posterior = Posterior(torch.full((count, 2), mean), torch.full((count, 2), logvar))
    return Encoded(TokenSet(torch.zeros(count, 1), coords, lengths), posterior)


TARGET = [sample([1.0, 2.0, 3.0, 4.0]), sample([0.5])]
GOT = [sample([1.0, 2.0, 3.0, 2.0]), sample([-1.0])]


def test_l1_and_l2_by_hand():
    """A mean inside every sample, so that a large one does not outvote a small one."""
    assert L1()(TARGET, GOT, encoded()).tolist() == [0.5, 1.5]
    assert L2()(TARGET, GOT, encoded()).tolist() == [1.0, 2.25]


def test_whole_numbers_are_no_values():
    """Coordinates beside values: the same on both sides, and nothing that a loss could change."""
    target, got = sample([1.0, 2.0], at=torch.tensor([3, 4])), sample([1.0, 3.0], at=torch.tensor([5, 6]))
    assert L1()([target], [got], encoded()).tolist() == [0.5]


def test_kl_by_hand():
    one = encoded((3, 0, 1), mean=2.0, logvar=1.0)
    per_token = 2 * 0.5 * (4 + e - 1 - 1)
    torch.testing.assert_close(KL()([], [], one), torch.tensor([per_token, 0.0, per_token]))


def test_objective_adds_weighted_means_over_samples():
    objective = Objective.from_config({"l1": 2, "l2": {"weight": 0.5}, "kl": 0.0})
    loss = objective(TARGET, GOT, encoded())
    assert set(loss.terms) == {"l1", "l2"}
    assert loss.terms["l1"] == pytest.approx(1.0)
    assert loss.terms["l2"] == pytest.approx(1.625)
    assert loss.total == pytest.approx(2 * 1.0 + 0.5 * 1.625)


def test_order_and_packing_change_nothing():
    objective = Objective.from_config({"l1": 1, "l2": 1, "kl": 1})
    lengths = (2, 1)
    whole = objective(TARGET, GOT, encoded(lengths, 0.5)).total
    turned = objective(TARGET[::-1], GOT[::-1], encoded(lengths[::-1], 0.5)).total
    alone = [objective([TARGET[i]], [GOT[i]], encoded((lengths[i],), 0.5)).total for i in range(2)]
    torch.testing.assert_close(turned, whole)
    torch.testing.assert_close(torch.stack(alone).mean(), whole)


def test_identical_samples_and_a_standard_normal_cost_nothing():
    loss = Objective.from_config({"l1": 1, "l2": 1, "kl": 1})(TARGET, TARGET, encoded((1, 1)))
    assert loss.total == 0
    nothing = [sample([])]
    assert Objective.from_config({"l1": 1, "l2": 1})(nothing, nothing, encoded((0,))).total == 0


def test_gradients_equal_finite_differences():
    objective = Objective.from_config({"l1": 0.3, "l2": 2.0, "kl": 0.1})
    start = torch.tensor([0.3, -0.4, 1.2, 0.7])
    mean, logvar = torch.tensor([[0.4, -0.2]]), torch.tensor([[0.3, -1.0]])

    def total(x: Tensor, m: Tensor, v: Tensor) -> Tensor:
        one = encoded((1,))
        return objective([sample([1.0, 2.0, 3.0, 4.0])], [sample(x)], Encoded(one.features, Posterior(m, v))).total

    inputs = [item.clone().requires_grad_() for item in (start, mean, logvar)]
    gradients = torch.autograd.grad(total(*inputs), inputs)
    for which, gradient in enumerate(gradients):
        for place in range(gradient.numel()):
            step = torch.zeros_like(gradient).flatten()
            step[place] = 1e-2
            up, down = ([*(start, mean, logvar)] for _ in range(2))
            up[which] = up[which] + step.view(gradient.shape)
            down[which] = down[which] - step.view(gradient.shape)
            slope = (total(*up) - total(*down)) / 2e-2
            assert float(gradient.flatten()[place]) == pytest.approx(float(slope), abs=2e-3)


def test_only_tensors_of_both_sides_count():
    target = [sample([1.0, 1.0], label=torch.zeros(9))]
    assert L1()(target, [sample([0.0, 0.5])], encoded()).tolist() == [0.75]
    with pytest.raises(ConfigError, match=r"sample 'a.rad': target has \['wave'\], reconstruction \['image'\]"):
        L1()([sample([1.0])], [Sample("radar", {"image": torch.zeros(1)})], encoded())


@pytest.mark.parametrize(
    ("config", "error"),
    [
        ({"l1": 0}, "no term with a positive weight"),
        ({}, "no term with a positive weight"),
        ({"l1": "heavy"}, "losses.l1: weight must be a number >= 0, got 'heavy'"),
        ({"l1": True}, "weight must be a number"),
        ({"l1": float("nan")}, "weight must be a number"),
        ({"l1": -0.1}, "weight must be a number"),
        ({"l2": {"weight": 1, "power": 3}}, "losses.l2: .*'power'"),
    ],
)
def test_unusable_configurations(config, error):
    with pytest.raises(ConfigError, match=error):
        Objective.from_config(config)


def test_an_unknown_term_names_the_nearest():
    with pytest.raises(PluginError, match=r"unknown loss 'kll'\. Did you mean 'kl'"):
        Objective.from_config({"kll": 1})
