"""Silhouettes blended between neighbouring pixels: the twin of `antialias`.

A pixel lies on a face where the multiples of its vertices that make (X, Y, 1) are all positive
(tests/references/rasterize.py). They are linear on the screen, so an edge is crossed where one of them is 0, and the
direction across the edge is its slope. Gradients are torch's own. Use float64.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from .rasterize import coefficients, pixel_centres


class Pairs(NamedTuple):
    """Neighbouring pixels that see different triangles."""

    first: Tensor  # [P] indices of pixels, row by row
    second: Tensor  # [P] to the right, or below
    axis: Tensor  # [P] 0 along a row, 1 along a column


def different_neighbours(triangle_id: Tensor) -> Pairs:
    """Of an image [H, W]."""
    index = torch.arange(triangle_id.numel()).reshape(triangle_id.shape)
    seen = triangle_id.flatten()
    parts = []
    for axis, (first, second) in enumerate([(index[:, :-1], index[:, 1:]), (index[:-1], index[1:])]):
        differ = seen[first] != seen[second]
        parts.append((first[differ], second[differ], torch.full((int(differ.sum()),), axis)))
    return Pairs(*(torch.cat(part) for part in zip(*parts, strict=True)))


class Exits(NamedTuple):
    """Where lines from pixels on faces to their neighbours leave the faces."""

    edge: Tensor  # [P] the vertex opposite to the edge, or -1: the neighbour is on the face, too
    s: Tensor  # [P] of the way, differentiable
    steepness: Tensor  # [P, 2] how fast the edge is left along rows and columns
    margin: Tensor  # [P] how far the choice of the edge is from any other


def exits(clip: Tensor, at: Tensor, to: Tensor, resolution: tuple[int, int]) -> Exits:
    """Faces [P, 3, 4] and points [P, 2]."""
    here, there = coefficients(clip, at), coefficients(clip, to)
    s = here / (here - there)
    leaves = (there < 0) & (here >= 0)
    candidates = torch.where(leaves, s, torch.inf).detach()
    order = candidates.sort(dim=1)
    edge = order.indices[:, 0]
    height, width = resolution
    steps = at.new_tensor([[2 / width, 0.0], [0.0, -2 / height]])
    slopes = torch.stack([coefficients(clip, at + step) - here for step in steps], dim=2)
    rows = torch.arange(len(clip))
    depth = ((here + s[rows, edge, None] * (there - here)) * clip[..., 2]).sum(1).detach()
    found = leaves.any(1) & (depth.abs() <= 1)  # not cut off before by the near or far plane
    sizes = here.abs().amax(1, keepdim=True)
    margin = torch.minimum(order.values[:, 1] - order.values[:, 0], (there.abs() / sizes).amin(1)).nan_to_num(1.0)
    margin = torch.minimum(margin, torch.where(leaves.any(1), (1 - depth.abs()).abs(), 1.0))
    return Exits(torch.where(found, edge, -1), s[rows, edge], slopes[rows, edge].detach(), margin.detach())


def is_silhouette(positions: Tensor, triangles: Tensor, face: int, k: int) -> bool:
    """No face lies on the other side of the edge of `face` opposite to its vertex k. Equal positions are one vertex."""
    a, b, c = (positions[triangles[face, (k + step) % 3]] for step in (1, 2, 0))
    corners = positions[triangles]
    others = (corners[:, :, None] == torch.stack([a, b])).all(-1)  # [F, 3, 2] which corner is a, which b
    for other in (others.any(1).all(1)).nonzero()[:, 0].tolist():
        third = ~others[other].any(1)
        if other == face or third.sum() != 1:
            continue
        matrix = torch.stack([a, b, c, corners[other][third][0]])[:, [0, 1, 3]]
        if torch.linalg.det(matrix[[0, 1, 2]]) * torch.linalg.det(matrix[[0, 1, 3]]) < 0:
            return False
    return True


class Antialiased(NamedTuple):
    image: Tensor  # [H, W, C]
    doubtful: Tensor  # [H, W] something is decided within rounding
    blended: int  # pairs


def antialias(
    image: Tensor, positions: Tensor, triangles: Tensor, triangle_id: Tensor, depth: Tensor, tolerance: float = 1e-5
) -> Antialiased:
    """`image` [H, W, C], `positions` [V, 4], `triangle_id` and `depth` [H, W]."""
    resolution = (image.shape[0], image.shape[1])
    points, ids = pixel_centres(resolution), triangle_id.flatten().long()
    depths = torch.where(ids >= 0, depth.flatten(), torch.inf).detach()
    pairs = different_neighbours(triangle_id)
    first_is_nearer = depths[pairs.first] <= depths[pairs.second]
    inner = torch.where(first_is_nearer, pairs.first, pairs.second)
    outer = torch.where(first_is_nearer, pairs.second, pairs.first)
    found = exits(positions[triangles[ids[inner]]], points[inner], points[outer], resolution)
    x, y = found.steepness.abs().unbind(1)
    steep = torch.where(pairs.axis == 0, x >= y, x < y)
    silhouette = torch.tensor(
        [
            bool(keep) and is_silhouette(positions.detach(), triangles, int(ids[pixel]), int(edge))
            for keep, pixel, edge in zip(steep & (found.edge >= 0), inner, found.edge, strict=True)
        ],
        dtype=torch.bool,
    )
    share = 0.5 - found.s
    # The inner pixel takes of the outer one's colour where the edge is nearer to it; otherwise the outer one takes.
    receiver = torch.where(share > 0, inner, outer)[silhouette]
    giver = torch.where(share > 0, outer, inner)[silhouette]
    flat = image.flatten(0, 1)
    taken = share[silhouette].abs()[:, None] * (flat[giver] - flat[receiver])
    result = flat.index_add(0, receiver, taken)

    close = (depths[inner] - depths[outer]).abs() < tolerance
    close |= (found.margin < tolerance) | ((x - y).abs() < tolerance * (x + y))
    close |= silhouette & (share.detach().abs() < tolerance)
    doubtful = torch.zeros(len(points), dtype=torch.bool)
    doubtful[pairs.first[close]] = True
    doubtful[pairs.second[close]] = True
    return Antialiased(result.unflatten(0, resolution), doubtful.reshape(resolution), int(silhouette.sum()))
