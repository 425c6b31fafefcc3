"""The T-conorms of silhouette.slang, each alone: against closed forms, as T-conorms, and at the ends of their range."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import slangrast as sr
from slangrast.formulas import SILHOUETTES
from tests.comparison import in_both_precisions, on_every_engine
from tests.probes import differences, generator, probe
from tests.references import silhouettes

# The ends of the range of p that the structs' documentation allows, where it names them.
PARAMETERS = {
    "einstein": (0.0, 0.0),
    "hamacher": (0.05, 20.0),
    "frank": (1e-4, 1e4),
    "yager": (0.25, 8.0),
    "aczel_alsina": (0.25, 8.0),
    "dombi": (0.25, 4.0),
    "schweizer_sklar": (-4.0, -0.01),
}
with_p = [kind for kind in PARAMETERS if kind != "einstein"]
every_silhouette = pytest.mark.parametrize("kind", PARAMETERS)
every_parametric_silhouette = pytest.mark.parametrize("kind", with_p)


def shares(kind: str, value: Tensor, complement: Tensor, p: Tensor | float) -> Tensor:
    """The generator of coverages, of whatever shape; p is a number or of that shape."""
    p = torch.as_tensor(p).to(value).expand_as(value)
    rows = torch.stack([value, complement, p], dim=-1).reshape(-1, 3)
    return probe("silhouettes", f"{kind}_generator", rows).reshape(value.shape)


def inverse(kind: str, total: Tensor, p: Tensor | float) -> Tensor:
    p = torch.as_tensor(p).to(total).expand_as(total)
    return probe("silhouettes", f"{kind}_inverse", torch.stack([total, p], dim=-1).reshape(-1, 2)).reshape(total.shape)


def union(kind: str, x: Tensor, p: Tensor | float) -> Tensor:
    """[R] The silhouette of coverages sigmoid(x), x [R, K]."""
    spread = p[:, None] if isinstance(p, Tensor) else p
    return inverse(kind, shares(kind, x.sigmoid(), (-x).sigmoid(), spread).sum(dim=1), p)


def random_parameters(kind: str, count: int, seed: int) -> Tensor:
    """[count] Over the whole range, evenly by their logarithms."""
    low, high = PARAMETERS[kind]
    if kind == "einstein":
        return torch.zeros(count, dtype=torch.float64)
    even = torch.rand(count, generator=generator(seed), dtype=torch.float64)
    return low * (high / low) ** even


# Probabilities, face by face


@in_both_precisions
def test_faces_united_one_by_one_are_the_sum_of_their_generators(dtype: torch.dtype) -> None:
    """Coverages near 0, near 1 and between, few and many: to a few roundings of D and of 1 - D alike."""
    for faces, spread in ((1, 12.0), (2, 12.0), (50, 12.0), (50, 2.0)):
        x = spread * torch.randn(200, faces, generator=generator(faces), dtype=torch.float64) - 4
        rows = torch.stack([x.sigmoid(), (-x).sigmoid()], dim=2).flatten(1).to(dtype)
        united, inverse_of_sum, generated, total = probe("silhouettes", "union", rows, 4).double().unbind(dim=1)
        exact = torch.nn.functional.softplus(x).sum(dim=1)
        tolerance = {torch.float32: 1e-5, torch.float64: 1e-13}[dtype]
        torch.testing.assert_close(united, -torch.expm1(-exact), rtol=tolerance, atol=0)
        torch.testing.assert_close(united, inverse_of_sum, rtol=tolerance, atol=0)
        assert united.max() <= 1
        inside = exact < 80  # beyond it a complement is too small for a float, and counts as 1e-37
        torch.testing.assert_close(generated[inside], total[inside], rtol=10 * tolerance, atol=0)
        assert (generated[~inside] >= 79).all()


# Against closed forms


@on_every_engine
@every_silhouette
def test_union_of_two(kind: str, device: str, dtype: torch.dtype) -> None:
    """S, and its gradients to both coverages' arguments and to p."""
    rows = 2.5 * torch.randn(400, 2, generator=generator(1), dtype=torch.float64)
    rows = torch.cat([rows, random_parameters(kind, 400, 2)[:, None]], dim=1).to(dtype).double()
    if kind == "yager":  # has a kink where it is full
        full = rows[:, :2].sigmoid().pow(rows[:, 2:]).sum(dim=1)
        rows = rows[(full - 1).abs() > 1e-3]
    ours = rows.to(device, dtype).requires_grad_()
    theirs = rows.clone().requires_grad_()
    found = union(kind, ours[:, :2], ours[:, 2])
    expected = silhouettes.T_CONORMS[kind](*theirs[:, :2].sigmoid().unbind(dim=1), theirs[:, 2])
    tolerance = {torch.float32: 1e-5, torch.float64: 1e-11}[dtype]
    assert ((found.cpu() - expected).abs() < tolerance * expected).all()

    cotangent = torch.randn(len(rows), generator=generator(3), dtype=torch.float64)
    (grad_ours,) = torch.autograd.grad(found, ours, cotangent.to(found))
    (grad_theirs,) = torch.autograd.grad(expected, theirs, cotangent, materialize_grads=True)
    if dtype == torch.float64:
        by_differences = differences(lambda x: union(kind, x[:, :2], x[:, 2])[:, None], ours, cotangent[:, None])
        sure = rows[:, 2].abs() >= 0.01 if kind != "einstein" else slice(None)  # a step of 1e-6 is small beside p
        assert_close_by_column(grad_ours[sure], by_differences[sure], 1e-6)
    assert_close_by_column(grad_ours.cpu().double(), grad_theirs, 20 * tolerance)


