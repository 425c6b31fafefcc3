"""The oracle on trial: the torch references against closed forms, brute force and finite differences."""

from __future__ import annotations

import itertools
import math

import pytest
import torch

from tests import scenes
from tests.combinations import CHOICES, COMBINATIONS, label
from tests.references import aggregation, coverage, interpolation, kinks
from tests.references.soft_rasterizer import pixel_centres, project, soft_rasterize, soft_silhouette

TRIANGLE = torch.tensor([[[0.0, 0.0], [4.0, 0.0], [0.0, 3.0]]], dtype=torch.float64)  # sides 4, 5, 3
SOFT = {"sigma": 0.05, "gamma": 0.1, "epsilon": 0.3, "near": scenes.NEAR, "far": scenes.FAR, "cutoff": 1e-30}


def as_points(*points: tuple[float, float]) -> torch.Tensor:
    return torch.tensor(points, dtype=torch.float64)


# Coverage


@pytest.mark.parametrize(
    ("point", "distance"),
    [
        ((-3.0, -4.0), 5.0),  # to the vertex at the origin
        ((2.0, -1.5), 1.5),  # to an edge
        ((7.0, -4.0), 5.0),  # to the vertex (4, 0)
        ((1.0, 1.0), 1.0),  # inside: the incircle's centre
        ((2.0, 1.5), 0.0),  # on the hypotenuse
        ((5.0, 5.5), 5.0),  # to the hypotenuse: |3x + 4y - 12| / 5
    ],
)
@pytest.mark.parametrize("turn", range(3))
@pytest.mark.parametrize("flip", [False, True])
def test_distance_to_a_triangle(point: tuple, distance: float, turn: int, flip: bool) -> None:
    corners = TRIANGLE.roll(turn, dims=1)
    corners = corners.flip(1) if flip else corners
    found = coverage.squared_distance(as_points(point), corners)
    assert found.item() == pytest.approx(distance**2, abs=1e-12)


def test_distance_against_dense_samples_of_the_outline() -> None:
    generator = torch.Generator().manual_seed(3)
    corners = torch.randn(8, 3, 2, generator=generator, dtype=torch.float64)
    points = torch.randn(20, 2, generator=generator, dtype=torch.float64)
    t = torch.linspace(0, 1, 20_001, dtype=torch.float64)[:, None, None, None]
    outline = (corners + t * (corners.roll(-1, dims=1) - corners)).reshape(-1, 8, 3, 2)
    for point, found in zip(points, coverage.squared_distance(points, corners), strict=True):
        sampled = (outline - point).square().sum(-1).amin(dim=(0, 2))
        torch.testing.assert_close(found, sampled, rtol=1e-6, atol=1e-6)


def test_barycentrics_sum_to_one_and_give_the_point_back() -> None:
    generator = torch.Generator().manual_seed(4)
    corners = torch.randn(7, 3, 2, generator=generator, dtype=torch.float64)
    points = torch.randn(11, 2, generator=generator, dtype=torch.float64)
    weights = coverage.barycentrics(points, corners)
    torch.testing.assert_close(weights.sum(-1), torch.ones(11, 7, dtype=torch.float64))
    torch.testing.assert_close(torch.einsum("pfk,fkd->pfd", weights, corners), points[:, None].expand(11, 7, 2))


def logistic(x: float) -> float:
    return 1 / (1 + math.exp(-x))


@pytest.mark.parametrize(
    ("kind", "at_inside", "at_outside"),
    [
        ("squared_distance", logistic(1 / 0.7), logistic(-(1.5**2) / 0.7)),
        ("distance", logistic(1 / 0.7), logistic(-1.5 / 0.7)),
        # At (1, 1) the barycentrics are 5/12, 1/4, 1/3; at (2, -1.5) they are 1, 1/2, -1/2.
        ("barycentric", logistic(1 / 16 / 0.7), logistic(-1 / 4 / 0.7)),
        # The edge functions are side times height: 4, 5, 3 at the incircle's centre; -6, 15, 6 at (2, -1.5).
        (
            "edge_product",
            math.prod(logistic(e / 0.7) for e in (4, 5, 3)),
            math.prod(logistic(e / 0.7) for e in (-6, 12, 6)),
        ),
        ("hard", 1.0, 0.0),
    ],
)
@pytest.mark.parametrize("flip", [False, True])
def test_coverage_in_closed_form(kind: str, at_inside: float, at_outside: float, flip: bool) -> None:
    corners = TRIANGLE.flip(1) if flip else TRIANGLE
    points = as_points((1.0, 1.0), (2.0, -1.5))
    found = coverage.log_coverage(kind, points, corners, torch.tensor(0.7, dtype=torch.float64)).exp()
    assert found.flatten().tolist() == pytest.approx([at_inside, at_outside], rel=1e-12)


