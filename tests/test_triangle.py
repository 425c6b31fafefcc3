"""The functions of triangle.slang, each alone: values, gradients, and what holds at the kinks."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from tests.comparison import in_both_precisions, on_every_engine
from tests.probes import (
    VALUE_TOLERANCE,
    assert_agrees,
    corners_of,
    generator,
    pixels_and_faces,
    probe,
    random_faces,
    row_by_row,
)
from tests.references import coverage

ROWS = 300
RIGHT = [[0.0, 0.0], [4.0, 0.0], [0.0, 3.0]]  # sides 4, 5, 3
TURNS = [(0, 1, 2), (1, 2, 0), (2, 0, 1), (0, 2, 1), (2, 1, 0), (1, 0, 2)]  # then the clockwise ones


def face(corners: list, dtype: torch.dtype = torch.float64) -> Tensor:
    """[12] A face at z/w = 0 and 1/w = 1."""
    return torch.cat([torch.tensor(corners), torch.tensor([0.0, 1.0]).expand(3, 2)], dim=1).flatten().to(dtype)


def rows_at(point: tuple, corners: list, dtype: torch.dtype = torch.float64) -> Tensor:
    """[6, 14] A pixel and a triangle whose vertices run in every order."""
    faces = torch.stack([face([corners[k] for k in turn], dtype) for turn in TURNS])
    return torch.cat([torch.tensor(point, dtype=dtype).expand(6, 2), faces], dim=1)


def by_row(function):
    """Of rows of pixel and face."""
    return lambda rows: row_by_row(function)(rows[:, :2], corners_of(rows[:, 2:]))


edge_functions = by_row(coverage.edge_functions)
barycentrics = by_row(coverage.barycentrics)
distance2 = by_row(lambda points, corners: coverage.squared_distance(points, corners)[..., None])
inside = by_row(lambda points, corners: coverage.inside(points, corners)[..., None])


def signed_distance(rows: Tensor) -> Tensor:
    return torch.where(inside(rows), 1.0, -1.0) * distance2(rows).sqrt()


def triangle(faces: Tensor) -> Tensor:
    """[R, 23] The fields of a Triangle in their order."""
    corners = corners_of(faces)
    edges = corners.roll(-1, dims=1) - corners
    lengths = edges.square().sum(-1)
    rest = faces.reshape(-1, 3, 4)
    area = coverage.double_area(corners)[:, None]
    parts = [corners.flatten(1), edges.flatten(1), 1 / lengths, area, rest[..., 2], rest[..., 3], 1 / area]
    return torch.cat(parts, dim=1)


def test_rows_take_every_branch() -> None:
    """Else the comparisons below would say little: inside, nearest to each edge and vertex, of either winding."""
    rows = pixels_and_faces(ROWS)
    corners = corners_of(rows[:, 2:])
    ccw = coverage.double_area(corners) > 0
    covered = inside(rows)[:, 0]
    edges = corners.roll(-1, dims=1) - corners
    along = ((rows[:, None, :2] - corners) * edges).sum(-1) / edges.square().sum(-1)
    nearest = row_by_row(coverage.squared_distances_to_edges)(rows[:, :2], corners).argmin(dim=1)
    share = along.gather(1, nearest[:, None])[:, 0]
    at_edge = (share > 0) & (share < 1)
    for winding in (ccw, ~ccw):
        for edge in range(3):
            for there in (covered, ~covered & at_edge, ~covered & ~at_edge):
                assert (winding & there & (nearest == edge)).sum() >= 5


# Against the reference


@on_every_engine
def test_cross2(device: str, dtype: torch.dtype) -> None:
    rows = torch.randn(ROWS, 4, generator=generator(1), dtype=torch.float64)
    assert_agrees("triangle", "cross2", lambda x: coverage.cross(x[:, :2], x[:, 2:])[:, None], rows, device, dtype)


@on_every_engine
def test_make_triangle(device: str, dtype: torch.dtype) -> None:
    assert_agrees("triangle", "make_triangle", triangle, random_faces(ROWS), device, dtype)


@on_every_engine
def test_edge_functions(device: str, dtype: torch.dtype) -> None:
    rows = pixels_and_faces(ROWS)
    assert_agrees("triangle", "edge_functions", edge_functions, rows, device, dtype, constants=2)


@on_every_engine
def test_barycentrics(device: str, dtype: torch.dtype) -> None:
    rows = pixels_and_faces(ROWS)
    assert_agrees("triangle", "barycentrics", barycentrics, rows, device, dtype, constants=2)


@on_every_engine
def test_smallest(device: str, dtype: torch.dtype) -> None:
    rows = torch.randn(ROWS, 3, generator=generator(2), dtype=torch.float64)
    assert_agrees("triangle", "smallest", lambda x: x.amin(dim=1, keepdim=True), rows, device, dtype)


@on_every_engine
def test_offset_from_segment(device: str, dtype: torch.dtype) -> None:
    """As a function of all its arguments: the squared length's inverse need not be that of the edge. Of its derivative
    only that of its length counts, which the distances below have."""

    def reference(rows: Tensor) -> Tensor:
        from_start, edge = rows[:, :2] - rows[:, 2:4], rows[:, 4:6]
        along = ((from_start * edge).sum(1, keepdim=True) * rows[:, 6:]).clamp(0, 1)
        return from_start - along * edge

    rows = torch.randn(ROWS, 7, generator=generator(3), dtype=torch.float64)
    rows[:, 6] = 1 / rows[:, 4:6].square().sum(dim=1) * (1 + 0.1 * rows[:, 6])
    assert_agrees("triangle", "offset_from_segment", reference, rows, device, dtype, gradient=False)


@on_every_engine
def test_distance2_to_border(device: str, dtype: torch.dtype) -> None:
    rows = pixels_and_faces(ROWS)
    assert_agrees("triangle", "distance2_to_border", distance2, rows, device, dtype, constants=2)


@on_every_engine
def test_signed_distance(device: str, dtype: torch.dtype) -> None:
    rows = pixels_and_faces(ROWS)
    assert_agrees("triangle", "signed_distance", signed_distance, rows, device, dtype, constants=2)


@on_every_engine
def test_is_inside(device: str, dtype: torch.dtype) -> None:
    rows = pixels_and_faces(ROWS)
    found = probe("triangle", "is_inside", rows.to(device, dtype)).cpu() > 0
    expected = inside(rows)
    assert torch.equal(found, expected) and 50 < expected.sum() < ROWS - 50


# Properties


@in_both_precisions
def test_barycentrics_sum_to_one_and_give_the_pixel_back(dtype: torch.dtype) -> None:
    rows = pixels_and_faces(ROWS, seed=5).to(dtype)
    weights = probe("triangle", "barycentrics", rows, 3)
    tolerance = {"rtol": VALUE_TOLERANCE[dtype], "atol": VALUE_TOLERANCE[dtype]}
    torch.testing.assert_close(weights.sum(dim=1), torch.ones(ROWS, dtype=dtype), **tolerance)
    pixels = (weights[..., None] * corners_of(rows[:, 2:])).sum(dim=1)
    torch.testing.assert_close(pixels, rows[:, :2], **tolerance)


def test_barycentrics_are_one_at_their_vertex() -> None:
    for k, corner in enumerate(RIGHT):
        weights = probe("triangle", "barycentrics", torch.cat([torch.tensor(corner), face(RIGHT)])[None], 3)
        assert weights[0].tolist() == [float(j == k) for j in range(3)]


def test_edge_functions_add_up_to_twice_the_area() -> None:
    rows = pixels_and_faces(ROWS, seed=6)
    double_area = probe("triangle", "make_triangle", rows[:, 2:].contiguous(), 23)[:, 15]
    torch.testing.assert_close(probe("triangle", "edge_functions", rows, 3).sum(dim=1), double_area)


@pytest.mark.parametrize(
    ("point", "distance"),
    [
        ((-3.0, -4.0), -5.0),  # to the vertex at the origin
        ((7.0, -4.0), -5.0),  # to the vertex (4, 0)
        ((2.0, -1.5), -1.5),  # to an edge
        ((5.0, 5.5), -5.0),  # to the hypotenuse: |3x + 4y - 12| / 5
        ((1.0, 1.0), 1.0),  # the incircle's centre
        ((2.0, 1.5), 0.0),  # on the hypotenuse
    ],
)
@in_both_precisions
def test_distances_in_closed_form(point: tuple, distance: float, dtype: torch.dtype) -> None:
    rows = rows_at(point, RIGHT, dtype)
    tight = {"rtol": 4 * torch.finfo(dtype).eps, "atol": 4 * torch.finfo(dtype).eps}
    squared = probe("triangle", "distance2_to_border", rows)
    torch.testing.assert_close(squared, torch.full_like(squared, distance**2), **tight)
    signed = probe("triangle", "signed_distance", rows)
    torch.testing.assert_close(signed, torch.full_like(signed, distance), **tight)


def test_distances_do_not_change_with_the_triangle_and_the_pixel_moved_together() -> None:
    rows = pixels_and_faces(ROWS, seed=7)
    moved = rows.clone()
    moved[:, :2] += torch.tensor([0.7, -1.3])
    for vertex in range(3):
        moved[:, 2 + 4 * vertex : 4 + 4 * vertex] += torch.tensor([0.7, -1.3])
    for name in ("distance2_to_border", "signed_distance"):
        torch.testing.assert_close(probe("triangle", name, moved), probe("triangle", name, rows), rtol=1e-9, atol=1e-12)


@in_both_precisions
def test_is_degenerate(dtype: torch.dtype) -> None:
    """Thinner than a millionth of the longest edge, whichever edge is the longest; or not a number."""
    nan, far = math.nan, math.inf
    heights = {1.1e-6: False, 0.9e-6: True, 0.0: True}
    cases = [(RIGHT, False)]
    cases += [([[0.0, 0.0], [1.0, 0.0], [0.4, height]], expected) for height, expected in heights.items()]
    cases += [([[0.3, 0.2]] * 3, True), ([[0.3, 0.2], [0.3, 0.2], [1.0, 0.0]], True)]
    cases += [([[nan, 0.0], [1.0, 0.0], [0.0, 1.0]], True), ([[far, 0.0], [1.0, 0.0], [0.0, 1.0]], True)]
    for corners, expected in cases:
        for scale in (1e-3, 1.0, 1e3):
            faces = torch.stack([face([corners[k] for k in turn], dtype) for turn in TURNS])
            faces.reshape(6, 3, 4)[..., :2] *= scale
            found = probe("triangle", "is_degenerate", faces)
            assert found.flatten().tolist() == [float(expected)] * 6, (corners, scale)


@in_both_precisions
def test_the_border_is_inside(dtype: torch.dtype) -> None:
    for point, expected in [((0.0, 0.0), 1.0), ((2.0, 0.0), 1.0), ((0.0, 3.0), 1.0), ((2.0, -1e-5), 0.0)]:
        found = probe("triangle", "is_inside", rows_at(point, RIGHT, dtype))
        assert found.flatten().tolist() == [expected] * 6


# Kinks


def gradient_of(name: str, rows: Tensor, outputs: int = 1) -> Tensor:
    """[R, 3, 2] By the vertices' positions, of the sum of the outputs."""
    rows = rows.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(probe("triangle", name, rows, outputs).sum(), rows)
    return corners_of(gradient[:, 2:])


