"""The falloffs of falloff.slang, each alone: values and gradients, both tails, and where they reach a cutoff."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from slangrast.formulas import FALLOFFS
from tests.comparison import in_both_precisions, on_every_engine
from tests.probes import assert_agrees, generator, probe
from tests.references import falloffs

COMPACT = ("uniform", "cubic_hermite", "wigner_semicircle")  # nothing happens beyond -1 and 1
GAMMAS = ("gamma", "gamma_reversed")
SHIFTED = (*GAMMAS, "exponential", "exponential_reversed", "levy", "levy_reversed")
SMOOTH = tuple(kind for kind in falloffs.FALLOFFS if kind != "hard")
every_falloff = pytest.mark.parametrize("kind", falloffs.FALLOFFS)
every_smooth_falloff = pytest.mark.parametrize("kind", SMOOTH)


def rows_of(kind: str, x: Tensor, shift: Tensor | float = 0.0, p: Tensor | float = 2.0) -> Tensor:
    """[R, 1 to 3] As the probe takes them: x, then what parameters the falloff has."""
    columns = [x, torch.as_tensor(shift).to(x).expand_as(x), torch.as_tensor(p).to(x).expand_as(x)]
    return torch.stack(columns[: 3 if kind in GAMMAS else 2 if kind in SHIFTED else 1], dim=1)


def reference(kind: str):
    """[R, 2] D and 1 - D of rows."""

    def value_and_complement(rows: Tensor) -> Tensor:
        x, shift, p = (rows[:, k] if k < rows.shape[1] else torch.zeros_like(rows[:, 0]) for k in range(3))
        return torch.stack([falloffs.FALLOFFS[kind](x, shift, p), falloffs.complement(kind, x, shift, p)], dim=1)

    return value_and_complement


def slopes(found: Tensor, rows: Tensor) -> Tensor:
    """[R, 2] Derivatives of D and of 1 - D by x."""
    parts = [torch.autograd.grad(found[:, k].sum(), rows, retain_graph=True)[0][:, 0] for k in range(2)]
    return torch.stack(parts, dim=1)


# Values and gradients


@on_every_engine
@every_falloff
def test_falloff(kind: str, device: str, dtype: torch.dtype) -> None:
    """D, 1 - D and their gradients to x, shift and p."""
    numbers = generator(1)
    x = 2.5 * torch.randn(300, generator=numbers, dtype=torch.float64)
    shift = 2 * torch.rand(300, generator=numbers, dtype=torch.float64)
    p = 0.4 * 30 ** torch.rand(300, generator=numbers, dtype=torch.float64)
    rows = rows_of(kind, x, shift, p)
    assert_agrees("falloffs", kind, reference(kind), rows, device, dtype, gradient=kind != "hard")


@in_both_precisions
@pytest.mark.parametrize("kind", GAMMAS)
@pytest.mark.parametrize("p", [0.1, 0.5, 1.0, 4.0, 20.0, 100.0])
def test_gamma_of_every_shape(kind: str, p: float, dtype: torch.dtype) -> None:
    """From far below the mean, which is p, through the seam at p + 1 to far above it."""
    t = torch.cat([p * torch.linspace(0.02, 3, 40), p + 1 + torch.linspace(-1e-3, 1e-3, 4)]).to(dtype)
    rows = rows_of(kind, t if kind == "gamma" else -t, p=p)
    exact = reference(kind)(rows.double())
    # For p > 20 it is torch whose error is 2e-9.
    tolerance = 2e-5 if dtype == torch.float32 else 1e-13 if 0.5 <= p <= 20 else 1e-7
    torch.testing.assert_close(probe("falloffs", kind, rows, 2).double(), exact, rtol=tolerance, atol=1e-30)


def test_a_gamma_of_shape_one_is_exponential() -> None:
    x = torch.linspace(-6, 6, 101, dtype=torch.float64)
    for suffix in ("", "_reversed"):
        found = probe("falloffs", f"gamma{suffix}", rows_of("gamma", x, 0.5, 1.0), 2)
        torch.testing.assert_close(found, probe("falloffs", f"exponential{suffix}", rows_of("levy", x, 0.5), 2))


def test_a_hard_falloff_has_no_gradient() -> None:
    x = torch.tensor([[-1.0], [-0.0], [0.0], [1.0]]).requires_grad_()
    found = probe("falloffs", "hard", x, 2)
    assert found.tolist() == [[0, 1], [1, 0], [1, 0], [1, 0]]
    assert (slopes(found, x) == 0).all()


# Tails


def towards_both_ends(kind: str) -> Tensor:
    """x where the lesser of D and 1 - D falls to about 1e-9 (heavy tails), 1e-8 (compact support) or 1e-30."""
    if kind in COMPACT:
        x = 1 - torch.logspace(-8, -0.5, 80, dtype=torch.float64)
        return torch.cat([-x, x])
    if kind in ("cauchy", "reciprocal", "levy", "levy_reversed"):
        x = torch.logspace(-2, 9, 80)
        return torch.cat([-x, x])
    reach = 11.5 if kind == "gaussian" else 70.0
    x = torch.cat([torch.linspace(0, reach, 80), torch.logspace(-8, -1, 20)])
    return torch.cat([-x, x, x / 16, -x / 16])  # Gumbel's short tail ends at 4.3


@on_every_engine
@every_smooth_falloff
def test_both_tails_keep_their_relative_accuracy(kind: str, device: str, dtype: torch.dtype) -> None:
    """D, 1 - D and their slopes, each to its own size and not to that of the other."""
    rows = rows_of(kind, towards_both_ends(kind)).to(device, dtype).requires_grad_()
    exact = rows.detach().cpu().double().requires_grad_()
    found, expected = probe("falloffs", kind, rows, 2), reference(kind)(exact)
    # An error of x is one of exp(-x), times x.
    tolerance = 3e-5 if dtype == torch.float32 else 1e-11
    counts = (expected > 1e-30) & (slopes(expected, exact).abs() > 1e-30)
    assert counts.double().mean() > 0.2
    assert expected[counts].min() < (1e-6 if kind in COMPACT else 1e-4 if "levy" in kind else 1e-8)
    assert ((found.cpu() / expected - 1).abs()[counts] < tolerance).all()
    theirs = slopes(expected, exact)
    # Where the slope is that of the larger one it is accurate too, but rounded with it.
    assert ((slopes(found, rows).cpu() / theirs - 1).abs()[counts & (expected < 0.9)] < 3 * tolerance).all()


@in_both_precisions
@every_smooth_falloff
def test_far_out_and_at_kinks_all_is_finite(kind: str, dtype: torch.dtype) -> None:
    x = torch.tensor([-1e30, -1e18, -1e6, -1e3, -1.0, -0.0, 0.0, 1.0, 1e3, 1e6, 1e18, 1e30], dtype=dtype)
    for shift in (0.0, 1.0):
        for p in (0.1, 0.5, 1.0, 7.0):
            rows = rows_of(kind, x, shift, p).requires_grad_()
            found = probe("falloffs", kind, rows, 2)
            assert found.isfinite().all() and found.min() >= 0 and found.max() <= 1
            assert found[0, 0] < 1e-8 and found[-1, 1] < 1e-8
            assert found[3, 0] < 0.03 and found[-4, 1] < 0.03
            for k in range(2):
                (gradient,) = torch.autograd.grad(found[:, k].sum(), rows, retain_graph=True)
                assert gradient.isfinite().all()
                assert gradient[[0, 3, -4, -1], 0].abs().max() < 1e-3


@in_both_precisions
@pytest.mark.parametrize("kind", SHIFTED)
def test_a_one_sided_falloff_ends_at_its_shift(kind: str, dtype: torch.dtype) -> None:
    """Exactly, but for Levy's, which comes to nothing before its end already."""
    x = torch.tensor([-1.0, -1e-3], dtype=dtype)
    for p in (0.1, 2.0):
        if "reversed" in kind:
            full, nothing = probe("falloffs", kind, rows_of(kind, -x, p=p), 2).unbind(dim=1)
        else:
            nothing, full = probe("falloffs", kind, rows_of(kind, x, p=p), 2).unbind(dim=1)
        assert (nothing <= (1e-35 if "levy" in kind else 0.0)).all() and (full == 1).all()


