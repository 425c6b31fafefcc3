"""Textures: colours at points of an image or a cube map, by the kernel sample_texture of shaders/texture.slang."""

from __future__ import annotations

from typing import Any

import torch
from torch.autograd.function import once_differentiable

from .mip_stack import MipStack, make_stack, mip_stack
from .op_modules import op_module
from .texture_arguments import (
    check_bias,
    check_derivatives,
    check_detail_is_used,
    check_image,
    check_kind,
    check_reach,
    check_uv,
    choose,
)

# The numbers that shaders/texture.slang and shaders/filtering.slang know them by.
FILTERS = {"nearest": 0, "linear": 1, "linear_mipmap_nearest": 2, "linear_mipmap_linear": 3}
WRAPS = {"repeat": 0, "clamp": 1, "zero": 2, "cube": 3}


def texture(
    image: torch.Tensor | MipStack,
    uv: torch.Tensor,
    *,
    uv_derivatives: torch.Tensor | None = None,
    filter: str = "linear",
    wrap: str = "repeat",
    mip_bias: float | torch.Tensor | None = None,
) -> torch.Tensor:
    """Look up the colours of a texture at points, filtered.

    u runs to the right and v **up**, as in mesh files (OBJ, and whatever `load_mesh` reads): (0, 0) is the lower left
    corner of the image, whose row 0 is at the top, and (1, 1) its upper right corner. The texel in row y and column x
    has its centre at u = (x + 0.5) / Wt, v = 1 - (y + 0.5) / Ht. For a v that runs down, give 1 - v.

    The level of detail of a filter "linear_mipmap_..." is log2(rho) + mip_bias, rho the longer of the two steps, in
    texels of the base image, from a pixel to its neighbour on the right and to the one below (OpenGL 4.6 specification,
    section 8.14). Without `uv_derivatives` it is `mip_bias` alone.

    Args:
        image: [N, Ht, Wt, C] or [Ht, Wt, C] float, any size and any C; or a cube map [N, 6, S, S, C] of the faces +x,
            -x, +y, -y, +z, -z, laid out as in OpenGL (as seen from outside, upright for y up); or a `MipStack` of
            either. One image serves all of `uv`. Differentiable.
        uv: [N, H, W, 2] float, for one image or as many as `image`; with wrap "cube" a direction [N, H, W, 3] of any
            length. Differentiable but with filter "nearest".
        uv_derivatives: [N, H, W, 4] or [N, H, W, 2, 2] float: du/dX, du/dY, dv/dX, dv/dY, X and Y in pixels; with wrap
            "cube" [N, H, W, 6] or [N, H, W, 3, 2]. `interpolate(geometry, uv, derivatives=True)` gives them with uv.
            Differentiable with filter "linear_mipmap_linear".
        filter: "nearest" takes the texel that holds the point; "linear" weighs the four around it; the others do so in
            the mip stack, "linear_mipmap_nearest" in the level nearest to the level of detail, "linear_mipmap_linear"
            in the two around it.
        wrap: what lies beyond [0, 1]. "repeat": the image again; "clamp": its outermost texels; "zero": zero, into
            which linear filters fade over one texel; "cube": nothing does, the image is a cube map.
        mip_bias: a number, or a tensor [] or [N, H, W] float. 1 takes colours from a level coarser. Differentiable with
            filter "linear_mipmap_linear".

    Returns:
        [N, H, W, C] in the dtype of the image.

    Raises:
        ValueError: a shape or name is none of the above, tensors are on different devices, `uv_derivatives` or
            `mip_bias` is given to a filter without mips, or neither to one with them.
        TypeError: an argument is not of the type above.

    A point with a coordinate, derivative or bias that is not finite has the colour NaN and sends no gradient. Nor does
    a direction of length 0, which is what an empty pixel has: its colour is zero. Linear filters blend across the edges
    of a cube, where colours are therefore continuous; at its corners, where three texels meet, their mean stands in for
    the fourth. The level of detail is that of the face, and may step at an edge. Colours bend, and the gradient is that
    of one side, where a point is level with a texel centre, or a level of detail is a whole number.

    Example:
        >>> import torch, slangrast as sr
        >>> image = torch.tensor([[0.0, 1.0], [2.0, 3.0]])[..., None]  # its lower left texel is 2
        >>> uv = torch.tensor([[[[0.25, 0.25], [0.5, 0.25], [0.5, 0.5]]]])
        >>> sr.texture(image, uv)[0, 0, :, 0]
        tensor([2.0000, 2.5000, 1.5000])
        >>> mips = sr.mip_stack(image)
        >>> sr.texture(mips, uv, filter="linear_mipmap_linear", mip_bias=1.0)[0, 0, :, 0]  # of one texel, the mean
        tensor([1.5000, 1.5000, 1.5000])
    """
    name = "texture"
    modes = choose(name, "filter", filter, FILTERS), choose(name, "wrap", wrap, WRAPS)
    uses_mips = "mipmap" in filter
    if isinstance(image, MipStack):
        stack = image
        check_kind(name, wrap, stack.faces, stack.sizes[0])
    else:
        faces = check_image(name, image)
        check_kind(name, wrap, faces, (image.shape[-3], image.shape[-2]))
        stack = make_stack(name, image, faces, None if uses_mips else 1)
    check_detail_is_used(name, filter, uses_mips, uv_derivatives=uv_derivatives, mip_bias=mip_bias)
    texels, dtype = stack.texels, stack.dtype
    uv = check_uv(name, uv, wrap, texels, dtype)
    uv_derivatives = check_derivatives(name, uv_derivatives, uv, texels, dtype)
    mip_bias = check_bias(name, mip_bias, uv, texels, dtype)
    check_reach(name, "uv", uv.shape[1] * uv.shape[2] * max(texels.shape[-1], 6), texels)
    return _Sample.apply(texels, uv, uv_derivatives, mip_bias, stack.table, modes).to(dtype)