def assert_close_by_column(found: Tensor, expected: Tensor, tolerance: float) -> None:
    scale = expected.abs() + 0.1 * expected.abs().amax(dim=0)
    assert ((found - expected).abs() <= tolerance * scale).all()


@in_both_precisions
@every_silhouette
def test_union_of_many_is_a_chain_of_twos(kind: str, dtype: torch.dtype) -> None:
    x = 2 * torch.randn(100, 5, generator=generator(4), dtype=torch.float64) - 2
    p = random_parameters(kind, 100, 5)
    expected = x[:, 0].sigmoid()
    for column in x[:, 1:].unbind(dim=1):
        expected = silhouettes.T_CONORMS[kind](expected, column.sigmoid(), p)
    tolerance = 2e-5 if dtype == torch.float32 else 1e-7  # the closed form of Frank's cancels
    torch.testing.assert_close(union(kind, x.to(dtype), p.to(dtype)).double(), expected, rtol=tolerance, atol=0)


@pytest.mark.parametrize(
    ("kind", "p", "other", "other_p"),
    [
        ("hamacher", 1.0, "probabilistic", 0.0),
        ("frank", 1.0, "probabilistic", 0.0),
        ("aczel_alsina", 1.0, "probabilistic", 0.0),
        ("hamacher", 2.0, "einstein", 0.0),
        ("dombi", 1.0, "hamacher", 0.0),
    ],
)
def test_parameters_at_which_two_are_the_same(kind: str, p: float, other: str, other_p: float) -> None:
    x = 3 * torch.randn(100, 2, generator=generator(6), dtype=torch.float64)
    expected = getattr(silhouettes, other)(*x.sigmoid().unbind(dim=1), torch.full((100,), other_p))
    torch.testing.assert_close(union(kind, x, p), expected, rtol=1e-12, atol=0)


def test_yager_of_one_is_a_clamped_sum() -> None:
    x = 3 * torch.randn(100, 2, generator=generator(6), dtype=torch.float64)
    torch.testing.assert_close(union("yager", x, 1.0), x.sigmoid().sum(dim=1).clamp(max=1))


@in_both_precisions
def test_frank_is_smooth_where_its_closed_form_is_not_defined(dtype: torch.dtype) -> None:
    """At p = 1: its gradient to p is that of p a little off."""
    x = 3 * torch.randn(100, 2, generator=generator(6), dtype=torch.float64)
    p = torch.ones(100, dtype=dtype, requires_grad=True)
    (gradient,) = torch.autograd.grad(union("frank", x.to(dtype), p).sum(), p)
    a, b = x.sigmoid().unbind(dim=1)
    higher, lower = (silhouettes.frank(a, b, torch.full_like(a, q)) for q in (1.001, 0.999))
    torch.testing.assert_close(gradient.double(), (higher - lower) / 0.002, rtol=1e-4, atol=1e-6)


# As T-conorms


@in_both_precisions
@every_silhouette
def test_nothing_is_neutral_and_all_absorbs(kind: str, dtype: torch.dtype) -> None:
    """S(a) = S(a, 0) = a, to the relative accuracy of a; S(a, 1) = 1."""
    x = torch.cat([torch.linspace(-9, 9, 37), torch.tensor([-13.0, 13.0])]).to(dtype)
    value, complement = x.sigmoid(), (-x).sigmoid()
    none, all_ = torch.zeros_like(x), torch.ones_like(x)
    low, high = PARAMETERS[kind]
    for p in (low, (low * high) ** 0.5 * (-1 if low < 0 else 1), high):
        alone = shares(kind, value, complement, p)
        with_none = inverse(kind, alone + shares(kind, none, all_, p), p)
        tolerance = 2e-5 if dtype == torch.float32 else 1e-11
        small = 1e-34 ** (1 / p) if kind in ("yager", "aczel_alsina", "dombi") else 0.0  # counts as nothing
        assert ((with_none - value).abs() <= tolerance * value)[value > small].all()
        full = inverse(kind, alone + shares(kind, all_, none, p), p)
        assert ((1 - full).abs() < 2e-7).all()


