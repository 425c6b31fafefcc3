"""Faces in their tiles to images, and the way back of gradients: the launches of shaders/soft_rasterizer.slang."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, TypeAlias

import torch
from torch.autograd.function import once_differentiable

from .arguments import Limits, Scene, lasting_zeros
from .binning import Bins
from .op_modules import Tiling, layout_of
from .projection import Projection
from .runtime import Kernel, Launchable, Module
from .runtime.cpu_threads import kernel_threads
from .soft_variant import Variant


class Plan(NamedTuple):
    """One pass over the faces: the kernel, and what it is launched with and on."""

    module: Module
    variant: Variant
    scene: Scene
    projection: Projection
    limits: Limits
    tiling: Tiling

    def launch(self, launch: Launchable, parts: int, splits: tuple[int, int]) -> None:
        """Run the kernel or its reverse: `parts` of each image, by blocks of splits[0], splits[1] of them."""
        one_thread = self.module.warp_size == 1
        block = (1, 1, 1) if one_thread else (32, self.tiling.tile**2 // 32, splits[0])
        launch.launchRaw(block, (parts, splits[1], self.projection.screen.shape[0]))


Drawn: TypeAlias = tuple[
    tuple[torch.Tensor, ...], tuple[torch.Tensor, torch.Tensor, torch.Tensor], tuple[torch.Tensor, ...]
]


def draw(
    plan: Plan,
    bins: Bins,
    attributes: torch.Tensor,
    parameters: torch.Tensor,
    background: torch.Tensor,
    *tensors: torch.Tensor,
) -> Drawn:
    """The launch of the images: what it reads and has gradients, the images, and what else its reverse will read."""
    screen, variant = plan.projection.screen, plan.variant
    size = (screen.shape[0], *plan.scene.resolution)
    color = screen.new_empty((*size, background.shape[-1] if variant.with_color else 0))
    silhouette = screen.new_empty(size)
    depth = screen.new_empty(size if variant.with_color else (0, 1, 1))
    state = screen.new_empty((*size, 2 if variant.with_color else 1))
    winners = lasting_zeros((1, 1, 1, 1), torch.int32, screen.device)
    if variant.keeps_nearest or variant.keeps_largest:
        winners = screen.new_empty((*size, 2), dtype=torch.int32)
    outputs = (color, silhouette, depth)
    inputs = (screen.unsqueeze(1), attributes.unsqueeze(1), parameters, background)  # each image is one part
    fixed = (plan.scene.triangles, *bins, state, winners)
    launch = _prepared(plan, plan.module.soft_rasterize, inputs, outputs, fixed, _arguments(plan.module, tensors))
    plan.launch(launch, plan.tiling.tiles(plan.scene.resolution), (plan.tiling.splits, 1))
    return inputs, outputs, fixed


class SoftRasterize(torch.autograd.Function):
    """Binned faces to images.

    Tensors: positions [N, V, 4] (the plan's projection has them on the screen), attributes [N, V, A], parameters
    [N, 3 + own], background [N, H, W, C], or 1 where all are alike and need no gradient, the formulas' own (all
    differentiable) -> color [N, H, W, C], silhouette [N, H, W], depth [N, H, W] (all differentiable).
    """

    @staticmethod
    def forward(
        ctx: Any,
        plan: Plan,
        bins: Bins,
        positions: torch.Tensor,
        attributes: torch.Tensor,
        parameters: torch.Tensor,
        background: torch.Tensor,
        *tensors: torch.Tensor,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        inputs, outputs, fixed = draw(plan, bins, attributes, parameters, background, *tensors)
        # Of outputs autograd saves copies of its own kind, which take longer to make than these.
        ctx.save_for_backward(positions, *inputs, *(output.detach() for output in outputs), *fixed, *tensors)
        ctx.plan = plan
        return outputs

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grad_outputs: torch.Tensor) -> Any:
        plan: Plan = ctx.plan
        positions, *saved = ctx.saved_tensors
        inputs, outputs, fixed, tensors = saved[:4], saved[4:7], saved[7:13], saved[13:]
        screen, attributes, parameters, background = inputs
        tiles, one_thread = plan.tiling.tiles(plan.scene.resolution), plan.module.warp_size == 1
        parts = _parts(tiles, screen.shape[0]) if one_thread else 1
        if parts > 1:
            screen, attributes = screen.expand(-1, parts, -1, -1), attributes.expand(-1, parts, -1, -1)
            parameters = parameters.repeat_interleave(parts, dim=0)
        inputs = (screen, attributes, parameters, background)
        sums = _zeros_like(inputs[:3], in_one=not one_thread)
        keeps_background = not ctx.needs_input_grad[5]  # then nothing is written there
        sums.append(
            background if keeps_background else torch.empty_like(background, memory_format=torch.contiguous_format)
        )
        own = [torch.zeros_like(tensor, memory_format=torch.contiguous_format) for tensor in tensors]
        launch = _prepared(
            plan,
            plan.module.soft_rasterize.bwd,
            tuple(zip(inputs, sums, strict=True)),
            tuple(zip(outputs, grad_outputs, strict=True)),
            fixed,
            _arguments(plan.module, tensors, own),
            keeps_background,
        )
        plan.launch(launch, parts if one_thread else tiles, (1, plan.tiling.reverse_splits))
        needed = ctx.needs_input_grad[2:]
        grads: list[torch.Tensor | None] = [None, *sums[1:], *own]
        if needed[0]:
            grads[0] = plan.projection.reverse(positions, screen, sums[0])
        if needed[1]:
            grads[1] = sums[1].squeeze(1) if parts == 1 else sums[1].sum(1)
        if needed[2] and parts > 1:
            grads[2] = sums[2].unflatten(0, (-1, parts)).sum(1)
        return None, None, *(grad if need else None for grad, need in zip(grads, needed, strict=True))


def _zeros_like(tensors: Sequence[torch.Tensor], in_one: bool) -> list[torch.Tensor]:
    """Zeros of the shapes of `tensors`. On CUDA a fill is a launch: there they are parts of one tensor."""
    if not in_one:
        return [torch.zeros_like(tensor, memory_format=torch.contiguous_format) for tensor in tensors]
    parts = tensors[0].new_zeros(sum(map(torch.Tensor.numel, tensors))).split([tensor.numel() for tensor in tensors])
    return [part.view(tensor.shape) for part, tensor in zip(parts, tensors, strict=True)]


# Gradients have the memory of so many parts at most, shared out among all images.
_MOST_PARTS = 16


def _parts(tiles: int, images: int) -> int:
    """How many parts of an image have gradients of their own, where a thread renders tiles alone: enough for all."""
    threads = kernel_threads()
    wanted = 1 if threads == 1 else min(4 * threads, _MOST_PARTS)
    return min(tiles, -(-wanted // images))


def _arguments(module: Module, tensors: tuple, grads: list[torch.Tensor] | None = None) -> dict[str, Any]:
    """The formulas' tensors as the kernel's arguments, with their gradients in the reverse."""
    fields = layout_of(module).tensors
    if grads is None:
        return {field.argument: tensor for field, tensor in zip(fields, tensors, strict=True)}
    return {
        field.argument: (tensor, grad) if field.differentiable else tensor
        for field, tensor, grad in zip(fields, tensors, grads, strict=True)
    }


def _prepared(
    plan: Plan,
    kernel: Kernel,
    inputs: tuple,
    outputs: tuple,
    fixed: tuple,
    tensors: dict[str, Any],
    background_is_fixed: bool = True,
) -> Launchable:
    """soft_rasterize or its reverse, ready to launch. Inputs and outputs may be (value, grad)."""
    screen, attributes, parameters, background = inputs
    out_color, out_silhouette, out_depth = outputs
    triangles, records, tile_offsets, tile_faces, state, winners = fixed
    return kernel(
        screen=screen, triangles=triangles, attributes=attributes, parameters=parameters, background=background,
        records=records, tile_faces=tile_faces, tile_offsets=tile_offsets, state=state, winners=winners,
        out_color=out_color, out_silhouette=out_silhouette, out_depth=out_depth,
        near=plan.limits.near, far=plan.limits.far, cutoff=plan.limits.cutoff,
        background_is_fixed=int(background_is_fixed), **tensors,
    )  # fmt: skip
