"""Hard visibility, all pixels against all faces: the twin of `rasterize`.

Each face's vertices (x, y, w) make a 3 x 3 matrix; its inverse times (X, Y, 1) says where on the face a pixel falls
(Olano and Greer, 1997). Gradients are torch's own. Use float64.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class Geometry(NamedTuple):
    triangle_id: Tensor  # [H, W]
    barycentrics: Tensor  # [H, W, 2]
    depth: Tensor  # [H, W]
    inverse_w: Tensor  # [H, W]
    barycentric_derivatives: Tensor  # [H, W, 4]
    doubtful: Tensor  # [H, W] something is decided within `tolerance`


def pixel_centres(resolution: tuple[int, int]) -> Tensor:
    """[H * W, 2] in normalised device coordinates, each from -1 to 1, y up, row 0 at the top."""
    height, width = resolution
    x = (2 * torch.arange(width, dtype=torch.float64) + 1) / width - 1
    y = 1 - (2 * torch.arange(height, dtype=torch.float64) + 1) / height
    return torch.stack([x.expand(height, width), y[:, None].expand(height, width)], dim=-1).reshape(-1, 2)


def coefficients(clip: Tensor, points: Tensor) -> Tensor:
    """[..., 3] The multiples of the vertices [..., 3, 4] whose sum is (X, Y, any z, 1): weights divided by w."""
    columns = clip[..., [0, 1, 3]].transpose(-1, -2)
    target = torch.cat([points, torch.ones_like(points[..., :1])], dim=-1)
    return torch.linalg.solve(columns, target)


def barycentrics(clip: Tensor, points: Tensor) -> Tensor:
    """[..., 3] Perspective-correct weights."""
    multiples = coefficients(clip, points)
    return multiples / multiples.sum(-1, keepdim=True)


def rasterize(
    positions: Tensor,
    triangles: Tensor,
    resolution: tuple[int, int],
    behind: Geometry | None = None,
    tolerance: float = 1e-5,
) -> Geometry:
    """Positions [V, 4], triangles [F, 3]; `behind` a layer to look behind."""
    points = pixel_centres(resolution)
    with torch.no_grad():
        triangle_id, doubtful = _nearest(positions[triangles], points, behind, tolerance)
    seen = triangle_id >= 0
    clip = positions[triangles[triangle_id[seen]]]
    at = points[seen]
    multiples = coefficients(clip, at)
    weights = barycentrics(clip, at)
    # From pixel to pixel: solving for unit steps gives the derivative of the multiples, and the quotient rule the rest.
    slopes = []
    for step in (at.new_tensor([2 / resolution[1], 0, 0]), at.new_tensor([0, -2 / resolution[0], 0])):
        change = torch.linalg.solve(clip[..., [0, 1, 3]].transpose(-1, -2), step.expand(len(clip), 3))
        total = multiples.sum(-1, keepdim=True)
        slopes.append((change * total - multiples * change.sum(-1, keepdim=True)) / total.square())
    derivatives = torch.stack([slopes[0][:, 0], slopes[1][:, 0], slopes[0][:, 1], slopes[1][:, 1]], dim=1)

    def image(values: Tensor) -> Tensor:
        empty = values.new_zeros((len(points), *values.shape[1:]))
        return empty.index_put((seen.nonzero()[:, 0],), values).unflatten(0, resolution)

    return Geometry(
        triangle_id.reshape(resolution),
        image(weights[:, :2]),
        image((multiples * clip[..., 2]).sum(-1)),
        image(multiples.sum(-1)),
        image(derivatives),
        doubtful.reshape(resolution),
    )


def _nearest(clip: Tensor, points: Tensor, behind: Geometry | None, tolerance: float) -> tuple[Tensor, Tensor]:
    """[P] The face that each pixel sees, or -1, and [P] whether rounding might change it."""
    numbers = torch.arange(len(clip))
    target = torch.cat([points, torch.ones_like(points[:, :1])], dim=1)
    singular = torch.linalg.matrix_rank(clip[..., [0, 1, 3]].nan_to_num(0, 0, 0)) < 3
    sound = ~singular & clip.isfinite().flatten(1).all(1)
    best = torch.full((len(points),), -1)
    best_depth = torch.full((len(points),), torch.inf, dtype=torch.float64)
    doubtful = torch.zeros(len(points), dtype=torch.bool)
    for face in numbers[sound]:
        multiples = torch.linalg.solve(clip[face][:, [0, 1, 3]].T, target.T).T
        depth = (multiples * clip[face, :, 2]).sum(-1)
        margin = (multiples / multiples.abs().sum(-1, keepdim=True)).amin(-1)
        margin = torch.minimum(margin, 1 - depth.abs())
        hit = margin >= 0
        near_hit = margin >= -tolerance
        if behind is not None:
            last_id, last_depth = behind.triangle_id.flatten(), behind.depth.flatten()
            rest = (last_id >= 0) & ((depth > last_depth) | ((depth == last_depth) & (face > last_id)))
            doubtful |= behind.doubtful.flatten() | near_hit & ((depth - last_depth).abs() < tolerance) & (
                face != last_id
            )
            hit &= rest & (face != last_id)
        doubtful |= near_hit & ((margin.abs() < tolerance) | ((depth - best_depth).abs() < tolerance))
        nearer = hit & (depth < best_depth)
        best = torch.where(nearer, face, best)
        best_depth = torch.where(nearer, depth, best_depth)
    return best, doubtful
