"""Visibility edges between neighbouring pixels: the twins of `antialias` and `edge_gradients`.

A pixel lies on a face where the multiples of its vertices that make (X, Y, 1) are all positive
(tests/references/rasterize.py). They are linear on the screen, so an edge is crossed where one of them is 0, and the
direction across the edge is its slope. Pairs are decided one by one; gradients are torch's own. Use float64.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from .rasterize import coefficients, pixel_centres


class Pairs(NamedTuple):
    """Neighbouring pixels that see different triangles, as indices of pixels [P], row by row."""

    first: Tensor
    second: Tensor  # to the right, or below
    axis: Tensor  # 0 along a row, 1 along a column


def different_neighbours(triangle_id: Tensor) -> Pairs:
    """Of an image [H, W]."""
    index = torch.arange(triangle_id.numel()).reshape(triangle_id.shape)
    seen = triangle_id.flatten()
    parts = []
    for axis, (first, second) in enumerate([(index[:, :-1], index[:, 1:]), (index[:-1], index[1:])]):
        differ = seen[first] != seen[second]
        parts.append((first[differ], second[differ], torch.full((int(differ.sum()),), axis)))
    return Pairs(*(torch.cat(part) for part in zip(*parts, strict=True)))


class End(NamedTuple):
    """Where the line from one pixel to its neighbour leaves a surface, or one triangle of it."""

    face: int
    edge: int  # the vertex opposite to it, or -1: it is not left
    s: float
    margin: float  # how far the choice was from another


class Surface:
    """A mesh [V, 4], [F, 3] seen in an image."""

    def __init__(self, positions: Tensor, triangles: Tensor, resolution: tuple[int, int]) -> None:
        self.corners = positions.detach()[triangles]  # [F, 3, 4]
        height, width = resolution
        self.steps = torch.tensor([[2 / width, 0.0], [0.0, -2 / height]], dtype=torch.float64)
        # Equal positions are one vertex.
        self.equal = (self.corners[:, :, None, None] == self.corners).all(-1)  # [F, 3, F, 3]

    def exit(self, face: int, p: Tensor, q: Tensor) -> End:
        clip = self.corners[face]
        here, there = coefficients(clip, p), coefficients(clip, q)
        s = torch.where(there < here, here / (here - there), torch.inf)
        order = s.sort()
        first, edge = float(order.values[0]), int(order.indices[0])
        margin = min(float(order.values[1]) - first, abs(1 - first))
        if first > 1:
            return End(face, -1, 1.0, margin)
        depth = abs(float(((here + first * (there - here)) * clip[:, 2]).sum()))
        return End(face, edge if depth <= 1 else -1, first, min(margin, abs(1 - depth)))

    def beyond(self, face: int, edge: int) -> int:
        """The face on the other side of an edge, or -1."""
        ends = [(edge + 1) % 3, (edge + 2) % 3]
        volume = torch.linalg.det(self.corners[face][[*ends, edge]][:, [0, 1, 3]])
        at_ends = self.equal[face, ends]  # [2, F, 3]
        for other in at_ends.any(2).all(0).nonzero()[:, 0].tolist():
            third = ~at_ends[:, other].any(0)
            if other == face or int(third.sum()) != 1:
                continue
            matrix = torch.cat([self.corners[face][ends], self.corners[other][third]])[:, [0, 1, 3]]
            if torch.linalg.det(matrix) * volume < 0:
                return int(other)
        return -1

    def end(self, face: int, p: Tensor, q: Tensor) -> End:
        """Over edges that are no silhouettes, up to 32 triangles."""
        margin = 1.0
        for _ in range(32):
            exit = self.exit(face, p, q)
            margin = min(margin, exit.margin)
            if exit.edge < 0 or (beyond := self.beyond(face, exit.edge)) < 0:
                return exit._replace(margin=margin)
            face = beyond
        return End(face, -1, 1.0, 0.0)

    def across(self, face: int, edge: int, p: Tensor) -> Tensor:
        """[2] The direction across an edge, in pixels."""
        clip = self.corners[face]
        return torch.stack([coefficients(clip, p + step)[edge] - coefficients(clip, p)[edge] for step in self.steps])

    def depth(self, face: int, p: Tensor) -> float:
        """Of the plane."""
        return float((coefficients(self.corners[face], p) * self.corners[face][:, 2]).sum())


def edge_crossings(positions: Tensor, triangles: Tensor, ends: list[End], p: Tensor, q: Tensor) -> Tensor:
    """[P] Where the edges are crossed between points p and q [P, 2]. Differentiable."""
    clip = positions[triangles[[end.face for end in ends]]]
    edge = torch.tensor([end.edge for end in ends], dtype=torch.long)[:, None]
    here, there = coefficients(clip, p).gather(1, edge)[:, 0], coefficients(clip, q).gather(1, edge)[:, 0]
    return here / (here - there)


class Antialiased(NamedTuple):
    image: Tensor  # [H, W, C]
    doubtful: Tensor  # [H, W] something is decided within rounding
    blended: int  # pairs


def antialias(
    image: Tensor, positions: Tensor, triangles: Tensor, triangle_id: Tensor, depth: Tensor, tolerance: float = 1e-5
) -> Antialiased:
    """`image` [H, W, C], `positions` [V, 4], `triangle_id` and `depth` [H, W]."""
    resolution = (image.shape[0], image.shape[1])
    points, ids = pixel_centres(resolution), triangle_id.flatten().tolist()
    depths = torch.where(triangle_id.flatten() >= 0, depth.flatten(), torch.inf).tolist()
    surface = Surface(positions, triangles, resolution)
    doubtful = torch.zeros(len(points), dtype=torch.bool)
    found = []  # end, inner pixel, outer pixel
    for first, second, axis in torch.stack(different_neighbours(triangle_id), dim=1).tolist():
        inner, outer = (first, second) if depths[first] <= depths[second] else (second, first)
        end = surface.end(ids[inner], points[inner], points[outer])
        margin = min(end.margin, abs(depths[first] - depths[second]))
        if end.edge >= 0:
            x, y = surface.across(end.face, end.edge, points[inner]).abs().tolist()
            margin = min(margin, abs(x - y) / (x + y), abs(0.5 - end.s))
            if x >= y if axis == 0 else x < y:
                found.append((end, inner, outer))
        if margin < tolerance:
            doubtful[[first, second]] = True
    if not found:
        return Antialiased(image, doubtful.reshape(resolution), 0)
    ends, inner, outer = zip(*found, strict=True)
    inner, outer = torch.tensor(inner), torch.tensor(outer)
    share = 0.5 - edge_crossings(positions, triangles, list(ends), points[inner], points[outer])
    # The inner pixel takes of the outer one's colour where the edge is nearer to it; otherwise the outer one takes.
    receiver, giver = torch.where(share > 0, inner, outer), torch.where(share > 0, outer, inner)
    flat = image.flatten(0, 1)
    result = flat.index_add(0, receiver, share.abs()[:, None] * (flat[giver] - flat[receiver]))
    return Antialiased(result.unflatten(0, resolution), doubtful.reshape(resolution), len(found))


class EdgeGradients(NamedTuple):
    positions: Tensor  # [V, 4]
    doubtful: Tensor  # [H, W]
    silhouettes: int  # pairs
    crossings: int


def edge_gradients(
    image: Tensor,
    grad_image: Tensor,
    positions: Tensor,
    triangles: Tensor,
    triangle_id: Tensor,
    tolerance: float = 1e-5,
) -> EdgeGradients:
    """Of `image` and `grad_image` [H, W, C], `positions` [V, 4], `triangle_id` [H, W]."""
    resolution = (image.shape[0], image.shape[1])
    points, ids = pixel_centres(resolution), triangle_id.flatten().tolist()
    surface = Surface(positions, triangles, resolution)
    doubtful = torch.zeros(len(points), dtype=torch.bool)
    colour, grad = image.detach().flatten(0, 1), grad_image.flatten(0, 1)
    edges, crossings = [], []
    for first, second, axis in torch.stack(different_neighbours(triangle_id), dim=1).tolist():
        a, b, p, q = ids[first], ids[second], points[first], points[second]
        weight = float((grad[first] + grad[second]) @ (colour[first] - colour[second])) / 2
        end_a = surface.end(a, p, q) if a >= 0 else End(-1, -1, 1.0, 1.0)
        end_b = surface.end(b, q, p) if b >= 0 else End(-1, -1, 1.0, 1.0)
        margin = min(end_a.margin, end_b.margin)
        chosen = end_a if end_a.edge >= 0 else end_b
        if a >= 0 and b >= 0:
            low, high = 1 - surface.exit(b, q, p).s, surface.exit(a, p, q).s

            def apart(point: Tensor, a: int = a, b: int = b) -> float:
                return surface.depth(a, point) - surface.depth(b, point)

            at_low, at_high = apart(p + low * (q - p)), apart(p + high * (q - p))
            margin = min(margin, abs(high - low - 1 / 256))
            if high - low > 1 / 256:
                margin = min(margin, abs(at_low), abs(at_high))
            if high - low > 1 / 256 and apart(q) - apart(p) > 1e-6 and at_low < 0 < at_high:
                slope = torch.tensor([apart(p + step) - apart(p) for step in surface.steps], dtype=torch.float64)
                share = float(slope[axis] ** 2 / slope.square().sum())
                if share > 1e-4:
                    crossings.append((a, b, p, q, weight * share))
                chosen = End(-1, -1, 1.0, 1.0)
            elif end_a.edge >= 0 and end_b.edge >= 0:
                margin = min(margin, abs(at_low + at_high))
                chosen = end_a if at_low + at_high < 0 else end_b
        if chosen.edge >= 0:
            slope = surface.across(chosen.face, chosen.edge, p)
            share = float(slope[axis] ** 2 / slope.square().sum())
            edges.append((chosen, p, q, weight * share))
        if margin < tolerance:
            doubtful[[first, second]] = True
    total = positions.sum() * 0
    if edges:
        ends, p, q, weights = zip(*edges, strict=True)
        s = edge_crossings(positions, triangles, list(ends), torch.stack(p), torch.stack(q))
        total = total + (s * torch.tensor(weights, dtype=s.dtype)).sum()
    for a, b, p, q, weight in crossings:
        depth = [
            [
                (coefficients(positions[triangles[face]], point) * positions[triangles[face], 2]).sum()
                for point in (p, q)
            ]
            for face in (a, b)
        ]
        at_p, at_q = depth[0][0] - depth[1][0], depth[0][1] - depth[1][1]
        total = total + weight * at_p / (at_p - at_q)
    (gradient,) = torch.autograd.grad(total, positions)
    return EdgeGradients(gradient, doubtful.reshape(resolution), len(edges), len(crossings))
