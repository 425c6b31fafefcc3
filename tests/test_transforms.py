"""`transform`: its value, gradients, batches and errors. What the matrices mean is tested with the
cameras."""

from __future__ import annotations

import pytest
import torch
from torch.autograd import gradcheck

from slangrast.transforms import transform

DOUBLE = torch.float64
POINTS = torch.zeros(5, 3)


def test_transform_gradients_and_value() -> None:
    generator = torch.Generator().manual_seed(3)
    vertices = torch.randn(5, 3, generator=generator, dtype=DOUBLE, requires_grad=True)
    matrix = torch.randn(2, 4, 4, generator=generator, dtype=DOUBLE, requires_grad=True)
    assert gradcheck(transform, (vertices, matrix))
    points = torch.cat((vertices, torch.ones(5, 1, dtype=DOUBLE)), dim=1)
    torch.testing.assert_close(transform(vertices, matrix), torch.einsum("nij,vj->nvi", matrix, points))


def test_transform_batches() -> None:
    assert transform(torch.ones(5, 3), torch.eye(4)).shape == (1, 5, 4)
    assert transform(torch.ones(2, 5, 3), torch.eye(4)).shape == (2, 5, 4)
    assert transform(torch.ones(5, 3), torch.eye(4).expand(2, 4, 4)).shape == (2, 5, 4)


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: transform(torch.zeros(5, 4), torch.eye(4)), ValueError, "transform: vertices must be"),
        (
            lambda: transform(POINTS.expand(2, 5, 3), torch.zeros(3, 4, 4)),
            ValueError,
            "transform: batch sizes",
        ),
        (
            lambda: transform(POINTS, torch.eye(4, device="meta")),
            ValueError,
            "transform: matrix must be on the device",
        ),
        (
            lambda: transform(POINTS, torch.eye(4).double()),
            TypeError,
            "transform: matrix must be torch.float32",
        ),
        (
            lambda: transform(POINTS, torch.eye(3)),
            ValueError,
            r"transform: matrix must be \[4, 4\] or \[N, 4, 4\]",
        ),
    ],
)
def test_transform_errors(make, error, message: str) -> None:
    with pytest.raises(error, match=message):
        make()
