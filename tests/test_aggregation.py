"""The weights and silhouettes of aggregation.slang, each alone. Coverages come from a logistic of the first column."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.nn.functional import logsigmoid, softplus

from tests.comparison import in_both_precisions, on_every_engine
from tests.probes import assert_agrees, generator, probe
from tests.references import aggregation

ROWS = 200
SILHOUETTES = {"probabilistic": "probabilistic", "clamped_sum": "sum", "largest": "max"}  # ours, the reference's
every_silhouette = pytest.mark.parametrize("kind", SILHOUETTES)


def coverage_score_gamma() -> Tensor:
    """[R, 3] The logistic's argument, a depth score in [-1, 0] and gamma."""
    numbers = generator(1)
    rows = torch.rand(ROWS, 3, generator=numbers, dtype=torch.float64)
    return torch.stack([12 * rows[:, 0] - 6, -rows[:, 1], 0.1 + rows[:, 2]], dim=1)


# Weights


def softmax(rows: Tensor) -> Tensor:
    """The share D exp(z / gamma), as factor and logit. Scores are shifted by one, which a softmax does not see."""
    x, score, gamma = rows.unbind(dim=1)
    return torch.stack([torch.sigmoid(x), score / gamma], dim=1)


def additive(rows: Tensor) -> Tensor:
    x, score, gamma = rows.unbind(dim=1)
    return torch.stack([torch.ones_like(x), torch.sigmoid(x) + score / gamma], dim=1)


def nearest_face(rows: Tensor) -> Tensor:
    return torch.stack([torch.ones_like(rows[:, 1]), rows[:, 1]], dim=1)


@on_every_engine
@pytest.mark.parametrize("kind", [softmax, additive, nearest_face])
def test_weight(kind, device: str, dtype: torch.dtype) -> None:
    assert_agrees("aggregation", f"{kind.__name__}_weight", kind, coverage_score_gamma(), device, dtype)


@on_every_engine
def test_background_logit(device: str, dtype: torch.dtype) -> None:
    rows = coverage_score_gamma()[:, 1:] * torch.tensor([-1.0, 1.0])
    assert_agrees("aggregation", "background_logit", lambda x: (x[:, :1] - 1) / x[:, 1:], rows, device, dtype)


@in_both_precisions
@pytest.mark.parametrize("kind", ["softmax", "additive"])
def test_weights_of_a_pixel_are_those_of_the_reference(kind: str, dtype: torch.dtype) -> None:
    """Normalised, with the background among them: the shift of all logits by 1 / gamma cancels."""
    rows = coverage_score_gamma().to(dtype)
    rows[:, 2], epsilon = 0.3, 0.2
    gamma = rows[:1, 2:]
    factor, logit = probe("aggregation", f"{kind}_weight", rows, 2).unbind(dim=1)
    background = probe("aggregation", "background_logit", torch.cat([torch.full_like(gamma, epsilon), gamma], dim=1))[0]
    found = torch.cat([factor.log() + logit, background]).softmax(dim=0)

    everywhere = torch.ones(1, ROWS, dtype=torch.bool)
    exact = rows.double()
    expected = aggregation.fragment_weights(
        kind,
        logsigmoid(exact[None, :, 0]),
        1 + exact[None, :, 1],
        everywhere,
        everywhere,
        exact[0, 2],
        torch.tensor(epsilon, dtype=torch.float64),
    )[0]
    torch.testing.assert_close(found.double(), expected, rtol=1e-5 if dtype == torch.float32 else 1e-12, atol=0)


def test_the_nearest_face_is_the_one_with_the_highest_logit() -> None:
    rows = coverage_score_gamma()
    assert probe("aggregation", "nearest_face_weight", rows, 2)[:, 1].argmax() == rows[:, 1].argmax()


# Silhouettes


GENERATORS = {"probabilistic": softplus, "clamped_sum": torch.sigmoid, "largest": torch.sigmoid}
INVERSES = {
    "probabilistic": lambda total: -torch.expm1(-total),
    "clamped_sum": lambda total: total.clamp(max=1),
    "largest": lambda total: 1 * total,
}


@on_every_engine
@every_silhouette
def test_generator(kind: str, device: str, dtype: torch.dtype) -> None:
    """That of 1 - prod(1 - D) is -log(1 - D): of a logistic D the softplus."""
    rows = 6 * torch.randn(ROWS, 1, generator=generator(2), dtype=torch.float64)
    assert_agrees("aggregation", f"{kind}_generator", GENERATORS[kind], rows, device, dtype)


@on_every_engine
@every_silhouette
def test_inverse(kind: str, device: str, dtype: torch.dtype) -> None:
    rows = 3 * torch.rand(ROWS, 1, generator=generator(3), dtype=torch.float64)
    assert_agrees("aggregation", f"{kind}_inverse", INVERSES[kind], rows, device, dtype)


