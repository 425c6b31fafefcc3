"""Where an exact comparison means nothing: pixels at which the image or its derivative jumps within rounding.

A fragment at the cutoff or at the near or far plane, a tie for the nearest face: the value itself jumps. A
pixel on the line of an edge, on a medial axis, a tie for the largest coverage, a silhouette sum of 1: the
derivative does. Tests give those pixels no weight, check that they are few, and test kinks on their own.
"""

from __future__ import annotations

from math import log

import torch
from torch import Tensor

from . import coverage as coverage_reference
from . import soft_rasterizer
from .soft_rasterizer import Fragments


def kinked_pixels(
    positions: Tensor,
    triangles: Tensor,
    resolution: tuple[int, int],
    tolerance: float,
    *,
    sigma=1e-4,
    near: float = 1.0,
    far: float = 100.0,
    depth: str = "view",
    coverage: str = "squared_distance",
    aggregation: str = "softmax",
    silhouette: str = "probabilistic",
    cull_backfaces: bool = False,
    cutoff: float = 1e-4,
    **_,
) -> tuple[Tensor, Tensor]:
    """([N, H, W], [N, H, W]) bool: where the value jumps; where the value or its derivative jumps."""
    positions = positions.detach() if positions.ndim == 3 else positions.detach()[None]
    points = soft_rasterizer.pixel_centres(resolution, positions)
    sigma = torch.as_tensor(sigma, dtype=positions.dtype).detach().expand(len(positions))
    jumps, bends = [], []
    for n, one in enumerate(positions):
        faces = soft_rasterizer.visible_faces(one, triangles.long(), resolution, cull_backfaces)
        seen = soft_rasterizer.fragments(
            points, one[faces], resolution, sigma[n], near, far, depth, coverage, True, cutoff
        )
        relevant = (seen.log_coverage > log(cutoff) - 1) & (seen.range_margin > -tolerance)
        jump = _thresholds(seen, cutoff, tolerance)
        if coverage == "hard":
            jump |= _on_an_edge_line(seen, tolerance)
        if aggregation == "hard":
            jump |= _on_an_edge_line(seen, tolerance) | _inside_ties(seen, tolerance)
        bend = _on_an_edge_line(seen, tolerance) | _medial_axes(seen, points, coverage, tolerance)
        jumps.append((jump & relevant).any(dim=1))
        bends.append((bend & relevant).any(dim=1))
        if coverage != "hard":  # whose coverage is constant
            bends[-1] |= _silhouette_bends(seen, points, silhouette, tolerance)
    shape = (len(positions), *resolution)
    jump = torch.stack(jumps).reshape(shape)
    return jump, jump | torch.stack(bends).reshape(shape)


def _thresholds(seen: Fragments, cutoff: float, tolerance: float) -> Tensor:
    at_cutoff = (seen.log_coverage - log(cutoff)).abs() < tolerance * (1 - log(cutoff))
    return at_cutoff | (seen.range_margin.abs() < tolerance)


def _on_an_edge_line(seen: Fragments, tolerance: float) -> Tensor:
    """A barycentric of 0 or 1: the face's inside ends, or the clipping begins."""
    weights = seen.barycentrics
    return torch.minimum(weights.abs(), (weights - 1).abs()).amin(dim=2) < tolerance


def _inside_ties(seen: Fragments, tolerance: float) -> Tensor:
    """[P, F] Fragments as close as the nearest one, where there are two or more."""
    if seen.kept.shape[1] < 2:
        return torch.zeros_like(seen.kept)
    closeness = torch.where(seen.inside & seen.kept, seen.closeness, -torch.inf)
    best = closeness.topk(2, dim=1).values
    tie = (best[:, 0] - best[:, 1] < tolerance) & best[:, 1].isfinite()
    return tie[:, None] & (seen.inside & seen.kept)


def _medial_axes(seen: Fragments, points: Tensor, coverage: str, tolerance: float) -> Tensor:
    """Two edges (or two barycentrics) equally near. Two edges that meet in the nearest vertex are no kink."""
    if coverage == "barycentric":
        two = seen.barycentrics.sort(dim=2).values[..., :2]
        return two[..., 1] - two[..., 0] < tolerance
    if coverage in ("squared_distance", "distance"):
        two = coverage_reference.squared_distances_to_edges(points, seen.corners).sort(dim=2).values[..., :2]
        return seen.inside & (two[..., 1] - two[..., 0] < tolerance * two[..., 1])
    return torch.zeros_like(seen.inside)


def _nearest_edge_points(seen: Fragments, points: Tensor) -> Tensor:
    """[P, F, 2] The point of each face's outline that is nearest to each pixel."""
    offsets = coverage_reference.offsets_from_edges(points, seen.corners)
    nearest = offsets.square().sum(-1).argmin(dim=2)[..., None, None].expand(*offsets.shape[:2], 1, 2)
    return points[:, None] - offsets.gather(2, nearest)[:, :, 0]


def _silhouette_bends(seen: Fragments, points: Tensor, kind: str, tolerance: float) -> Tensor:
    coverage = torch.where(seen.kept, seen.log_coverage, -torch.inf).exp()
    if kind == "sum":
        return (coverage.sum(dim=1) - 1).abs() < tolerance
    if kind == "max" and coverage.shape[1] > 1:
        two, faces = coverage.topk(2, dim=1)
        nearest = _nearest_edge_points(seen, points).gather(1, faces[..., None].expand(-1, -1, 2))
        apart = (nearest[:, 0] - nearest[:, 1]).norm(dim=1) > tolerance  # else they move as one
        return apart & (two[:, 0] - two[:, 1] < tolerance * two[:, 0]) & (two[:, 1] > 0) & (two[:, 0] < 1 - 1e-12)
    return torch.zeros(coverage.shape[0], dtype=torch.bool, device=coverage.device)