# Interpolation


def test_depth_and_attributes_against_the_ray_plane_intersection() -> None:
    """A ray through the pixel meets the face's plane in a point: compare its depth, and its position."""
    generator = torch.Generator().manual_seed(5)
    vertices = torch.randn(3, 3, generator=generator, dtype=torch.float64) + torch.tensor([0.0, 0.0, 5.0])
    screen, w = vertices[:, :2] / vertices[:, 2:], vertices[:, 2]
    weights = torch.rand(9, 1, 3, generator=generator, dtype=torch.float64)
    weights = weights / weights.sum(-1, keepdim=True)
    rays = torch.cat([weights[:, 0] @ screen, torch.ones(9, 1, dtype=torch.float64)], dim=1)
    normal = torch.linalg.cross(vertices[1] - vertices[0], vertices[2] - vertices[0])
    depth = (normal @ vertices[0]) / (rays @ normal)
    torch.testing.assert_close(interpolation.view_depth(weights, w[None])[:, 0], depth)
    attribute_weights = interpolation.attribute_weights(weights, w[None], perspective_correct=True)
    torch.testing.assert_close(
        interpolation.interpolate(attribute_weights, vertices[None])[:, 0], rays * depth[:, None]
    )
    assert interpolation.attribute_weights(weights, w[None], perspective_correct=False) is weights


def test_ndc_depth_is_the_projection_of_view_depth() -> None:
    one = scenes.strong_perspective().positions[:3]
    weights = torch.tensor([[[0.2, 0.3, 0.5]]], dtype=torch.float64)
    view = interpolation.view_depth(weights, one[None, :, 3])
    ndc = interpolation.ndc_depth(weights, one[None, :, 2], one[None, :, 3])
    n, f = scenes.NEAR, scenes.FAR
    torch.testing.assert_close(ndc, (f + n) / (f - n) - 2 * f * n / (f - n) / view)


def test_clipped_barycentrics() -> None:
    weights = torch.tensor([[2.0, -1.0, 0.0], [2.0, 0.5, -1.5], [0.2, 0.3, 0.5]], dtype=torch.float64)
    expected = torch.tensor([[1.0, 0.0, 0.0], [2 / 3, 1 / 3, 0.0], [0.2, 0.3, 0.5]], dtype=torch.float64)
    torch.testing.assert_close(interpolation.clip_barycentrics(weights), expected)


# Aggregation


def test_log_complement() -> None:
    for x in (-1e-200, -1e-12, -0.3, -0.5, -0.6, -5.0, -40.0, -800.0):
        found = aggregation.log_complement(torch.tensor(x, dtype=torch.float64)).item()
        expected = math.log(-math.expm1(x)) if x > -0.5 else math.log1p(-math.exp(x))
        assert found == pytest.approx(expected, rel=1e-14)
    at_zero = torch.zeros(1, dtype=torch.float64, requires_grad=True)
    aggregation.log_complement(at_zero).backward()
    assert at_zero.grad.isfinite().all()


def aggregate(kind: str, gamma: float, closeness: list, inside: list, kept: list) -> list[float]:
    def row(values, dtype=torch.float64):
        return torch.tensor([values], dtype=dtype)

    gamma, epsilon = row(gamma)[0], row(0.2)[0]
    weights = aggregation.fragment_weights(
        kind, row([0.5, 0.25]).log(), row(closeness), row(inside, bool), row(kept, bool), gamma, epsilon
    )
    return weights[0].tolist()


@pytest.mark.parametrize(
    ("kind", "logits"),
    [("softmax", [math.log(0.5) + 3, math.log(0.25) + 6, 2]), ("additive", [0.5 + 3, 0.25 + 6, 2])],
)
def test_weights_in_closed_form(kind: str, logits: list[float]) -> None:
    both = [math.exp(x) / sum(map(math.exp, logits)) for x in logits]
    assert aggregate(kind, 0.1, [0.3, 0.6], [False, True], [True, True]) == pytest.approx(both)
    one = [math.exp(logits[0]), 0, math.exp(logits[2])]
    one = [x / sum(one) for x in one]
    assert aggregate(kind, 0.1, [0.3, 0.6], [False, True], [True, False]) == pytest.approx(one)
    assert aggregate(kind, 0.1, [0.3, 0.6], [False, True], [False, False]) == [0, 0, 1]