@on_every_engine
def test_the_probabilistic_generator_keeps_its_relative_accuracy(device: str, dtype: torch.dtype) -> None:
    """-log(1 - D) for D from 1e-33 to 1 - 1e-33, and its derivative, which is D."""
    x = torch.linspace(-76, 76, 305, dtype=torch.float64)[:, None].to(device, dtype).requires_grad_()
    exact = x.detach().cpu().double()
    found = probe("aggregation", "probabilistic_generator", x)
    (slope,) = torch.autograd.grad(found.sum(), x)
    tolerance = 1e-5 if dtype == torch.float32 else 1e-12
    assert ((found.cpu() / torch.log1p(exact.exp()) - 1).abs() < tolerance).all()
    relevant = exact > -40  # below, in float32, one minus the complement is zero, and so is the gradient
    error = (slope.cpu() - torch.sigmoid(exact)).abs()
    assert (error < 10 * tolerance * torch.sigmoid(exact))[relevant].all(), error
    assert (error < 1e-16).logical_or(relevant).all()


@on_every_engine
def test_the_probabilistic_inverse_keeps_its_relative_accuracy(device: str, dtype: torch.dtype) -> None:
    """1 - exp(-s) for s from 1e-8 to 50, and its derivative exp(-s)."""
    total = torch.logspace(-8, 1.7, 300, dtype=torch.float64)[:, None].to(device, dtype).requires_grad_()
    exact = total.detach().cpu().double()
    found = probe("aggregation", "probabilistic_inverse", total)
    (slope,) = torch.autograd.grad(found.sum(), total)
    tolerance = 1e-6 if dtype == torch.float32 else 1e-12
    assert ((found.cpu() / -torch.expm1(-exact) - 1).abs() < tolerance).all()
    assert (found <= 1).all()
    assert ((slope.cpu() / (-exact).exp() - 1).abs() < 10 * tolerance).all()


@in_both_precisions
@every_silhouette
def test_a_face_alone_covers_what_it_covers(kind: str, dtype: torch.dtype) -> None:
    """inverse(generator(D)) = D, for D near 0 and near 1 too."""
    x = torch.linspace(-30, 30, 121, dtype=torch.float64)[:, None].to(dtype)
    found = probe("aggregation", f"{kind}_inverse", probe("aggregation", f"{kind}_generator", x))
    tolerance = 1e-5 if dtype == torch.float32 else 1e-12
    torch.testing.assert_close(found, torch.sigmoid(x.double()).to(dtype), rtol=tolerance, atol=0)


@in_both_precisions
@every_silhouette
def test_many_faces_in_any_order(kind: str, dtype: torch.dtype) -> None:
    numbers = generator(4)
    x = 4 * torch.randn(50, 8, generator=numbers, dtype=torch.float64) - 3

    def union(x: Tensor) -> Tensor:
        shares = probe("aggregation", f"{kind}_generator", x.reshape(-1, 1).to(dtype)).reshape(x.shape)
        total = shares.amax(dim=1) if kind == "largest" else shares.sum(dim=1)
        return probe("aggregation", f"{kind}_inverse", total[:, None])[:, 0]

    expected = aggregation.silhouette(SILHOUETTES[kind], logsigmoid(x), torch.ones_like(x, dtype=torch.bool))
    tolerance = 1e-5 if dtype == torch.float32 else 1e-12
    torch.testing.assert_close(union(x).double(), expected, rtol=tolerance, atol=0)
    torch.testing.assert_close(union(x[:, torch.randperm(8, generator=numbers)]), union(x), rtol=tolerance, atol=0)
    assert (union(x) >= union(x[:, :7]) * (1 - tolerance)).all()  # one more face never uncovers


# Kinks


@in_both_precisions
def test_nothing_covered_and_all_covered(dtype: torch.dtype) -> None:
    """D = 0 and D = 1 exactly, as hard coverage has them: 0 and 1 come out, and gradients are finite."""
    rows = torch.tensor([[0.0, 1.0], [1.0, 0.0]], dtype=dtype, requires_grad=True)
    shares = probe("aggregation", "generators_of_full_coverage", rows, 3)
    for column, kind in enumerate(SILHOUETTES):
        found = probe("aggregation", f"{kind}_inverse", shares[:, column : column + 1].contiguous())
        assert found[:, 0].tolist() == [0.0, 1.0]
        (gradient,) = torch.autograd.grad(found.sum(), rows, retain_graph=True)
        assert gradient.isfinite().all()


@in_both_precisions
def test_a_sum_that_just_fills(dtype: torch.dtype) -> None:
    """At a sum of 1 the slope is one of 1 (filling) and 0 (full), or between."""
    total = torch.tensor([[0.5], [1.0], [1.5]], dtype=dtype, requires_grad=True)
    found = probe("aggregation", "clamped_sum_inverse", total)
    (slope,) = torch.autograd.grad(found.sum(), total)
    assert found.flatten().tolist() == [0.5, 1.0, 1.0]
    assert slope[0] == 1 and 0 <= slope[1] <= 1 and slope[2] == 0


@in_both_precisions
def test_where_the_probabilistic_formulas_change_over(dtype: torch.dtype) -> None:
    """A complement of one half, a sum of 1: value and slope run on across the branch."""
    step = 1e-4
    for name, branch, slope in [("generator", 0.0, 0.5), ("inverse", 1.0, math.exp(-1))]:
        rows = torch.tensor([[branch - step], [branch], [branch + step]], dtype=dtype, requires_grad=True)
        found = probe("aggregation", f"probabilistic_{name}", rows)
        (slopes,) = torch.autograd.grad(found.sum(), rows)
        torch.testing.assert_close(slopes, torch.full_like(slopes, slope), rtol=0, atol=step)
        assert found.diff(dim=0).flatten().tolist() == pytest.approx([slope * step] * 2, rel=1e-2)
