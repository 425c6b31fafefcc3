"""Visibility edges between the pixels of a geometry buffer: blended, or followed by gradients. The kernels are those of
shaders/antialias.slang and shaders/edge_gradients.slang."""

from __future__ import annotations

from typing import Any

import torch
from torch.autograd.function import once_differentiable

from .arguments import Scene, check_float, check_image_size, computed_in, show
from .edge_rings import edge_rings_of
from .op_modules import op_module
from .rasterize import GeometryBuffer, run_of
from .runtime import Module
from .runtime.steady import steady


@steady()
def antialias(image: torch.Tensor, geometry: GeometryBuffer, *, by_position: bool = True) -> torch.Tensor:
    """Blend the colours of neighbouring pixels where a silhouette passes between them.

    Of two neighbours that see different triangles, the surface that the nearer one sees is followed towards the other
    pixel's centre. If it ends on the way, at s from the first centre (0) to the second (1), then the share 0.5 - s is
    blended: where it is positive, the first pixel takes that share of the second's colour; where it is negative, the
    second takes the share s - 0.5 of the first's. That is the area of each pixel on either side of an upright or level
    edge, and near it for others. An edge is blended along rows or columns, whichever it crosses more steeply, so that
    no part of it is blended twice.

    A surface ends at a silhouette: an edge on whose other side, on the screen, it does not go on. Either one triangle
    alone has the edge, or those that share it lie on one side of it. Edges where triangles pass through each other are
    not found; `edge_gradients` finds them.

    Args:
        image: [N, H, W, C] float, any C: colours of the pixels of `geometry`. Differentiable.
        geometry: what `rasterize` or `peel` returned. Gradients reach x, y and w of its positions, through the places
            at which edges cross. Which edges do, is a step function of the positions.
        by_position: True to take vertices at equal positions for one, so that a seam of texture coordinates is no
            silhouette; equal means to the last bit, in every image. False to tell vertices apart by their indices.

    Returns:
        [N, H, W, C]. The same to the last bit in every run; the gradients of positions are the same but for rounding.

    Raises:
        ValueError: image has not the shape of `geometry`, or is on another device; over 178,956,970 triangles.
        TypeError: an argument is not of the type above.

    Triangles that pass through the eye are treated exactly: what counts is the part before the eye. Where an edge ends
    at the near or far plane nothing is blended. An empty pixel is farther than any other.

    Example:
        >>> import torch, slangrast as sr
        >>> corners = [[-1, -1, 0, 1], [0.1, -1, 0, 1], [-1, 1, 0, 1], [0.1, 1, 0, 1]]  # right edge at 2.2 pixels
        >>> positions = torch.tensor(corners, dtype=torch.float32, requires_grad=True)
        >>> geometry = sr.rasterize(positions, torch.tensor([[0, 1, 2], [1, 3, 2]]), (2, 4))
        >>> white = geometry.mask[..., None].float()
        >>> white[0, ..., 0]
        tensor([[1., 1., 0., 0.],
                [1., 1., 0., 0.]])
        >>> image = sr.antialias(white, geometry)
        >>> image.detach()[0, ..., 0]
        tensor([[1.0000, 1.0000, 0.2000, 0.0000],
                [1.0000, 1.0000, 0.2000, 0.0000]])
        >>> image.sum().backward()
        >>> positions.grad[:, 0].round(decimals=4)  # how the area grows, in pixels, as a corner moves to the right
        tensor([0., 2., 0., 2.])
    """
    name = "antialias"
    dtype = _check_image(name, image, geometry)
    if not isinstance(by_position, bool):
        raise TypeError(f"{name}: by_position must be True or False, got {by_position!r}")
    outlines = _find_outlines(name, geometry, by_position)
    return _Blend.apply(geometry.positions, computed_in(image), geometry.triangles, outlines).to(dtype)


