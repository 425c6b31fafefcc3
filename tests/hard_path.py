"""What the tests of the hard path share: a scene through `slangrast.rasterize` and through its float64 torch twin."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import slangrast as sr
from tests import scenes
from tests.references.rasterize import Geometry
from tests.references.rasterize import rasterize as rasterize_reference
from tests.scenes import Scene

FIELDS = ("barycentrics", "depth", "inverse_w", "barycentric_derivatives")
VALUE_TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-11}
GRADIENT_TOLERANCE = {torch.float32: 1e-4, torch.float64: 1e-9}

before_and_around_the_eye = pytest.mark.parametrize(
    "scene", [scenes.three_faces, lambda: scenes.soup_of_both_signs(9, (5, 6), 5)], ids=["before", "around"]
)


def rasterize(one: Scene, **options) -> sr.GeometryBuffer:
    return sr.rasterize(one.positions, one.triangles, one.resolution, **options)


def reference(one: Scene, **options) -> Geometry:
    return rasterize_reference(one.positions.cpu().double(), one.triangles.cpu(), one.resolution, **options)


def relative_error(found: Tensor, expected: Tensor) -> float:
    return ((found.detach().cpu().double() - expected).norm() / expected.norm().clamp(min=1e-3)).item()


def with_neighbours(pixels: Tensor) -> Tensor:
    """[H, W] bool: these pixels, and those beside them, to which blending carries what they hold."""
    return torch.nn.functional.max_pool2d(pixels[None].double(), 3, 1, 1)[0] > 0