@pytest.mark.parametrize("kind", ["softmax", "additive"])
def test_the_smallest_gamma_does_not_overflow(kind: str) -> None:
    assert aggregate(kind, 1e-8, [0.3, 0.6], [True, True], [True, True]) == [0, 1, 0]


@pytest.mark.parametrize(
    ("closeness", "inside", "kept", "expected"),
    [
        ([0.3, 0.6], [True, True], [True, True], [0, 1, 0]),
        ([0.3, 0.6], [True, False], [True, True], [1, 0, 0]),
        ([0.3, 0.6], [True, True], [True, False], [1, 0, 0]),
        ([0.3, 0.6], [False, True], [True, False], [0, 0, 1]),
        ([0.4, 0.4], [True, True], [True, True], [1, 0, 0]),  # a tie: the first
        ([-9.0, -8.0], [True, True], [True, True], [0, 1, 0]),
    ],
)
def test_the_nearest_covering_face(closeness: list, inside: list, kept: list, expected: list) -> None:
    assert aggregate("hard", 0.1, closeness, inside, kept) == expected


@pytest.mark.parametrize(("kind", "expected"), [("probabilistic", 1 - 0.5 * 0.75), ("max", 0.5), ("sum", 0.75)])
def test_silhouettes_in_closed_form(kind: str, expected: float) -> None:
    log_coverage = torch.tensor([[0.5, 0.25, 0.9]], dtype=torch.float64).log()
    kept = torch.tensor([[True, True, False]])
    assert aggregation.silhouette(kind, log_coverage, kept).item() == pytest.approx(expected)
    assert aggregation.silhouette(kind, log_coverage[:, :0], kept[:, :0]).tolist() == [0]


def test_silhouettes_of_many_small_and_of_large_coverages() -> None:
    tiny = torch.full((1, 1000), 1e-18, dtype=torch.float64).log()
    kept = torch.ones(1, 1000, dtype=torch.bool)
    assert aggregation.silhouette("probabilistic", tiny, kept).item() == pytest.approx(1e-15, rel=1e-12)
    assert aggregation.silhouette("probabilistic", torch.zeros_like(tiny), kept).item() == 1
    large = torch.full((1, 3), 0.8, dtype=torch.float64).log().requires_grad_()
    total = aggregation.silhouette("sum", large, kept[:, :3])
    total.sum().backward()
    assert total.item() == 1 and (large.grad == 0).all()


# The whole image


def test_pixel_centres() -> None:
    centres = pixel_centres((2, 3), torch.zeros((), dtype=torch.float64)).reshape(2, 3, 2)
    assert centres[0, 0].tolist() == [-1.0, 0.5]  # row 0 is the top; the shorter side spans [-1, 1]
    assert centres[1, 2].tolist() == [1.0, -0.5]


def test_projection_puts_the_clip_corners_on_the_image_corners() -> None:
    corner = torch.tensor([[3.0, 3.0, 0.0, 3.0]], dtype=torch.float64)
    assert project(corner, (20, 50)).tolist() == [[2.5, 1.0]]
    assert project(corner, (50, 20)).tolist() == [[1.0, 2.5]]


def test_one_pixel_by_hand() -> None:
    """A face at depth 4 that covers the image: D is 1, so colours are weighed by depth alone."""
    points = [[-90.0, -70.0], [110.0, -80.0], [5.0, 140.0]]
    one = scenes.scene(points, 4.0, [[0, 1, 2]], (1, 1))._replace(attributes=torch.eye(3, dtype=torch.float64))
    image = soft_rasterize(*one, sigma=1e-2, gamma=0.3, epsilon=0.7, background=2.1, near=1.0, far=10.0)
    face = math.exp((10 - 4) / (10 - 1) / 0.3)
    face = face / (face + math.exp(0.7 / 0.3))
    weights = coverage.barycentrics(torch.zeros(1, 2, dtype=torch.float64), torch.tensor([points]).double())[0, 0]
    expected = [face * w + (1 - face) * 2.1 for w in weights.tolist()]
    assert image.color.flatten().tolist() == pytest.approx(expected, rel=1e-12)
    assert image.depth.item() == pytest.approx(face * 4 + (1 - face) * 10, rel=1e-12)
    assert image.silhouette.item() == 1