@in_both_precisions
@pytest.mark.parametrize("point", [*RIGHT, [1.0, 0.0], [0.0, 2.0]])
def test_squared_distance_is_flat_on_vertices_and_edges(point: list, dtype: torch.dtype) -> None:
    assert gradient_of("distance2_to_border", rows_at(point, RIGHT, dtype)).abs().max() < 1e-6


@in_both_precisions
def test_signed_distance_is_smooth_across_an_edge(dtype: torch.dtype) -> None:
    """On the edge, a hair inside and a hair outside: the inward normal, negated, shared by the edge's two ends."""
    expected = torch.tensor([[0.0, -0.75], [0.0, -0.25], [0.0, 0.0]], dtype=dtype)  # of vertices (0, 0), (4, 0), (0, 3)
    for y in (0.0, 1e-4, -1e-4):
        found = gradient_of("signed_distance", rows_at((1.0, y), RIGHT, dtype))
        for gradient, turn in zip(found, TURNS, strict=True):
            torch.testing.assert_close(gradient, expected[list(turn)], rtol=0, atol=1e-4 if y else 1e-6)


@in_both_precisions
@pytest.mark.parametrize("corner", RIGHT)
def test_signed_distance_on_a_vertex_is_that_to_one_of_its_edges(corner: list, dtype: torch.dtype) -> None:
    at = RIGHT.index(corner)
    centre = torch.tensor([1.0, 1.0], dtype=dtype)  # of the incircle
    for gradient, turn in zip(gradient_of("signed_distance", rows_at(corner, RIGHT, dtype)), TURNS, strict=True):
        own = gradient[turn.index(at)]
        others = gradient[[k for k in range(3) if turn[k] != at]]
        assert own.norm().item() == pytest.approx(1, rel=1e-6) and torch.equal(others, torch.zeros_like(others))
        normals = []
        for other in range(3):
            if other != at:
                edge = torch.tensor(RIGHT[other], dtype=dtype) - torch.tensor(corner, dtype=dtype)
                normal = torch.stack([-edge[1], edge[0]]) / edge.norm()
                inward = normal * (normal @ (centre - torch.tensor(corner, dtype=dtype))).sign()
                normals.append(-inward)
        assert min((own - normal).norm().item() for normal in normals) < 1e-6


