"""The falloffs and coverages of coverage.slang, each alone: values, gradients, reach, and what holds at the kinks."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from tests.comparison import in_both_precisions, on_every_engine
from tests.probes import assert_agrees, corners_of, generator, pixels_and_faces, probe, random_faces, row_by_row
from tests.references import coverage

ROWS = 300
SOFT = ("squared_distance", "distance", "barycentric", "edge_product")
COVERAGES = (*SOFT, "hard")
every_coverage = pytest.mark.parametrize("kind", COVERAGES)
every_soft_coverage = pytest.mark.parametrize("kind", SOFT)

EQUILATERAL = torch.tensor([[0.0, 0.8], [-0.4 * math.sqrt(3), -0.4], [0.4 * math.sqrt(3), -0.4]], dtype=torch.float64)


def face(corners: Tensor) -> Tensor:
    """[12] At z/w = 0 and 1/w = 1."""
    return torch.cat([corners, torch.tensor([0.0, 1.0]).to(corners).expand(3, 2)], dim=1).flatten()


def rows_of(points: Tensor, corners: Tensor, sigma: float) -> Tensor:
    """[P, 15] Points [P, 2] beside one triangle [3, 2]."""
    count = len(points)
    return torch.cat([points, face(corners).expand(count, -1), points.new_full((count, 1), sigma)], dim=1)


def reference(kind: str):
    """[R, 2] D and 1 - D of rows of pixel, face and sigma."""

    def value_and_complement(rows: Tensor) -> Tensor:
        def log_coverage(points: Tensor, corners: Tensor, sigma: Tensor) -> Tensor:
            return coverage.log_coverage(kind, points, corners, sigma)

        log_value = row_by_row(log_coverage)(rows[:, :2], corners_of(rows[:, 2:14]), rows[:, 14])
        return torch.stack([log_value.exp(), -torch.expm1(log_value)], dim=1)

    return value_and_complement


# The falloff


def logistic(x: Tensor) -> Tensor:
    return torch.cat([torch.sigmoid(x), torch.sigmoid(-x)], dim=1)


@on_every_engine
def test_logistic(device: str, dtype: torch.dtype) -> None:
    rows = 4 * torch.randn(ROWS, 1, generator=generator(1), dtype=torch.float64)
    assert_agrees("coverage", "logistic", logistic, rows, device, dtype)


@on_every_engine
def test_logistic_keeps_its_relative_accuracy_at_both_ends(device: str, dtype: torch.dtype) -> None:
    """D, 1 - D and their derivatives, down to 1e-34: each to its own size, not to that of the other."""
    x = torch.linspace(-78, 78, 313, dtype=torch.float64)[:, None].to(device, dtype).requires_grad_()
    exact = x.detach().cpu().double()
    tolerance = 1e-5 if dtype == torch.float32 else 1e-12
    found = probe("coverage", "logistic", x, 2)
    assert ((found.cpu() / logistic(exact) - 1).abs() < tolerance).all()
    slope = torch.sigmoid(exact) * torch.sigmoid(-exact)
    for output, sign in [(0, 1), (1, -1)]:
        (gradient,) = torch.autograd.grad(found[:, output].sum(), x, retain_graph=True)
        assert ((gradient.cpu() / (sign * slope) - 1).abs() < 10 * tolerance).all()


@on_every_engine
def test_logistic_far_out(device: str, dtype: torch.dtype) -> None:
    far = torch.tensor([-1e30, -1e3, -90.0, 90.0, 1e3, 1e30], device=device, dtype=dtype)[:, None].requires_grad_()
    found = probe("coverage", "logistic", far, 2)
    assert ((found[:3, 0] < 1e-34) & (found[:3, 1] == 1) & (found[3:, 0] == 1) & (found[3:, 1] < 1e-34)).all()
    assert (found >= 0).all()
    for output in range(2):
        (gradient,) = torch.autograd.grad(found[:, output].sum(), far, retain_graph=True)
        assert (gradient.abs() < 1e-34).all()


@in_both_precisions
def test_extent_inverts_the_logistic(dtype: torch.dtype) -> None:
    cutoffs = torch.tensor([1e-30, 1e-8, 1e-4, 1e-2, 0.25, 0.5], dtype=dtype)[:, None]
    extents = probe("coverage", "logistic_extent", cutoffs)
    back = probe("coverage", "logistic", -extents, 2)[:, :1]
    assert (back < cutoffs).all()  # never too near
    torch.testing.assert_close(back, cutoffs, rtol=3e-4, atol=0)


# Coverage against the reference


@on_every_engine
@every_coverage
def test_coverage(kind: str, device: str, dtype: torch.dtype) -> None:
    """Sigma is a part of the row, between 0.2 and 1.2: a soft step over the size of a triangle."""
    sigma = 0.2 + torch.rand(ROWS, 1, generator=generator(2), dtype=torch.float64)
    rows = torch.cat([pixels_and_faces(ROWS), sigma], dim=1)
    hard = kind == "hard"  # no gradient, where the harness wants one
    assert_agrees("coverage", kind, reference(kind), rows, device, dtype, constants=2, gradient=not hard)


def test_a_hard_coverage_has_no_gradient() -> None:
    rows = torch.cat([pixels_and_faces(ROWS), torch.ones(ROWS, 1)], dim=1).requires_grad_()
    found = probe("coverage", "hard", rows, 2)
    assert ((found == 0) | (found == 1)).all() and (found[:, 0] + found[:, 1] == 1).all()
    (gradient,) = torch.autograd.grad(found[:, 0].sum(), rows)
    assert (gradient[:, 2:] == 0).all()


# Properties


@every_coverage
@in_both_precisions
def test_coverage_and_complement_are_shares_of_one(kind: str, dtype: torch.dtype) -> None:
    for sigma in (1e-7, 1e-4, 1e-2, 1.0, 1e4):
        rows = torch.cat([pixels_and_faces(ROWS, 3), torch.full((ROWS, 1), sigma)], dim=1).to(dtype)
        found = probe("coverage", kind, rows, 2)
        assert found.min() >= 0 and found.max() <= 1
        torch.testing.assert_close(found.sum(dim=1), torch.ones(ROWS, dtype=dtype))


@every_soft_coverage
@in_both_precisions
def test_complement_keeps_its_relative_accuracy(kind: str, dtype: torch.dtype) -> None:
    """Deep inside an equilateral triangle 1 - D is far below the rounding of D."""
    sigma = {"squared_distance": 4e-3, "distance": 1e-2, "barycentric": 2.5e-3, "edge_product": 1.4e-2}[kind]
    rows = rows_of(torch.tensor([[0.0, 0.0]], dtype=dtype), EQUILATERAL.to(dtype), sigma)
    found = probe("coverage", kind, rows, 2)[0, 1].item()
    exact = -torch.expm1(_log_value(kind, rows.double())).item()
    assert 1e-20 < exact < 1e-15
    assert found == pytest.approx(exact, rel=1e-4 if dtype == torch.float32 else 1e-11)


def _log_value(kind: str, rows: Tensor) -> Tensor:
    """For a pixel deep inside, from the sum of small complements: 1 - D = 1 - prod(1 - c_k)."""
    point, corners, sigma = rows[:1, :2], corners_of(rows[:, 2:14]), rows[0, 14]
    if kind == "edge_product":
        x = coverage.edge_functions(point, corners)[0, 0].abs() / sigma
    elif kind == "barycentric":
        x = coverage.barycentrics(point, corners).amin().square() / sigma
    else:
        x = coverage.squared_distance(point, corners)[0] ** (1 if kind == "squared_distance" else 0.5) / sigma
    return -torch.log1p((-x).exp()).sum()


@every_coverage
def test_coverage_falls_along_every_ray_from_the_centre(kind: str) -> None:
    angles = torch.linspace(0, 2 * math.pi, 25, dtype=torch.float64)
    radii = torch.linspace(0, 3, 121, dtype=torch.float64)
    rays = radii[None, :, None] * torch.stack([angles.cos(), angles.sin()], dim=1)[:, None]
    rows = rows_of(rays.flatten(0, 1), EQUILATERAL, 0.05)
    value, complement = probe("coverage", kind, rows, 2).reshape(25, 121, 2).unbind(dim=2)
    assert (value.diff(dim=1) <= 1e-15).all() and (complement.diff(dim=1) >= -1e-15).all()
    assert (value[:, 0] > 0.9).all() and (value[:, -1] < 1e-6).all()


@pytest.mark.parametrize("kind", ["squared_distance", "distance", "barycentric"])
@pytest.mark.parametrize("flip", [False, True])
def test_coverage_is_one_half_on_the_border(kind: str, flip: bool) -> None:
    corners = EQUILATERAL.flip(0) if flip else EQUILATERAL
    points = torch.cat([EQUILATERAL, (EQUILATERAL + EQUILATERAL.roll(1, 0)) / 2])
    found = probe("coverage", kind, rows_of(points, corners, 1.0), 2)
    torch.testing.assert_close(found, torch.full((6, 2), 0.5, dtype=torch.float64))


@every_coverage
def test_coverage_knows_no_winding_and_no_first_vertex(kind: str) -> None:
    rows = torch.cat([pixels_and_faces(ROWS, 6), torch.full((ROWS, 1), 0.1)], dim=1)
    found = probe("coverage", kind, rows, 2)
    vertices = rows[:, 2:14].reshape(ROWS, 3, 4)
    for order in ([1, 2, 0], [0, 2, 1]):
        other = torch.cat([rows[:, :2], vertices[:, order].flatten(1), rows[:, 14:]], dim=1)
        torch.testing.assert_close(probe("coverage", kind, other, 2), found, rtol=1e-9, atol=1e-12)


# Reach


def influence(kind: str, faces: Tensor, sigma: float, cutoff: float) -> tuple[Tensor, Tensor]:
    """The radius [R] and the margins [R, 3] of faces."""
    extent = probe("coverage", "logistic_extent", faces.new_full((len(faces), 1), cutoff)).detach()
    rows = torch.cat([faces, faces.new_full((len(faces), 1), sigma), extent], dim=1)
    found = probe("coverage", f"{kind}_influence", rows, 4)
    return found[:, 0], found[:, 1:]


def distances(points: Tensor, corners: Tensor) -> tuple[Tensor, Tensor]:
    """How far points are from their triangle [R], 0 inside, and beyond the line of each edge [R, 3]."""
    outside = ~row_by_row(lambda p, c: coverage.inside(p, c)[..., None])(points, corners)[:, 0]
    distance2 = row_by_row(lambda p, c: coverage.squared_distance(p, c)[..., None])(points, corners)[:, 0]
    edges = corners.roll(-1, dims=1) - corners
    signed = row_by_row(coverage.edge_functions)(points, corners) * coverage.double_area(corners).sign()[:, None]
    return outside * distance2.sqrt(), -signed / edges.norm(dim=2)


@every_coverage
@pytest.mark.parametrize("sigma", [1e-4, 1e-2, 1.0])
@pytest.mark.parametrize("cutoff", [1e-30, 1e-4, 0.3])
def test_nothing_outside_the_influence_reaches_the_cutoff(kind: str, sigma: float, cutoff: float) -> None:
    faces = random_faces(40, 8).repeat(150, 1)
    count = len(faces)
    radius, margin = influence(kind, faces, sigma, cutoff)
    numbers = generator(9)
    near = corners_of(faces)[torch.arange(count), torch.randint(3, (count,), generator=numbers)]
    reach = torch.tensor([0.05, 0.3, 2.0]).repeat_interleave(40).repeat(50)[:, None]
    points = near + reach * torch.randn(count, 2, generator=numbers, dtype=torch.float64)
    rows = torch.cat([points, faces, faces.new_full((count, 1), sigma)], dim=1)
    kept = probe("coverage", kind, rows, 2)[:, 0] >= cutoff
    distance, beyond = distances(points, corners_of(faces))
    assert kept.sum() > 50
    assert (distance[kept] <= radius[kept] * (1 + 1e-9)).all()
    assert (beyond[kept] <= margin[kept] * (1 + 1e-9) + 1e-12).all()


@pytest.mark.parametrize("kind", ["squared_distance", "distance", "barycentric"])
@pytest.mark.parametrize("cutoff", [1e-8, 1e-4, 0.3])
def test_the_influence_ends_where_the_cutoff_is_reached(kind: str, cutoff: float) -> None:
    """Straight out from the middle of an edge, a thousandth inside the margin and a thousandth outside."""
    radius, margin = influence(kind, face(EQUILATERAL)[None], 0.003, cutoff)
    reach = torch.minimum(margin[0, 0], radius[0])
    middle = (EQUILATERAL[0] + EQUILATERAL[1]) / 2
    points = middle + torch.tensor([[0.999], [1.001]]) * reach * middle / middle.norm()
    value = probe("coverage", kind, rows_of(points, EQUILATERAL, 0.003), 2)[:, 0]
    assert value[0] > cutoff > value[1]


def test_the_influence_of_an_edge_product_is_tight_where_it_is_sharp() -> None:
    """The other two factors are then 1."""
    _, margin = influence("edge_product", face(EQUILATERAL)[None], 0.003, 1e-4)
    middle = (EQUILATERAL[0] + EQUILATERAL[1]) / 2
    points = middle + torch.tensor([[0.999], [1.001]]) * margin[0, 0] * middle / middle.norm()
    value = probe("coverage", "edge_product", rows_of(points, EQUILATERAL, 0.003), 2)[:, 0]
    assert value[0] > 1e-4 > value[1]


def test_a_hard_coverage_reaches_nowhere() -> None:
    radius, margin = influence("hard", random_faces(5), 1.0, 1e-4)
    assert (radius == 0).all() and (margin == 0).all()


# Kinks


def gradient_at(kind: str, point: Tensor, dtype: torch.dtype = torch.float64) -> Tensor:
    """[13] Of D, by the face and sigma."""
    rows = rows_of(point[None].to(dtype), EQUILATERAL.to(dtype), 0.3).requires_grad_()
    (gradient,) = torch.autograd.grad(probe("coverage", kind, rows, 2)[:, 0].sum(), rows)
    return gradient[0, 2:].double()


KINKS = {
    "vertex": EQUILATERAL[0],
    "edge": 0.25 * EQUILATERAL[0] + 0.75 * EQUILATERAL[1],
    "medial axis": torch.tensor([0.0, 0.3], dtype=torch.float64),  # above the centre: two edges are equally near
    "centre": torch.tensor([0.0, 0.0], dtype=torch.float64),  # all three
    "line of an edge": 1.5 * EQUILATERAL[0] - 0.5 * EQUILATERAL[1],
}


@every_soft_coverage
@in_both_precisions
@pytest.mark.parametrize("kink", KINKS)
def test_at_a_kink_the_gradient_is_a_mean_of_those_around_it(kind: str, kink: str, dtype: torch.dtype) -> None:
    """A point of the convex hull of the gradients on a small circle around the pixel."""
    found = gradient_at(kind, KINKS[kink], dtype)
    angles = torch.arange(24, dtype=torch.float64) * (2 * math.pi / 24) + 0.1
    circle = KINKS[kink] + 1e-5 * torch.stack([angles.cos(), angles.sin()], dim=1)
    around = torch.stack([gradient_at(kind, point) for point in circle])
    assert found.isfinite().all()
    assert _distance_to_hull(found, around) < 2e-4


def _distance_to_hull(point: Tensor, vertices: Tensor) -> float:
    """By Frank and Wolfe's steps to the vertex that lies farthest in the direction of descent."""
    nearest = vertices[(vertices - point).norm(dim=1).argmin()]
    for _ in range(200):
        towards = vertices[((vertices - nearest) @ (point - nearest)).argmax()] - nearest
        if towards.norm() < 1e-12:
            break
        step = ((point - nearest) @ towards / (towards @ towards)).clamp(0, 1)
        nearest = nearest + step * towards
    return (point - nearest).norm().item()
