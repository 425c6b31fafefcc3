"""Mip stacks: a texture at full size and at every half of it, by the kernel make_mip_level of shaders/texture.slang."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch.autograd.function import once_differentiable

from .arguments import computed_in
from .op_modules import op_module
from .runtime.kept_tensors import keep_tensors
from .texture_arguments import check_image, check_levels, check_reach


@dataclass(frozen=True, eq=False)
class MipStack:
    """A texture at full size and at every half of it: made once by `mip_stack`, and given to `texture` as its image."""

    texels: torch.Tensor  # [N, T, C]: the levels one after another, row by row, those of a cube map face by face
    sizes: tuple[tuple[int, int], ...]  # (height, width) of each level
    faces: int  # 6 of a cube map, else 1
    dtype: torch.dtype  # of the image that it was made of, and of the colours that are taken from it

    def __len__(self) -> int:
        return len(self.sizes)

    def level(self, index: int) -> torch.Tensor:
        """One level as an image.

        Args:
            index: 0 is the base, len(stack) - 1 the coarsest.

        Returns:
            [N, h, w, C], or [N, 6, s, s, C] of a cube map. Differentiable to the image that the stack was made of.

        Raises:
            IndexError: there is no such level.
        """
        if not 0 <= index < len(self):
            raise IndexError(f"MipStack.level: index must be in [0, {len(self) - 1}], got {index}")
        first, end = self.count_texels(index), self.count_texels(index + 1)
        shape = (self.faces, *self.sizes[index]) if self.faces > 1 else self.sizes[index]
        return self.texels[:, first:end].unflatten(1, shape).to(self.dtype)

    def count_texels(self, levels: int) -> int:
        """How many texels the first `levels` levels have together: where in `texels` the next one begins."""
        return self.faces * sum(height * width for height, width in self.sizes[:levels])

    @property
    def table(self) -> torch.Tensor:
        """[L, 3] int32: the first texel, width and height of each level, as kernels read them."""
        rows = [(self.count_texels(level), width, height) for level, (height, width) in enumerate(self.sizes)]
        return _int_table(tuple(rows), self.texels.device)


def mip_stack(image: torch.Tensor, levels: int | None = None) -> MipStack:
    """Average a texture to half its size, again and again, for `texture` with a filter "linear_mipmap_...".

    A level has max(1, size // 2) texels along each axis, and each texel is the mean of its own area of the level
    before: of two by two texels where the size is even, and of three along an axis where it is odd, the outer two in
    part. So every level has the mean of the image, whatever its size.

    Args:
        image: [N, Ht, Wt, C] or [Ht, Wt, C] float, or a cube map [N, 6, S, S, C]; any size, any C. Differentiable.
        levels: how many levels, the base among them. None: down to one texel.

    Returns:
        A `MipStack`. Gradients run through it to `image`, however often it is used.

    Raises:
        ValueError, TypeError: an argument is none of the above.

    Example:
        >>> import torch, slangrast as sr
        >>> stack = sr.mip_stack(torch.ones(6, 9, 3))
        >>> stack.sizes
        ((6, 9), (3, 4), (1, 2), (1, 1))
        >>> stack.level(1).shape
        torch.Size([1, 3, 4, 3])
    """
    faces = check_image("mip_stack", image)
    return make_stack("mip_stack", image, faces, levels)


def make_stack(name: str, image: torch.Tensor, faces: int, levels: int | None) -> MipStack:
    """`mip_stack` of a checked image, in the name of the public function that was called."""
    sizes = [(image.shape[-3], image.shape[-2])]
    while max(sizes[-1]) > 1:
        height, width = sizes[-1]
        sizes.append((max(1, height // 2), max(1, width // 2)))
    levels = check_levels(name, levels, sizes)
    batched = image if image.dim() > 3 else image[None]
    base = computed_in(batched).flatten(1, 3 if faces > 1 else 2)
    stack = MipStack(base, tuple(sizes[:levels]), faces, image.dtype)
    check_reach(name, "image", stack.count_texels(levels) * base.shape[-1], base)
    return stack if levels == 1 else MipStack(_MakeMips.apply(base, stack), stack.sizes, faces, image.dtype)


class _MakeMips(torch.autograd.Function):
    """The base of a stack to all its levels, by shaders/texture.slang.

    Tensors: base [N, T0, C] (differentiable) -> texels [N, T, C] (differentiable), of which the base is the beginning.
    """

    @staticmethod
    def forward(ctx: Any, base: torch.Tensor, stack: MipStack) -> torch.Tensor:
        ctx.stack = stack
        ctx.module = module = op_module("texture", base)
        texels = base.new_empty((len(base), stack.count_texels(len(stack)), base.shape[-1]))
        texels[:, : base.shape[1]] = base
        for level in range(1, len(stack)):
            launch = module.make_mip_level(texels=texels, levels=stack.table, faces=stack.faces, level=level)
            module.launch(launch, over=_extent(stack, level))
        return texels

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_texels: torch.Tensor) -> Any:
        stack, module = ctx.stack, ctx.module
        grad = grad_texels.clone(memory_format=torch.contiguous_format)
        for level in range(len(stack) - 1, 0, -1):
            # Averages are linear: their reverse does not read the texels, for which the gradient stands in.
            pair = (grad, grad)
            launch = module.make_mip_level.bwd(texels=pair, levels=stack.table, faces=stack.faces, level=level)
            module.launch(launch, over=_extent(stack, level - 1))
        grad_stack = None
        return grad[:, : stack.count_texels(1)], grad_stack


def _extent(stack: MipStack, level: int) -> tuple[int, int, int]:
    height, width = stack.sizes[level]
    return width, height, stack.faces * len(stack.texels)


@keep_tensors(256)
def _int_table(rows: tuple[tuple[int, ...], ...], device: torch.device) -> torch.Tensor:
    """Kept, because the program would wait for a copy to a GPU at every call."""
    with torch.inference_mode(False):  # a tensor made in that mode could not be saved for a later reverse
        return torch.tensor(rows, dtype=torch.int32, device=device)