@in_both_precisions
@every_silhouette
def test_a_union_is_no_smaller_than_its_parts_and_grows_with_them(kind: str, dtype: torch.dtype) -> None:
    x = torch.linspace(-8, 8, 33, dtype=dtype)
    pairs = torch.cartesian_prod(x, x)
    low, high = PARAMETERS[kind]
    for p in (low, high):
        found = union(kind, pairs, p)
        assert found.min() >= 0 and found.max() <= 1
        rounding = 1e-5 if dtype == torch.float32 else 1e-11
        assert (found - pairs.sigmoid().amax(dim=1) >= -rounding).all()
        assert (found.reshape(33, 33).diff(dim=0) >= -rounding).all()
        torch.testing.assert_close(union(kind, pairs.flip(1), p), found, rtol=0, atol=0)


# Ends


@in_both_precisions
@every_silhouette
def test_at_the_ends_all_is_finite(kind: str, dtype: torch.dtype) -> None:
    """No coverage, full coverage and what rounding leaves of it; no sum and sums beyond all bounds."""
    ends = [(0.0, 1.0), (1e-38, 1.0), (1e-20, 1.0), *((1.0, 3 * 10.0**-k) for k in range(7, 38)), (1.0, 0.0)]
    low, high = PARAMETERS[kind]
    for p in (low, (low * high) ** 0.5 * (-1 if low < 0 else 1), high):
        rows = torch.tensor([[*end, p] for end in ends], dtype=dtype, requires_grad=True)
        share = probe("silhouettes", f"{kind}_generator", rows)
        (gradient,) = torch.autograd.grad(share.sum(), rows)
        assert share.isfinite().all() and share.min() >= 0 and gradient.isfinite().all()
        assert share[0] < 1e-15

        total = [0.0, 1e-38, 1e-20, 1.0, 80.0, 1e10, 1e30, 1000 * share.max().item()]
        rows = torch.tensor([[one, p] for one in total], dtype=dtype, requires_grad=True)
        found = probe("silhouettes", f"{kind}_inverse", rows)
        (gradient,) = torch.autograd.grad(found.sum(), rows)
        assert found.isfinite().all() and found.min() >= 0 and found.max() <= 1 and gradient.isfinite().all()
        assert found[0] == 0 and found[-1] > 1 - 2e-7


@in_both_precisions
@every_silhouette
def test_a_whole_chain_keeps_its_gradient_finite(kind: str, dtype: torch.dtype) -> None:
    """Among faces that cover nothing or everything, the gradient of S reaches the coverages without NaN."""
    value = torch.tensor([[0.0, 0.0, 0.0], [0.0, 1.0, 0.3], [1.0, 1.0, 1.0], [0.0, 0.0, 0.3]], dtype=dtype)
    low, high = PARAMETERS[kind]
    for p in (low, high):
        d = value.clone().requires_grad_()
        found = inverse(kind, shares(kind, d, 1 - d, p).sum(dim=1), p)
        (gradient,) = torch.autograd.grad(found.sum(), d)
        assert gradient.isfinite().all()
        torch.testing.assert_close(found, torch.tensor([0.0, 1.0, 1.0, 0.3], dtype=dtype), rtol=2e-5, atol=1e-6)
        torch.testing.assert_close(gradient[3, 2], torch.tensor(1.0, dtype=dtype), rtol=1e-4, atol=0)


# In the renderer


def test_every_shipped_silhouette_is_tested() -> None:
    assert set(SILHOUETTES) == {*PARAMETERS, "probabilistic", "max", "sum"}  # those are in test_aggregation.py
    assert {kind for kind, shipped in SILHOUETTES.items() if "p" in shipped.defaults} == set(with_p)
    for kind in with_p:
        assert PARAMETERS[kind][0] < SILHOUETTES[kind].defaults["p"] < PARAMETERS[kind][1]


def test_parameters_receive_gradients_through_an_image() -> None:
    """A falloff and a silhouette with parameters, two triangles that overlap; judged by finite differences."""
    corners = torch.tensor([[-0.6, -0.7, 0.0, 1.0], [0.8, -0.4, 0.0, 1.0], [-0.2, 0.8, 0.0, 1.0]], dtype=torch.float64)
    positions = torch.cat([corners, corners * torch.tensor([-1.0, 1.0, 1.0, 1.0])])
    triangles = torch.tensor([[0, 1, 2], [3, 4, 5]])
    weights = torch.randn(1, 13, 17, generator=generator(7), dtype=torch.float64)

    def image_sum(values: Tensor) -> Tensor:
        falloff = sr.Formula("gamma_reversed", p=values[0], shift=values[1])
        silhouette = sr.Formula("dombi", p=values[2])
        image = sr.soft_silhouette(
            positions, triangles, (13, 17), sigma=0.1, falloff=falloff, silhouette=silhouette, cutoff=1e-12
        )
        return (image * weights).sum()

    values = torch.tensor([1.7, 0.2, 1.4], dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(image_sum(values), values)
    step = 1e-6 * torch.eye(3, dtype=torch.float64)
    expected = [(image_sum(values.detach() + h) - image_sum(values.detach() - h)) / 2e-6 for h in step]
    assert gradient.abs().min() > 1e-3
    torch.testing.assert_close(gradient, torch.stack(expected), rtol=1e-6, atol=1e-8)
