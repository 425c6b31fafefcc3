"""The functions of interpolation.slang, each alone: clipped weights, two depths, and attributes in perspective."""

from __future__ import annotations

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
from tests.references import coverage, interpolation

ROWS = 300
CORNERS = [0.0, 0.0, 0.5, 1.0, 4.0, 0.0, 0.5, 1.0, 0.0, 4.0, 0.5, 1.0]  # a face


def clipped(rows: Tensor) -> Tensor:
    return row_by_row(coverage.barycentrics)(rows[:, :2], corners_of(rows[:, 2:])).clamp(0, 1)


def clipped_on_screen(rows: Tensor) -> Tensor:
    weights = row_by_row(coverage.barycentrics)(rows[:, :2], corners_of(rows[:, 2:]))
    return interpolation.clip_barycentrics(weights)


def weights_and_faces(count: int, seed: int = 0) -> Tensor:
    """[count, 15] Weights of any sum, and faces."""
    weights = torch.rand(count, 3, generator=generator(seed), dtype=torch.float64)
    return torch.cat([weights, random_faces(count, seed)], dim=1)


def split(rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Weights of sum 1, and z and w of the vertices: all [R, 3], from rows of weights, z/w and 1/w."""
    depth, inverse_w = rows[:, 3:].reshape(-1, 3, 4)[..., 2:].unbind(dim=2)
    return rows[:, :3] / rows[:, :3].sum(dim=1, keepdim=True), depth / inverse_w, 1 / inverse_w


def view_depth(rows: Tensor) -> Tensor:
    weights, _, w = split(rows)
    return interpolation.view_depth(weights[:, None], w[:, None])


def ndc_depth(rows: Tensor) -> Tensor:
    weights, z, w = split(rows)
    return interpolation.ndc_depth(weights[:, None], z[:, None], w[:, None])


def perspective_correct(rows: Tensor) -> Tensor:
    weights, _, w = split(rows)
    return interpolation.attribute_weights(weights[:, None], w[:, None], True)[:, 0]


@on_every_engine
def test_clipped_barycentrics(device: str, dtype: torch.dtype) -> None:
    rows = pixels_and_faces(ROWS)
    zeros = (clipped(rows) == 0).sum(dim=1)
    assert all((zeros == count).sum() > 20 for count in range(3))  # inside, beside an edge, beside a vertex
    assert_agrees("interpolation", "clipped_barycentrics", clipped, rows, device, dtype, constants=2)
    assert_agrees("interpolation", "clipped_on_screen", clipped_on_screen, rows, device, dtype, constants=2)


@on_every_engine
@pytest.mark.parametrize("function", [view_depth, ndc_depth, perspective_correct])
def test_of_weights_and_a_face(function, device: str, dtype: torch.dtype) -> None:
    rows = weights_and_faces(ROWS)
    assert_agrees("interpolation", function.__name__, function, rows, device, dtype)


@on_every_engine
def test_interpolate(device: str, dtype: torch.dtype) -> None:
    def reference(rows: Tensor) -> Tensor:
        def one(weights: Tensor, values: Tensor) -> Tensor:
            return interpolation.interpolate(weights[None, None], values[None, :, None])[0, 0]

        return torch.vmap(one)(rows[:, :3], rows[:, 3:])

    rows = torch.randn(ROWS, 6, generator=generator(3), dtype=torch.float64)
    assert_agrees("interpolation", "interpolate", reference, rows, device, dtype)


# Properties


@in_both_precisions
def test_clipped_weights_are_weights(dtype: torch.dtype) -> None:
    weights = probe("interpolation", "clipped_on_screen", pixels_and_faces(ROWS, 4).to(dtype), 3)
    assert weights.min() >= 0 and weights.max() <= 1
    torch.testing.assert_close(weights.sum(dim=1), torch.ones(ROWS, dtype=dtype))


def test_inside_a_face_nothing_is_clipped() -> None:
    found = probe("interpolation", "clipped_barycentrics", torch.tensor([[1.0, 1.0, *CORNERS]], dtype=torch.float64), 3)
    assert found.tolist() == [[0.5, 0.25, 0.25]]


@in_both_precisions
def test_perspective_correct_weights_give_the_point_in_space(dtype: torch.dtype) -> None:
    """Vertices in space, seen from the origin: the weighted vertices lie on the ray through the pixel, at its depth."""
    numbers = generator(5)
    vertices = torch.randn(ROWS, 3, 3, generator=numbers, dtype=torch.float64)
    vertices[..., 2] = 1 + 9 * torch.rand(ROWS, 3, generator=numbers, dtype=torch.float64)
    screen, w = vertices[..., :2] / vertices[..., 2:], vertices[..., 2:]
    weights = split(weights_and_faces(ROWS, 5))[0]
    faces = torch.cat([screen, torch.zeros_like(w), 1 / w], dim=2).flatten(1)
    rows = torch.cat([weights, faces], dim=1).to(dtype)
    found = probe("interpolation", "perspective_correct", rows, 3)
    depth = probe("interpolation", "view_depth", rows)
    tolerance = {"rtol": 10 * VALUE_TOLERANCE[dtype], "atol": 10 * VALUE_TOLERANCE[dtype]}
    torch.testing.assert_close(found.sum(dim=1), torch.ones(ROWS, dtype=dtype), **tolerance)

    pixel = (weights[..., None] * screen).sum(dim=1)
    point = torch.cat([pixel, torch.ones(ROWS, 1, dtype=torch.float64)], dim=1) * depth.double()
    torch.testing.assert_close((found.double()[..., None] * vertices).sum(dim=1), point, **tolerance)


@in_both_precisions
def test_equal_depths_need_no_correction(dtype: torch.dtype) -> None:
    rows = weights_and_faces(20).to(dtype)
    rows[:, [6, 10, 14]] = 0.25  # 1/w of each vertex
    rows[:, :3] = split(rows)[0]
    torch.testing.assert_close(probe("interpolation", "perspective_correct", rows, 3), rows[:, :3])
    torch.testing.assert_close(probe("interpolation", "view_depth", rows), torch.full((20, 1), 4.0, dtype=dtype))


# Kinks


@in_both_precisions
@pytest.mark.parametrize("point", [(0.0, 0.0), (4.0, 0.0), (0.0, 4.0), (1.0, 0.0), (0.0, 3.0), (2.0, 2.0)])
def test_on_the_border_the_gradient_is_one_sided(point: tuple, dtype: torch.dtype) -> None:
    """On a vertex or an edge clipping begins: the gradient is that of the pixel moved by a hair to some side."""
    cotangent = torch.tensor([[0.3, -1.1, 0.7]], dtype=dtype)

    def gradient(dx: float, dy: float) -> Tensor:
        row = torch.tensor([[point[0] + dx, point[1] + dy, *CORNERS]], dtype=dtype, requires_grad=True)
        return torch.autograd.grad(probe("interpolation", "clipped_barycentrics", row, 3), row, cotangent)[0][0, 2:]

    hair = 1e-5
    steps = [(x, y) for x in (-2 * hair, -hair, 0, hair, 2 * hair) for y in (-2 * hair, -hair, 0, hair, 2 * hair)]
    around = [gradient(*step) for step in steps if step != (0, 0)]
    at = gradient(0, 0)
    assert at.isfinite().all()
    assert min((at - side).abs().max().item() for side in around) < 1e-4
