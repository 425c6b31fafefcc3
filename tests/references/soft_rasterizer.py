"""The whole soft image, all pixels against all faces: the twin of `soft_rasterize`.

Soft Rasterizer (Liu et al., 2019) with clip-space input. Gradients are torch's own. Use float64.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from . import aggregation, coverage, interpolation

SLIVER = 1e-6  # of the squared longest edge: below it a face has no area
RANGE_MARGIN = 1e-5  # rounding must not drop a face that lies on the near or the far plane


class SoftImage(NamedTuple):
    color: Tensor
    silhouette: Tensor
    depth: Tensor


class Fragments(NamedTuple):
    """Every pixel against every face that can be seen at all."""

    corners: Tensor  # [F, 3, 2] screen coordinates
    barycentrics: Tensor  # [P, F, 3] not clipped
    attribute_weights: Tensor  # [P, F, 3]
    inside: Tensor  # [P, F]
    log_coverage: Tensor  # [P, F]
    view_depth: Tensor  # [P, F]
    closeness: Tensor  # [P, F] 1 at the near plane, 0 at the far plane
    range_margin: Tensor  # [P, F] how far inside the near and far planes (relative), negative outside
    kept: Tensor  # [P, F]


def pixel_centres(resolution: tuple[int, int], like: Tensor) -> Tensor:
    """[H * W, 2] Screen coordinates of the pixel centres, row 0 at the top."""
    height, width = resolution
    columns = torch.arange(width, dtype=like.dtype, device=like.device)
    rows = torch.arange(height, dtype=like.dtype, device=like.device)
    x = (2 * columns + 1 - width) / min(resolution)
    y = (height - 2 * rows - 1) / min(resolution)
    return torch.stack([x.expand(height, width), y[:, None].expand(height, width)], dim=-1).reshape(-1, 2)


def project(clip: Tensor, resolution: tuple[int, int]) -> Tensor:
    """[..., 2] Screen coordinates of clip-space positions [..., 4]."""
    height, width = resolution
    scale = clip.new_tensor([width, height]) / min(resolution)
    return clip[..., :2] / clip[..., 3:] * scale


def visible_faces(positions: Tensor, triangles: Tensor, resolution: tuple[int, int], cull_backfaces: bool) -> Tensor:
    """The rows of `triangles` that can contribute: finite, before the eye, with an area, and not culled."""
    clip = positions.detach()[triangles]
    corners = project(clip, resolution)
    finite = clip.isfinite().all(-1) & corners.isfinite().all(-1) & (clip[..., 2] / clip[..., 3]).isfinite()
    area = coverage.double_area(corners)
    longest = (corners.roll(-1, dims=1) - corners).square().sum(-1).max(dim=1).values
    keep = finite.all(dim=1) & (clip[..., 3] > 0).all(dim=1) & (area.abs() > SLIVER * longest)
    if cull_backfaces:
        keep &= area > 0
    return triangles[keep]


def fragments(
    points: Tensor,
    clip: Tensor,
    resolution: tuple[int, int],
    sigma: Tensor,
    near: float,
    far: float,
    depth: str,
    kind: str,
    perspective_correct: bool,
    cutoff: float,
) -> Fragments:
    """Pixels at `points` [P, 2] against faces with clip-space corners [F, 3, 4]."""
    corners, z, w = project(clip, resolution), clip[..., 2], clip[..., 3]
    barycentrics = coverage.barycentrics(points, corners)
    weights = interpolation.clip_barycentrics(barycentrics)
    view_depth = interpolation.view_depth(weights, w)
    if depth == "view":
        closeness = (far - view_depth) / (far - near)
        beyond_near = view_depth / (near * (1 - RANGE_MARGIN)) - 1
        range_margin = torch.minimum(beyond_near, 1 - view_depth / (far * (1 + RANGE_MARGIN)))
    elif depth == "ndc":
        z_ndc = interpolation.ndc_depth(weights, z, w)
        closeness = (1 - z_ndc) / 2
        range_margin = 1 + RANGE_MARGIN - z_ndc.abs()
    else:
        raise ValueError(f"unknown depth {depth}")
    log_coverage = coverage.log_coverage(kind, points, corners, sigma)
    kept = (range_margin >= 0) & (log_coverage.exp() >= cutoff) & (log_coverage > -torch.inf)
    return Fragments(
        corners,
        barycentrics,
        interpolation.attribute_weights(weights, w, perspective_correct),
        coverage.inside(points, corners),
        log_coverage,
        view_depth,
        closeness,
        range_margin,
        kept,
    )


def _background_image(background, resolution: tuple[int, int], count: int, channels: int, like: Tensor) -> Tensor:
    """[N, H * W, C] from a scalar, [C], [N, C] or [N, H, W, C]."""
    background = torch.as_tensor(0.0 if background is None else background, dtype=like.dtype, device=like.device)
    if background.ndim == 2:
        background = background[:, None, None]
    return background.expand(count, *resolution, channels).flatten(1, 2)


def _per_image(value, count: int, like: Tensor) -> Tensor:
    return torch.as_tensor(value, dtype=like.dtype, device=like.device).expand(count)


def soft_rasterize(
    positions: Tensor,
    triangles: Tensor,
    attributes: Tensor,
    resolution: tuple[int, int],
    *,
    sigma=1e-4,
    gamma=1e-4,
    epsilon=1e-3,
    background=None,
    near: float = 1.0,
    far: float = 100.0,
    depth: str = "view",
    coverage: str = "squared_distance",
    falloff: str = "logistic",
    aggregation: str = "softmax",
    silhouette: str = "probabilistic",
    perspective_correct: bool = True,
    cull_backfaces: bool = False,
    cutoff: float = 1e-4,
    pixels: Tensor | None = None,
    fragment: Callable[[Tensor], Tensor] | None = None,
) -> SoftImage:
    """As `slangrast.soft_rasterize`; `fragment` shades attributes [P, F, A] to colours [P, F, C].

    With `pixels` [P] (row * W + column) images are [N, P, C] and [N, P].
    """
    assert falloff == "logistic"
    if positions.ndim == 2:
        positions = positions[None]
    count, channels = positions.shape[0], attributes.shape[-1]
    if fragment is not None:
        channels = fragment(attributes.new_zeros(1, 1, channels)).shape[-1]
    attributes = attributes.expand(count, -1, -1)
    background = _background_image(background, resolution, count, channels, positions)
    points = pixel_centres(resolution, positions)
    if pixels is not None:
        points, background = points[pixels], background[:, pixels]
    sigma, gamma, epsilon = (_per_image(value, count, positions) for value in (sigma, gamma, epsilon))
    images = []
    for n in range(count):
        faces = visible_faces(positions[n], triangles.long(), resolution, cull_backfaces)
        seen = fragments(
            points,
            positions[n][faces],
            resolution,
            sigma[n],
            near,
            far,
            depth,
            coverage,
            perspective_correct,
            cutoff,
        )
        images.append(
            _aggregate(
                seen, attributes[n][faces], background[n], aggregation, silhouette, gamma[n], epsilon[n], far, fragment
            )
        )
    image = SoftImage(*(torch.stack(parts) for parts in zip(*images, strict=True)))
    if pixels is not None:
        return image
    return SoftImage(*(part.reshape(count, *resolution, *part.shape[2:]) for part in image))


def _aggregate(
    seen: Fragments,
    attributes: Tensor,
    background: Tensor,
    kind: str,
    silhouette: str,
    gamma,
    epsilon,
    far: float,
    fragment: Callable[[Tensor], Tensor] | None,
) -> SoftImage:
    weights = aggregation.fragment_weights(
        kind, seen.log_coverage, seen.closeness, seen.inside, seen.kept, gamma, epsilon
    )
    faces, rest = weights[:, :-1], weights[:, -1:]
    shaded = torch.einsum("pfk,fkc->pfc", seen.attribute_weights, attributes)
    if fragment is not None:
        shaded = fragment(shaded)
    color = torch.einsum("pf,pfc->pc", faces, shaded) + rest * background
    depth = (faces * seen.view_depth).sum(dim=1) + rest[:, 0] * far
    return SoftImage(color, aggregation.silhouette(silhouette, seen.log_coverage, seen.kept), depth)


def soft_silhouette(positions: Tensor, triangles: Tensor, resolution: tuple[int, int], **options) -> Tensor:
    """As `slangrast.soft_silhouette`."""
    empty = positions.new_zeros(*positions.shape[:-1], 0)
    return soft_rasterize(positions, triangles, empty, resolution, **options).silhouette