@steady()
def edge_gradients(image: torch.Tensor, geometry: GeometryBuffer) -> torch.Tensor:
    """Return the image as it is, and in the reverse pass add the gradients of moving visibility edges to positions.

    Pixels that a hard rasterizer fills do not change while an edge moves between their centres. What the exact image,
    averaged over each pixel's area, would change is estimated here, for each pair of neighbours that see different
    triangles: the boundary between them is a silhouette, or the line where the two triangles pass through each other,
    and as it moves with its vertices, the colour on one side takes area from that on the other. The derivation stands
    in shaders/edge_gradients.slang; the idea is that of Pidhorskyi et al., "Rasterized Edge Gradients: Handling
    Discontinuities Differentiably", ECCV 2024.

    Give it the finished picture, after shading and background, before the loss: what it sees is the differences of
    colours. Use it or `antialias`, not both, or edges count twice.

    Args:
        image: [N, H, W, C] float, any C: colours of the pixels of `geometry`. Its own gradient passes unchanged.
        geometry: what `rasterize` returned. Gradients are added to x, y, z and w of its positions, z where triangles
            pass through each other.

    Returns:
        [N, H, W, C]: the values of `image`.

    Raises:
        ValueError: image has not the shape of `geometry`, or is on another device; over 178,956,970 triangles.
        TypeError: an argument is not of the type above.

    The gradient is an estimate, not the derivative of the image returned, which is a step function. Vertices at equal
    positions are one, as in `antialias`. A surface that no pixel centre sees has no gradient.

    Example:
        >>> import torch, slangrast as sr
        >>> corners = [[-1, -1, 0, 1], [0.1, -1, 0, 1], [-1, 1, 0, 1], [0.1, 1, 0, 1]]
        >>> positions = torch.tensor(corners, dtype=torch.float32, requires_grad=True)
        >>> geometry = sr.rasterize(positions, torch.tensor([[0, 1, 2], [1, 3, 2]]), (2, 4))
        >>> white = geometry.mask[..., None].float()  # nothing here depends on positions smoothly
        >>> image = sr.edge_gradients(white, geometry)
        >>> torch.equal(image, white)
        True
        >>> image.sum().backward()
        >>> positions.grad[:, 0].round(decimals=4)  # how the area grows, in pixels, as a corner moves to the right
        tensor([0., 2., 0., 2.])
    """
    name = "edge_gradients"
    dtype = _check_image(name, image, geometry)
    positions = geometry.positions
    rings = edge_rings_of(name, geometry.triangles, positions, True)
    fixed = (geometry.triangles, geometry.ranges, rings, geometry.triangle_id)
    return _FollowEdges.apply(positions, computed_in(image), *fixed).to(dtype)


def _check_image(name: str, image: Any, geometry: Any) -> torch.dtype:
    if not isinstance(geometry, GeometryBuffer):
        raise TypeError(
            f"{name}: geometry must be a GeometryBuffer, as rasterize returns, got {type(geometry).__name__}"
        )
    dtype = check_float(name, "image", image)
    shape = tuple(geometry.triangle_id.shape)
    if image.dim() != 4 or tuple(image.shape[:3]) != shape:
        raise ValueError(
            f"{name}: image must be [N, H, W, C] float with N, H, W = {shape} like geometry, got {show(image)}"
        )
    if image.device != geometry.triangle_id.device:
        raise ValueError(
            f"{name}: image must be on {geometry.triangle_id.device} like geometry, got a tensor on {image.device}"
        )
    kind = geometry.positions.dtype
    if (dtype == torch.float64) != (kind == torch.float64):
        raise ValueError(f"{name}: image must be {str(kind)[6:]} like positions, got {show(image)}")
    scene = Scene(geometry.positions, geometry.triangles, geometry.resolution, kind)
    check_image_size(name, scene, image.shape[-1])
    return dtype