@in_both_precisions
@pytest.mark.parametrize("name", ["distance2_to_border", "signed_distance"])
def test_on_the_medial_axis(name: str, dtype: torch.dtype) -> None:
    """The pixel (1/2, 1/2) is 1/2 from both short edges, and one of them is chosen."""
    # The slopes of d^2 and of d by d are both 1 at d = 1/2. An edge's ends share it as they share the nearest point.
    from_below = torch.tensor([[0.0, -7 / 8], [0.0, -1 / 8], [0.0, 0.0]], dtype=dtype)
    from_left = torch.tensor([[-5 / 6, 0.0], [0.0, 0.0], [-1 / 6, 0.0]], dtype=dtype)
    for gradient, turn in zip(gradient_of(name, rows_at((0.5, 0.5), RIGHT, dtype)), TURNS, strict=True):
        errors = [(gradient - one[list(turn)]).abs().max().item() for one in (from_below, from_left)]
        assert min(errors) < 1e-6, gradient


@in_both_precisions
def test_smallest_of_equals_passes_its_gradient_on_whole(dtype: torch.dtype) -> None:
    rows = torch.tensor([[1, 1, 2], [2, 1, 1], [1, 2, 1], [1, 1, 1]], dtype=dtype, requires_grad=True)
    (gradient,) = torch.autograd.grad(probe("triangle", "smallest", rows).sum(), rows)
    assert gradient.sum(dim=1).tolist() == [1.0] * 4
    assert (gradient[rows > rows.amin(dim=1, keepdim=True)] == 0).all()