class _Sample(torch.autograd.Function):
    """Texels to colours, by shaders/texture.slang.

    Tensors: texels [N or 1, T, C], uv [N, H, W, 2 or 3], uv_derivatives [N, H, W, 4 or 6] and mip_bias [N, H, W], both
    empty where not given (all differentiable), levels [L, 3] -> color [N, H, W, C] (differentiable).
    """

    @staticmethod
    def forward(
        ctx: Any,
        texels: torch.Tensor,
        uv: torch.Tensor,
        uv_derivatives: torch.Tensor,
        mip_bias: torch.Tensor,
        levels: torch.Tensor,
        modes: tuple[int, int],
    ) -> torch.Tensor:
        ctx.save_for_backward(texels, uv, uv_derivatives, mip_bias, levels)
        ctx.modes = modes
        ctx.module = module = op_module("texture", texels)
        color = texels.new_empty((*uv.shape[:3], texels.shape[-1]))
        filter, wrap = modes
        launch = module.sample_texture(
            texels=texels, levels=levels, uv=uv, uv_derivatives=uv_derivatives, mip_bias=mip_bias, out_color=color,
            filter=filter, wrap=wrap, texels_are_constant=True,
        )  # fmt: skip
        module.launch(launch, over=_extent(uv))
        return color

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_color: torch.Tensor) -> Any:
        texels, uv, uv_derivatives, mip_bias, levels = ctx.saved_tensors
        # A texture's gradient may be large. Where it is not wanted the kernel does not touch what stands in for it.
        constant = not ctx.needs_input_grad[0]
        grad_texels = texels if constant else _zeros_like(texels)
        grad_uv, grad_derivatives, grad_bias = map(_zeros_like, (uv, uv_derivatives, mip_bias))
        module, (filter, wrap) = ctx.module, ctx.modes
        launch = module.sample_texture.bwd(
            texels=(texels, grad_texels), levels=levels, uv=(uv, grad_uv),
            uv_derivatives=(uv_derivatives, grad_derivatives), mip_bias=(mip_bias, grad_bias),
            out_color=(grad_color, grad_color),  # the colours themselves are not read
            filter=filter, wrap=wrap, texels_are_constant=constant,
        )  # fmt: skip
        module.launch(launch, over=_extent(uv))
        grads = (grad_texels, grad_uv, grad_derivatives, grad_bias)
        wanted = [grad if need else None for grad, need in zip(grads, ctx.needs_input_grad[:4], strict=True)]
        grad_levels = grad_modes = None
        return (*wanted, grad_levels, grad_modes)


def _zeros_like(tensor: torch.Tensor) -> torch.Tensor:
    return torch.zeros_like(tensor, memory_format=torch.contiguous_format)


def _extent(uv: torch.Tensor) -> tuple[int, int, int]:
    images, height, width, _ = uv.shape
    return width, height, images


__all__ = ["MipStack", "mip_stack", "texture"]
