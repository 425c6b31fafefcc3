"""Attributes of vertices at the pixels of a geometry buffer, by the kernel of shaders/interpolate.slang."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch.autograd.function import once_differentiable

from .arguments import Scene, check_attributes
from .op_modules import op_module
from .rasterize import GeometryBuffer, run_of


def interpolate(
    geometry: GeometryBuffer, attributes: torch.Tensor, *, derivatives: bool | Sequence[int] = False
) -> torch.Tensor | tuple[torch.Tensor, torch.Tensor]:
    """Give each pixel the attributes of its triangle, interpolated perspective-correctly between the vertices.

    With u, v the barycentrics of a pixel, and A_0, A_1, A_2 the attributes of its triangle's vertices, the value is
    u A_0 + v A_1 + (1 - u - v) A_2. Call it once for each set of attributes: one `rasterize` serves them all.

    Args:
        geometry: what `rasterize` or `peel` returned. Gradients reach its positions through the barycentrics.
        attributes: [N, V, C] or [V, C] float, any C. Differentiable.
        derivatives: True to have the derivatives of all channels on the screen too, or the indices of the channels
            whose derivatives are wanted, such as (0, 1).

    Returns:
        [N, H, W, C], 0 where the image is empty. With `derivatives`, also [N, H, W, K, 2] for the K channels chosen:
        d/dX and d/dY of each, per pixel, X to the right and Y down. Both are differentiable.

    Raises:
        ValueError: attributes have not the shape above, or are on another device; there is no such channel.
        TypeError: an argument is not of the type above.

    Example:
        >>> import slangrast as sr
        >>> floor = sr.plane()
        >>> positions = sr.Camera.look_at((0.0, -3.0, 2.0)).project(floor.vertices)
        >>> geometry = sr.rasterize(positions, floor.triangles, (64, 64))
        >>> uv, slopes = sr.interpolate(geometry, floor.uv, derivatives=True)
        >>> uv.shape, slopes.shape
        (torch.Size([1, 64, 64, 2]), torch.Size([1, 64, 64, 2, 2]))
        >>> normals = sr.interpolate(geometry, floor.vertex_normals())  # the same geometry serves again
        >>> normals[0, 32, 32].round(decimals=4)
        tensor([0., 0., 1.])
    """
    name = "interpolate"
    if not isinstance(geometry, GeometryBuffer):
        raise TypeError(
            f"{name}: geometry must be a GeometryBuffer, as rasterize returns, got {type(geometry).__name__}"
        )
    image_shape = geometry.triangle_id.shape
    images = image_shape[0]
    positions = geometry.positions.expand(images, -1, -1)
    dtype = getattr(attributes, "dtype", None)
    attributes = check_attributes(
        name, attributes, Scene(positions, geometry.triangles, geometry.resolution, positions.dtype)
    )
    if attributes.shape[0] not in (1, images):
        raise ValueError(f"{name}: attributes must be for 1 or {images} images like geometry, got {len(attributes)}")
    channels = _check_derivatives(name, derivatives, attributes.shape[-1])
    # Few views on the way, for each is a step of autograd.
    weights = geometry.barycentrics.reshape(-1, 2, 1)
    values = _interpolate(geometry, attributes, weights, 1.0).view(*image_shape, attributes.shape[-1]).to(dtype)
    if channels is None:
        return values
    slopes = geometry.barycentric_derivatives.reshape(-1, 2, 2)
    chosen = _chosen(attributes, channels)
    return values, _interpolate(geometry, chosen, slopes, 0.0).view(*image_shape, len(channels), 2).to(dtype)


def _chosen(attributes: torch.Tensor, channels: list[int]) -> torch.Tensor:
    """Some of the channels, by views: a list of indices would be copied to a GPU, and the program wait for it."""
    if channels == list(range(attributes.shape[-1])):
        return attributes
    return torch.cat([attributes[..., :0], *(attributes[..., channel, None] for channel in channels)], dim=-1)


def _check_derivatives(name: str, derivatives: Any, channels: int) -> list[int] | None:
    """The channels to differentiate, or None."""
    if isinstance(derivatives, bool):
        return list(range(channels)) if derivatives else None
    if not isinstance(derivatives, Sequence) or not all(type(channel) is int for channel in derivatives):
        raise TypeError(f"{name}: derivatives must be True, False or indices of channels, got {derivatives!r}")
    if not all(0 <= channel < channels for channel in derivatives):
        raise ValueError(
            f"{name}: derivatives must be channels from 0 to {channels - 1} of the attributes, got {derivatives!r}"
        )
    return list(derivatives)


def _interpolate(
    geometry: GeometryBuffer, attributes: torch.Tensor, weights: torch.Tensor, total: float
) -> torch.Tensor:
    """[P, C, D] from weights [P, 2, D] that sum to `total` with that of vertex 2, for all P pixels of all images."""
    return _Interpolate.apply(attributes, weights, geometry.triangles, geometry.triangle_id.reshape(-1), total)


class _Interpolate(torch.autograd.Function):
    """Attributes at pixels, by shaders/interpolate.slang.

    Tensors: attributes [M, V, C], weights [P, 2, D] (both differentiable) -> values [P, C, D] (differentiable).
    """

    @staticmethod
    def forward(
        ctx: Any,
        attributes: torch.Tensor,
        weights: torch.Tensor,
        triangles: torch.Tensor,
        triangle_id: torch.Tensor,
        total: float,
    ) -> torch.Tensor:
        ctx.module = op_module("interpolate", attributes)
        ctx.total = total
        values = attributes.new_empty((weights.shape[0], attributes.shape[2], weights.shape[2]))
        ctx.save_for_backward(attributes, weights, triangles, triangle_id, values)
        _launch(ctx, ctx.module.interpolate_attributes, attributes, weights, triangles, triangle_id, values)
        return values

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_values: torch.Tensor) -> Any:
        attributes, weights, triangles, triangle_id, values = ctx.saved_tensors
        grad_attributes = torch.zeros_like(attributes, memory_format=torch.contiguous_format)
        grad_weights = torch.zeros_like(weights, memory_format=torch.contiguous_format)
        _launch(
            ctx, ctx.module.interpolate_attributes.bwd, (attributes, grad_attributes), (weights, grad_weights),
            triangles, triangle_id, (values, grad_values),
        )  # fmt: skip
        grad_triangles = grad_triangle_id = grad_total = None
        return (
            grad_attributes if ctx.needs_input_grad[0] else None,
            grad_weights if ctx.needs_input_grad[1] else None,
            grad_triangles, grad_triangle_id, grad_total,
        )  # fmt: skip


def _launch(
    ctx: Any,
    kernel: Any,
    attributes: Any,
    weights: Any,
    triangles: torch.Tensor,
    triangle_id: torch.Tensor,
    values: Any,
) -> None:
    """Launch interpolate_attributes or its reverse. Attributes, weights and values may be (value, grad)."""
    sets = (attributes[0] if isinstance(attributes, tuple) else attributes).shape[0]
    pixels = triangle_id.shape[0]
    launch = kernel(
        triangles=triangles, triangle_id=triangle_id, weights=weights, attributes=attributes, out_values=values,
        total=ctx.total, pixels_per_set=pixels // sets,
    )  # fmt: skip
    ctx.module.launch(launch, over=(-(-pixels // run_of(ctx.module)),))