def _find_outlines(name: str, geometry: GeometryBuffer, by_position: bool) -> torch.Tensor:
    """[N, H, W, 2] int32: the half-edge between a pixel and the next on the right, and the one below; -1 for none."""
    positions, triangle_id = geometry.positions.detach(), geometry.triangle_id
    module = op_module("antialias", positions)
    outlines = torch.empty((*triangle_id.shape, 2), dtype=torch.int32, device=positions.device)
    launch = module.find_outlines(
        positions=positions, triangles=geometry.triangles, ranges=geometry.ranges,
        edge_rings=edge_rings_of(name, geometry.triangles, positions, by_position),
        triangle_id=triangle_id, depth=geometry.depth.detach(), out_outlines=outlines,
    )  # fmt: skip
    module.launch(launch, over=_runs(module, triangle_id))
    return outlines


class _Blend(torch.autograd.Function):
    """Silhouettes blended into an image, by shaders/antialias.slang.

    Tensors: positions [M, V, 4], image [N, H, W, C] (both differentiable), triangles [F, 3], outlines [N, H, W, 2] ->
    image [N, H, W, C] (differentiable).
    """

    @staticmethod
    def forward(
        ctx: Any, positions: torch.Tensor, image: torch.Tensor, triangles: torch.Tensor, outlines: torch.Tensor
    ) -> torch.Tensor:
        ctx.save_for_backward(positions, image, triangles, outlines)
        ctx.module = module = op_module("antialias", positions)
        blended = image.clone(memory_format=torch.contiguous_format)  # most pixels have no silhouette beside them
        launch = module.blend_outlines(
            positions=positions, triangles=triangles, outlines=outlines, image=image, blended=blended
        )
        module.launch(launch, over=_runs(module, outlines))
        return blended

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_blended: torch.Tensor) -> Any:
        positions, image, triangles, outlines = ctx.saved_tensors
        grad_positions = torch.zeros_like(positions, memory_format=torch.contiguous_format)
        grad_image = grad_blended.clone(memory_format=torch.contiguous_format)
        launch = ctx.module.blend_outlines.bwd(
            positions=(positions, grad_positions), triangles=triangles, outlines=outlines,
            image=(image, grad_image), blended=(grad_blended, grad_blended),  # the colours themselves are not read
        )  # fmt: skip
        ctx.module.launch(launch, over=_runs(ctx.module, outlines))
        grad_triangles = grad_outlines = None
        return (
            grad_positions if ctx.needs_input_grad[0] else None,
            grad_image if ctx.needs_input_grad[1] else None,
            grad_triangles, grad_outlines,
        )  # fmt: skip


class _FollowEdges(torch.autograd.Function):
    """Gradients of moving edges, by shaders/edge_gradients.slang.

    Tensors: positions [M, V, 4], image [N, H, W, C] (both differentiable), triangles [F, 3], ranges [N, 2], edge_rings
    [3 F], triangle_id [N, H, W] -> image [N, H, W, C] (differentiable).
    """

    @staticmethod
    def forward(ctx: Any, positions: torch.Tensor, image: torch.Tensor, *fixed: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(positions, image, *fixed)
        return image.view_as(image)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_image: torch.Tensor) -> Any:
        positions, image, triangles, ranges, edge_rings, triangle_id = ctx.saved_tensors
        grad_positions = None
        if ctx.needs_input_grad[0]:
            module = op_module("edge_gradients", positions)
            grad_positions = torch.zeros_like(positions, memory_format=torch.contiguous_format)
            launch = module.add_edge_gradients(
                positions=positions, triangles=triangles, ranges=ranges, edge_rings=edge_rings, triangle_id=triangle_id,
                image=image, grad_image=grad_image, grad_positions=grad_positions,
            )  # fmt: skip
            module.launch(launch, over=_runs(module, triangle_id))
        grad_triangles = grad_ranges = grad_edge_rings = grad_triangle_id = None
        return grad_positions, grad_image, grad_triangles, grad_ranges, grad_edge_rings, grad_triangle_id


def _runs(module: Module, per_pixel: torch.Tensor) -> tuple[int, int, int]:
    """The threads that go through all pixels of [N, H, W, ...], each through a run of them."""
    images, height, width = per_pixel.shape[:3]
    return -(-width // run_of(module)), height, images
