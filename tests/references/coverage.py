"""How much each face covers each pixel: the twin of `coverage.slang`.

Soft Rasterizer (Liu, Li, Chen, Li; ICCV 2019): `D = sigmoid(delta d^2 / sigma)`, and its variants.
Everything is in screen coordinates (y up, half of the shorter image side is 1), all pixels against all faces:
`points` is [P, 2], `corners` is [F, 3, 2], results are [P, F] or [P, F, 3].
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid


def cross(a: Tensor, b: Tensor) -> Tensor:
    return a[..., 0] * b[..., 1] - a[..., 1] * b[..., 0]


def double_area(corners: Tensor) -> Tensor:
    """[F] Twice the signed area, positive for a counter-clockwise face."""
    return cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])


def edge_functions(points: Tensor, corners: Tensor) -> Tensor:
    """[P, F, 3] `E_k = cross(v_{k+1} - v_k, p - v_k)`, positive to the left of the edge."""
    edges = corners.roll(-1, dims=1) - corners
    return cross(edges, points[:, None, None] - corners)


def barycentrics(points: Tensor, corners: Tensor) -> Tensor:
    """[P, F, 3] The weight of vertex k is the edge function of the edge opposite to it, over their sum."""
    return edge_functions(points, corners).roll(-1, dims=2) / double_area(corners)[:, None]


def inside(points: Tensor, corners: Tensor) -> Tensor:
    return (barycentrics(points, corners) >= 0).all(dim=2)


def offsets_from_edges(points: Tensor, corners: Tensor) -> Tensor:
    """[P, F, 3, 2] From the nearest point of each edge, ends included, to the pixel."""
    edges = corners.roll(-1, dims=1) - corners
    offsets = points[:, None, None] - corners
    along = ((offsets * edges).sum(-1) / (edges * edges).sum(-1)).clamp(0, 1)
    return offsets - along[..., None] * edges


def squared_distances_to_edges(points: Tensor, corners: Tensor) -> Tensor:
    """[P, F, 3]"""
    return offsets_from_edges(points, corners).square().sum(-1)


def squared_distance(points: Tensor, corners: Tensor) -> Tensor:
    return squared_distances_to_edges(points, corners).min(dim=2).values


def safe_sqrt(x: Tensor) -> Tensor:
    """Square root whose gradient at 0 is 0 (the distance has a kink there) rather than infinite."""
    positive = x > 0
    return torch.where(positive, torch.where(positive, x, 1.0).sqrt(), 0.0)


def log_coverage(kind: str, points: Tensor, corners: Tensor, sigma: Tensor) -> Tensor:
    """[P, F] `log D` for the coverage `kind` with the logistic falloff; -inf where D = 0."""
    is_inside = inside(points, corners)
    if kind == "hard":
        return torch.where(is_inside, 0.0, -torch.inf).to(points)
    if kind == "edge_product":
        towards_inside = edge_functions(points, corners) * double_area(corners).sign()[:, None]
        return logsigmoid(towards_inside / sigma).sum(dim=2)
    if kind == "barycentric":
        smallest = barycentrics(points, corners).min(dim=2).values
        return logsigmoid(smallest * smallest.abs() / sigma)
    sign = torch.where(is_inside, 1.0, -1.0).to(points)
    if kind == "squared_distance":
        return logsigmoid(sign * squared_distance(points, corners) / sigma)
    if kind == "distance":
        return logsigmoid(sign * safe_sqrt(squared_distance(points, corners)) / sigma)
    raise ValueError(f"unknown coverage {kind}")
