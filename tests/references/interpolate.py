"""Attributes at the pixels of a geometry buffer: the twin of `interpolate`, from the definition of its barycentrics."""

from __future__ import annotations

from torch import Tensor

from .rasterize import Geometry


def interpolate(geometry: Geometry, triangles: Tensor, attributes: Tensor) -> tuple[Tensor, Tensor]:
    """[H, W, C] and derivatives [H, W, C, 2], from attributes [V, C]."""
    seen = (geometry.triangle_id >= 0)[..., None]
    corners = attributes[triangles[geometry.triangle_id.clamp(min=0)]]  # [H, W, 3, C]
    u, v = geometry.barycentrics[..., None].unbind(2)
    values = u * corners[..., 0, :] + v * corners[..., 1, :] + (1 - u - v) * corners[..., 2, :]
    along = geometry.barycentric_derivatives.unflatten(-1, (2, 1, 2))  # [H, W, vertex, 1, X or Y]
    sides = corners[..., :2, :] - corners[..., 2:, :]
    slopes = (along * sides[..., None]).sum(2)
    return values * seen, slopes * seen[..., None]