@pytest.mark.parametrize("shape", [(), (3,), (2, 3), (2, 5, 7, 3)])
def test_shapes_of_background(shape: tuple) -> None:
    one = scenes.no_faces()
    background = torch.rand(shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    positions = torch.stack([one.positions, one.positions])
    image = soft_rasterize(positions, *one[1:], background=background, far=scenes.FAR)
    between = [None] * (2 if background.ndim == 2 else 0)
    index = (slice(None), *between) if background.ndim == 2 else ...
    assert torch.equal(image.color, background[index].expand(2, 5, 7, 3))
    assert (image.depth == scenes.FAR).all() and (image.silhouette == 0).all()


def test_a_subset_of_pixels() -> None:
    one = scenes.strong_perspective()
    whole = soft_rasterize(*one, **SOFT)
    pixels = torch.tensor([3, 170, 35])
    part = soft_rasterize(*one, **SOFT, pixels=pixels)
    for a, b in zip(whole, part, strict=True):
        torch.testing.assert_close(a.flatten(1, 2)[:, pixels], b, rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize(
    ("scene", "dropped"),
    [
        (scenes.zero_area, [True, True, True, False]),
        (scenes.behind_the_eye, [True, True, True, False]),
        (scenes.outside_the_range, [True, True, False, False, False]),
        (scenes.off_screen, [True, True, False]),
    ],
)
def test_which_faces_contribute(scene, dropped: list[bool]) -> None:
    one = scene()
    for face, is_dropped in zip(one.triangles, dropped, strict=True):
        image = soft_silhouette(one.positions, face[None], one.resolution, sigma=1e-2, near=scenes.NEAR, far=scenes.FAR)
        assert (image.max() == 0) == is_dropped


def test_culling_drops_clockwise_faces() -> None:
    counter_clockwise, clockwise = scenes.pixel_inside(), scenes.clockwise()
    options = {"near": scenes.NEAR, "far": scenes.FAR, "cull_backfaces": True}
    assert soft_rasterize(*counter_clockwise, **options).silhouette.max() > 0
    assert soft_rasterize(*clockwise, **options).silhouette.max() == 0


def test_faces_that_are_not_finite_leave_finite_gradients() -> None:
    one = scenes.shared_edge()
    one.positions[3] = torch.tensor([math.nan, math.inf, 0.0, 1.0])
    positions = one.positions.requires_grad_()
    image = soft_rasterize(positions, *one[1:], **SOFT)
    sum(part.sum() for part in image).backward()
    assert positions.grad.isfinite().all() and (positions.grad[3] == 0).all() and (positions.grad[0] != 0).any()


def test_the_combinations_hold_every_pair_of_choices() -> None:
    for a, b in itertools.combinations(CHOICES, 2):
        pairs = {(options[a], options[b]) for options in COMBINATIONS}
        assert pairs == set(itertools.product(CHOICES[a], CHOICES[b]))


def test_the_scene_for_gradient_checks_has_no_kinks() -> None:
    one = scenes.three_faces()
    for options in COMBINATIONS:
        _, bends = kinks.kinked_pixels(one.positions, one.triangles, one.resolution, 1e-5, **SOFT, **options)
        assert not bends.any(), label(options)


@pytest.mark.parametrize("options", COMBINATIONS, ids=label)
def test_gradients_against_finite_differences(options: dict) -> None:
    one = scenes.three_faces()

    def image(positions, attributes, sigma, gamma, epsilon, background):
        arguments = {**SOFT, "sigma": sigma, "gamma": gamma, "epsilon": epsilon, "background": background}
        return tuple(soft_rasterize(positions, one.triangles, attributes, one.resolution, **arguments, **options))

    scalars = [SOFT["sigma"], SOFT["gamma"], SOFT["epsilon"], [0.2, 0.5, 0.9]]
    scalars = [torch.tensor(value, dtype=torch.float64) for value in scalars]
    inputs = [x.requires_grad_() for x in (one.positions, one.attributes, *scalars)]
    assert torch.autograd.gradcheck(image, inputs, eps=1e-6, atol=1e-6, rtol=1e-5)