# Properties


@in_both_precisions
@every_falloff
def test_a_falloff_never_falls_and_is_a_share_of_one(kind: str, dtype: torch.dtype) -> None:
    x = torch.linspace(-8, 8, 2001, dtype=dtype)
    rows = rows_of(kind, x, 1.0, 2.5).requires_grad_()
    found = probe("falloffs", kind, rows, 2)
    assert found.min() >= 0 and found.max() <= 1
    torch.testing.assert_close(found.sum(dim=1), torch.ones_like(x))
    rounding = 4 * torch.finfo(dtype).eps
    assert (found[:, 0].diff() >= -rounding).all() and (found[:, 1].diff() <= rounding).all()
    # The slopes of D and 1 - D are one density.
    slope = slopes(found, rows)
    assert (slope[:, 0] >= 0).all()
    torch.testing.assert_close(slope[:, 0], -slope[:, 1], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("kind", falloffs.SYMMETRIC)
def test_at_the_border_a_symmetric_falloff_is_one_half_with_a_slope(kind: str) -> None:
    x = torch.zeros(1, 1, dtype=torch.float64, requires_grad=True)
    found = probe("falloffs", kind, x, 2)
    torch.testing.assert_close(found.detach(), torch.full((1, 2), 0.5, dtype=torch.float64))
    slope = slopes(found, x)[0]
    near = reference(kind)(torch.tensor([[-1e-6], [1e-6]], dtype=torch.float64))
    torch.testing.assert_close(slope, (near[1] - near[0]) / 2e-6, rtol=1e-5, atol=0)


@pytest.mark.parametrize("kind", SHIFTED)
@pytest.mark.parametrize("parameter", ["shift", "p"])
def test_every_parameter_changes_the_result(kind: str, parameter: str) -> None:
    if parameter == "p" and kind not in GAMMAS:
        return
    x = torch.tensor([-0.5 if "reversed" in kind else 0.5], dtype=torch.float64)
    before = probe("falloffs", kind, rows_of(kind, x, 0.3, 1.5), 2)
    after = probe("falloffs", kind, rows_of(kind, x, **{"shift": 0.3, "p": 1.5, parameter: 0.9}), 2)
    assert (before - after).abs().min() > 0.01


def test_every_shipped_falloff_is_tested() -> None:
    assert set(FALLOFFS) == set(falloffs.FALLOFFS)
    assert {kind for kind, shipped in FALLOFFS.items() if "shift" in shipped.defaults} == set(SHIFTED)
    assert {kind for kind, shipped in FALLOFFS.items() if "p" in shipped.defaults} == set(GAMMAS)


# Reach


@in_both_precisions
@every_falloff
@pytest.mark.parametrize("cutoff", [1e-4, 1e-2, 0.5])
@pytest.mark.parametrize("shift", [0.0, 1.0])
def test_extent_is_where_the_cutoff_is_reached(kind: str, cutoff: float, shift: float, dtype: torch.dtype) -> None:
    """Nothing that reaches the cutoff lies beyond, and little before it does not."""
    rows = rows_of(kind, torch.tensor([cutoff], dtype=dtype), shift)  # the cutoff in the place of x
    extent = probe("falloffs", f"{kind}_extent", rows)[0, 0].double()
    assert extent.isfinite() and extent >= 0
    values = reference(kind)(rows_of(kind, torch.stack([-extent, -0.99 * extent]), shift))[:, 0]
    assert values[0] < cutoff
    assert values[1] > 0.97 * cutoff or extent < 0.02


def test_heavy_tails_reach_far() -> None:
    cutoff = torch.tensor([1e-4])
    reach = {kind: probe("falloffs", f"{kind}_extent", rows_of(kind, cutoff))[0, 0].item() for kind in SMOOTH}
    assert reach["cauchy"] == pytest.approx(1e4 / torch.pi, rel=2e-3)
    assert reach["reciprocal"] == pytest.approx(5e3, rel=2e-3)
    assert reach["levy_reversed"] == pytest.approx(2e8 / torch.pi, rel=4e-3)
    assert reach["exponential"] < 1e-5 and reach["uniform"] < 1.0001
