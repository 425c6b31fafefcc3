"""The soft rasterizer: images that are smooth in every vertex, by the kernels of shaders/soft_rasterizer.slang."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from typing import Any, NamedTuple

import torch
from torch.autograd.function import once_differentiable

from .arguments import (
    Limits,
    Scene,
    check_attributes,
    check_background,
    check_image_size,
    check_limits,
    check_scene,
    check_softness,
    choose,
    lasting_zeros,
)
from .binning import Bins, bin_faces, find_extents, is_one_threads, project_and_bin
from .formulas import KINDS, Choice, Formula, Layout, choose_formula, pack_attributes, pack_parameters, pack_tensors
from .op_modules import Tiling, layout_of, op_module, tiling_for
from .projection import Projection, not_yet_projected, project
from .runtime import Kernel, Launchable, Module
from .runtime.cpu_threads import kernel_threads
from .runtime.kept_tensors import keep_tensors
from .runtime.steady import steady

DEPTHS = ("view", "ndc")

# More channels than this are rendered in several passes: a thread holds every channel of its pixels at once. A fragment
# shader needs all of its attributes at once.
_MOST_CHANNELS = 16
_MOST_SHADED = 32


class SoftImage(NamedTuple):
    """What `soft_rasterize` returns. Row 0 is the top row."""

    color: torch.Tensor  # [N, H, W, C]
    silhouette: torch.Tensor  # [N, H, W], in [0, 1]
    depth: torch.Tensor  # [N, H, W], along the view axis; `far` where there is nothing


@steady()
def soft_rasterize(
    positions: torch.Tensor,
    triangles: torch.Tensor,
    attributes: torch.Tensor | Mapping[str, torch.Tensor],
    resolution: tuple[int, int],
    *,
    sigma: float | torch.Tensor = 1e-4,
    gamma: float | torch.Tensor = 1e-4,
    epsilon: float | torch.Tensor = 1e-3,
    background: float | tuple[float, ...] | torch.Tensor | None = None,
    near: float = 1.0,
    far: float = 100.0,
    depth: str = "view",
    coverage: str | Formula = "squared_distance",
    falloff: str | Formula = "logistic",
    aggregation: str | Formula = "softmax",
    silhouette: str | Formula = "probabilistic",
    fragment: str | Formula | None = None,
    perspective_correct: bool = True,
    cull_backfaces: bool = False,
    cutoff: float = 1e-4,
) -> SoftImage:
    """Render triangles softly: each colours the pixels around it, weighted by its coverage and its depth.

    For a pixel and face j with coverage D_j, depth score z_j in [0, 1] (1 is nearest) and attributes C_j,

        color = sum_j w_j C_j + w_b background,   w_j ~ D_j exp(z_j / gamma),   w_b ~ exp(epsilon / gamma),
        silhouette = 1 - prod_j (1 - D_j),        D_j = 1 / (1 + exp(-delta_j d_j^2 / sigma)),

    with d_j the distance to the border of the face, in units of half the shorter image side, delta_j = 1 inside the
    face and -1 outside, and w normalised to sum 1 (Liu et al., "Soft Rasterizer", 2019, equations 1 to 4). The
    gradients are the exact derivatives of these images.

    Args:
        positions: [N, V, 4] or [V, 4] float. Clip space, OpenGL style: x right, y up, z/w in [-1, 1], smaller is
            nearer. Differentiable in x, y, z and w.
        triangles: [F, 3] int32 or int64. Indices of vertices, in either winding.
        attributes: [N, V, C] or [V, C] float, any C. Differentiable. With a fragment shader: what it takes, in the
            order of its fields or by name, as in {"normal": [V, 3], "albedo": [V, 3]}.
        resolution: (height, width) in pixels.
        sigma: scalar or [N]. Softness of coverage, > 0, in squared half sides ("distance": half sides). Differentiable.
        gamma: scalar or [N]. Softness of depth, at least 1e-8. Differentiable.
        epsilon: scalar or [N]. Depth score of the background. Differentiable.
        background: None (zero), a number, [C], [N, C], [H, W, C] or [N, H, W, C]. Differentiable.
        near: view depth of score 1. Fragments nearer than it are dropped (`depth="view"`).
        far: view depth of score 0, and depth of the background. Fragments beyond it are dropped (`depth="view"`).
        depth: "view" scores the depth Z along the view axis, z = (far - Z) / (far - near); "ndc" scores z/w,
            z = (1 - z/w) / 2, and drops fragments outside [-1, 1].
        coverage: "squared_distance" as above; "distance", D from delta d; "barycentric", from sign(m) m^2 with m the
            smallest barycentric; "edge_product", the product of the falloffs of the three edge functions; "hard", 1
            inside and 0 outside.
        falloff: "logistic", or another of the names in shaders/README.md.
        aggregation: "softmax" as above; "additive", log w_j = D_j + z_j / gamma; "hard", the nearest face that covers
            the pixel centre.
        silhouette: "probabilistic" as above; "max"; "sum", clamped to 1; or another of the names in shaders/README.md.
        fragment: how the interpolated attributes of a face become its colour at a pixel, before faces are mixed: None,
            they are the colour; "lambert", "phong" or "textured".
            Each of these five may also be "file.slang:Struct", a formula of your own, or a `Formula` with values for
            its parameters, which are then differentiable.
        perspective_correct: interpolate attributes in space rather than on the screen.
        cull_backfaces: drop faces whose vertices run clockwise on the screen.
        cutoff: coverage below which a fragment is dropped, in (0, 0.5]. It bounds how far a face reaches.
            There its colour ends in a step, which gradients do not see: cutoff / (cutoff + exp(-dz / gamma)) of the
            difference to what lies behind it, by dz in score. Where gamma is small that can be all of it: lower the
            cutoff, or raise gamma.

    Returns:
        A `SoftImage` of color [N, H, W, C], silhouette [N, H, W] and depth [N, H, W].

    Raises:
        ValueError: a shape, range or name is not one of the above, or tensors are on different devices.
        TypeError: an argument is not of the type above.
        FileNotFoundError, ShaderError: a formula's file is not there, does not compile, or has no such struct.

    Faces that have a vertex at or behind the eye (w <= 0), a coordinate that is not finite, or no area are dropped, and
    send no gradient. So do fragments below `cutoff`: at a face's reach the silhouette has a step of that height.
    """
    name = "soft_rasterize"
    scene = check_scene(name, positions, triangles, resolution)
    formulas = {"coverage": coverage, "falloff": falloff, "aggregation": aggregation, "silhouette": silhouette}
    variant = _Variant.choose(
        name,
        formulas if fragment is None else {**formulas, "fragment": fragment},
        view_depth=choose(name, "depth", depth, {one: one for one in DEPTHS}) == "view",
        perspective_correct=bool(perspective_correct),
    )
    shades = fragment is not None
    tiling = tiling_for(scene.positions, scene.resolution)
    if shades:
        module = variant.module(None, scene.positions, tiling)
        attributes = pack_attributes(name, layout_of(module), attributes)
    attributes = check_attributes(name, attributes, scene)
    channels = attributes.shape[-1]
    if shades:
        channels = check_shading(name, layout_of(module), channels)
    images = max(scene.positions.shape[0], attributes.shape[0])
    scene = scene if images == scene.positions.shape[0] else scene.repeated(images)
    check_image_size(name, scene, min(channels, _MOST_CHANNELS))
    attributes = attributes if images == attributes.shape[0] else attributes.expand(images, -1, -1)
    background = check_background(name, background, scene, channels)
    softness = check_softness(name, scene, sigma=sigma, gamma=gamma, epsilon=epsilon)
    limits = check_limits(name, near, far, cutoff)

    projection, bins = _project_and_bin(name, scene, variant, softness, limits, bool(cull_backfaces), tiling)
    # An image of many channels is several images of the same faces: each pass has all gradients of its own channels.
    passes = []
    colors = [background] if channels <= _MOST_CHANNELS else background.split(_MOST_CHANNELS, dim=-1)
    inputs = [attributes] if channels <= _MOST_CHANNELS else attributes.split(_MOST_CHANNELS, dim=-1)
    for some_background, some_attributes in zip(colors, inputs, strict=True):
        if not shades:
            module = variant.module(some_background.shape[-1], scene.positions, tiling)
        passes.append(
            _render(
                name, module, variant, scene, bins, limits, tiling, projection, some_attributes, softness,
                some_background,
            )
        )  # fmt: skip
    color = passes[0][0] if len(passes) == 1 else torch.cat([one[0] for one in passes], dim=-1)
    images_made = (color, passes[0][1], passes[0][2])
    return SoftImage(*(image if image.dtype == scene.dtype else image.to(scene.dtype) for image in images_made))


@steady()
def soft_silhouette(
    positions: torch.Tensor,
    triangles: torch.Tensor,
    resolution: tuple[int, int],
    *,
    sigma: float | torch.Tensor = 1e-4,
    near: float = 1.0,
    far: float = 100.0,
    depth: str = "view",
    coverage: str | Formula = "squared_distance",
    falloff: str | Formula = "logistic",
    silhouette: str | Formula = "probabilistic",
    cull_backfaces: bool = False,
    cutoff: float = 1e-4,
) -> torch.Tensor:
    """Render the silhouette of triangles alone: the `silhouette` of `soft_rasterize`, at less than half its cost.

    Args:
        positions: [N, V, 4] or [V, 4] float. Clip space. Differentiable.
        triangles: [F, 3] int32 or int64.
        resolution: (height, width) in pixels.
        sigma: scalar or [N]. Softness of coverage, > 0. Differentiable.
        near, far, depth, coverage, falloff, silhouette, cull_backfaces, cutoff: as in `soft_rasterize`.

    Returns:
        [N, H, W], in [0, 1].

    Raises:
        ValueError, TypeError: as `soft_rasterize`.
    """
    name = "soft_silhouette"
    scene = check_scene(name, positions, triangles, resolution)
    variant = _Variant.choose(
        name,
        {"coverage": coverage, "falloff": falloff, "silhouette": silhouette},
        view_depth=choose(name, "depth", depth, {one: one for one in DEPTHS}) == "view",
        with_color=False,
    )
    check_image_size(name, scene, 1)
    softness = check_softness(name, scene, sigma=sigma, gamma=1.0, epsilon=0.0)
    limits = check_limits(name, near, far, cutoff)
    tiling = tiling_for(scene.positions, scene.resolution)
    projection, bins = _project_and_bin(name, scene, variant, softness, limits, bool(cull_backfaces), tiling)
    nothing = [lasting_zeros((1,) * size, scene.positions.dtype, scene.positions.device) for size in (3, 4)]
    module = variant.module(0, scene.positions, tiling)
    _, image, _ = _render(
        name, module, variant, scene, bins, limits, tiling, projection, nothing[0], softness, nothing[1]
    )
    return image if image.dtype == scene.dtype else image.to(scene.dtype)


def check_shading(caller: str, layout: Layout, attributes: int) -> int:
    """The number of channels of the colour, where a fragment shader takes `attributes` numbers from a vertex."""
    if attributes != layout.input_size:
        names = ", ".join(f"{name or 'attributes'}: {size}" for name, size in layout.inputs)
        raise ValueError(
            f"{caller}: attributes must have {layout.input_size} channels for this fragment shader ({names}), "
            f"got {attributes}"
        )
    if layout.channels > _MOST_CHANNELS or attributes > _MOST_SHADED:
        raise ValueError(
            f"{caller}: a fragment shader takes at most {_MOST_SHADED} numbers and gives at most {_MOST_CHANNELS}, "
            f"got one that takes {attributes} and gives {layout.channels}"
        )
    return layout.channels


@dataclass(frozen=True)
class _Variant:
    """What modules are compiled for, and what the formulas' parameters are."""

    choices: tuple[Choice, ...]
    given: Mapping[str, Mapping[str, Any]]  # the values of each formula's parameters
    view_depth: bool
    perspective_correct: bool = True
    with_color: bool = True

    @classmethod
    def choose(cls, caller: str, formulas: Mapping[str, str | Formula], **options: bool) -> _Variant:
        if all(type(value) is str and value in KINDS[kind].shipped for kind, value in formulas.items()):
            return _shipped_variant(tuple(formulas.items()), tuple(options.items()))
        return cls._of(caller, formulas, options)

    @classmethod
    def _of(cls, caller: str, formulas: Mapping[str, str | Formula], options: Mapping[str, bool]) -> _Variant:
        chosen = {kind: choose_formula(caller, kind, value) for kind, value in formulas.items()}
        choices = tuple(choice for choice, _ in chosen.values())
        return cls(choices, {kind: given for kind, (_, given) in chosen.items()}, **options)

    @cached_property
    def keeps_nearest(self) -> bool:
        return Choice("aggregation", "NearestFace", has_fields=False) in self.choices

    @cached_property
    def keeps_largest(self) -> bool:
        return Choice("silhouette", "Largest", has_fields=False) in self.choices

    @cached_property
    def by_kind(self) -> dict[str, tuple[Choice]]:
        return {choice.kind: (choice,) for choice in self.choices}

    @cached_property
    def unites(self) -> bool:
        return Choice("silhouette", "Probabilistic", has_fields=False) in self.choices

    def module(self, channels: int | None, like: torch.Tensor, tiling: Tiling) -> Module:
        """The kernel for an image of `channels`. None: as many as the fragment shader gives."""
        defines = (*self.defines, *tiling.defines)
        defines = defines if channels is None else (*defines, ("CHANNELS", channels))
        return op_module("soft_rasterizer", like, defines, self.choices)

    @cached_property
    def defines(self) -> tuple[tuple[str, int], ...]:
        return (
            ("WITH_COLOR", self.with_color),
            ("VIEW_DEPTH", self.view_depth),
            ("PERSPECTIVE_CORRECT", self.perspective_correct),
            ("KEEPS_NEAREST", self.keeps_nearest),
            ("KEEPS_LARGEST", self.keeps_largest),
            ("UNITES", self.unites),
        )


@cache
def _shipped_variant(formulas: tuple[tuple[str, str], ...], options: tuple[tuple[str, bool], ...]) -> _Variant:
    """One for all calls with the same names: where those are of shipped formulas, nothing can be wrong or change."""
    return _Variant._of("", dict(formulas), dict(options))


def _project_and_bin(
    caller: str,
    scene: Scene,
    variant: _Variant,
    softness: torch.Tensor,
    limits: Limits,
    cull_backfaces: bool,
    tiling: Tiling,
) -> tuple[Projection, Bins]:
    positions, triangles, resolution = scene.positions, scene.triangles, scene.resolution
    extents = _extents(caller, variant, softness, positions, limits.cutoff)
    module, parameters, tensors = _prepare(
        caller, "bin", variant, "coverage", softness, positions, (("TILE", tiling.tile),)
    )
    given = (triangles, parameters, tensors, extents, resolution, cull_backfaces)
    if is_one_threads(module, positions.shape[0], triangles.shape[0]):
        projection = not_yet_projected(positions, resolution)
        return projection, project_and_bin(module, positions, projection.screen, *given)
    projection = project(positions, resolution)
    return projection, bin_faces(module, projection.screen, *given, tiling)


def _prepare(
    caller: str,
    shader: str,
    variant: _Variant,
    kind: str,
    softness: torch.Tensor,
    like: torch.Tensor,
    defines: tuple[tuple[str, int], ...] = (),
) -> tuple[Module, torch.Tensor, dict[str, torch.Tensor]]:
    """A module compiled for the formula of one kind, its parameters and its tensors, by argument."""
    module = op_module(shader, like, defines, variant.by_kind[kind])
    layout, given = layout_of(module), {kind: variant.given[kind]}
    if not layout.takes_anything and not given[kind]:
        return module, softness, {}
    tensors = pack_tensors(caller, layout, given, like)
    arguments = {field.argument: tensor for field, tensor in zip(layout.tensors, tensors, strict=True)}
    return module, pack_parameters(caller, layout, given, softness), arguments


def _extents(caller: str, variant: _Variant, softness: torch.Tensor, like: torch.Tensor, cutoff: float) -> torch.Tensor:
    """[N], as `find_extents`; without a launch where the falloff is as it was."""
    module, parameters, tensors = _prepare(caller, "extents", variant, "falloff", softness, like)
    if layout_of(module).takes_anything:
        return find_extents(module, parameters, tensors, cutoff)
    return _extents_without_parameters(module, cutoff, parameters.shape[0], like.dtype, like.device)


@keep_tensors(64)
def _extents_without_parameters(
    module: Module, cutoff: float, images: int, dtype: torch.dtype, device: torch.device
) -> torch.Tensor:
    """[images], one number for all. After a reload the module is another."""
    return find_extents(module, torch.ones((1, 3), dtype=dtype, device=device), {}, cutoff).expand(images)


def _render(
    caller: str,
    module: Module,
    variant: _Variant,
    scene: Scene,
    bins: Bins,
    limits: Limits,
    tiling: Tiling,
    projection: Projection,
    attributes: torch.Tensor,
    softness: torch.Tensor,
    background: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """One pass: (color, silhouette, depth)."""
    layout = layout_of(module)
    parameters = pack_parameters(caller, layout, variant.given, softness)
    tensors = pack_tensors(caller, layout, variant.given, projection.screen)
    return _SoftRasterize.apply(
        scene.positions, attributes, parameters, background, module, variant, scene, bins, limits, tiling, projection,
        *tensors,
    )  # fmt: skip


def _empty(shape: tuple[int, ...], like: torch.Tensor) -> torch.Tensor:
    return torch.empty(shape, dtype=like.dtype, device=like.device)


class _SoftRasterize(torch.autograd.Function):
    """Binned faces to images, by shaders/soft_rasterizer.slang.

    Tensors: positions [N, V, 4] (the screen's, by `projection`), attributes [N, V, A], parameters [N, 3 + own],
    background [N, H, W, C], the formulas' own (all differentiable) -> color [N, H, W, C], silhouette [N, H, W], depth
    [N, H, W] (all differentiable).
    """

    @staticmethod
    def forward(
        ctx: Any,
        positions: torch.Tensor,
        attributes: torch.Tensor,
        parameters: torch.Tensor,
        background: torch.Tensor,
        module: Module,
        variant: _Variant,
        scene: Scene,
        bins: Bins,
        limits: Limits,
        tiling: Tiling,
        projection: Projection,
        *tensors: torch.Tensor,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        screen = projection.screen
        images, (height, width) = screen.shape[0], scene.resolution
        channels = background.shape[-1] if variant.with_color else 0
        color = _empty((images, height, width, channels), screen)
        silhouette = _empty((images, height, width), screen)
        depth = _empty((images, height, width) if variant.with_color else (0, 1, 1), screen)
        state = _empty((images, height, width, 2 if variant.with_color else 1), screen)
        keeps_winners = variant.keeps_nearest or variant.keeps_largest
        winners = lasting_zeros((1, 1, 1, 1), torch.int32, screen.device)
        if keeps_winners:
            winners = torch.empty((images, height, width, 2), dtype=torch.int32, device=screen.device)
        inputs, outputs = (screen, attributes, parameters, background), (color, silhouette, depth)
        fixed = (scene.triangles, bins.records, bins.tile_faces, bins.tile_offsets, state, winners)
        # Of outputs autograd saves copies of its own kind, which take longer to make than these.
        ctx.save_for_backward(positions, *inputs, *(output.detach() for output in outputs), *fixed, *tensors)
        ctx.module, ctx.limits, ctx.tiling, ctx.projection = module, limits, tiling, projection
        given, own = (*_one_part(inputs), background), _arguments(module, tensors)
        one_thread = module.warp_size == 1
        block = (1, 1, 1) if one_thread else (32, tiling.tile**2 // 32, tiling.splits)
        grid = (tiling.tiles(scene.resolution), 1, images)
        _prepared(module.soft_rasterize, given, outputs, fixed, limits, own).launchRaw(block, grid)
        return outputs

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grad_outputs: torch.Tensor) -> Any:
        positions, *saved = ctx.saved_tensors
        inputs, outputs, fixed, tensors = saved[:4], saved[4:7], saved[7:13], saved[13:]
        grads = [torch.zeros_like(tensor, memory_format=torch.contiguous_format) for tensor in tensors]
        grad_background = torch.empty_like(inputs[3], memory_format=torch.contiguous_format)
        one_thread = ctx.module.warp_size == 1
        images, tiles = len(outputs[1]), ctx.tiling.tiles(outputs[1].shape[1:])
        parts = _parts(tiles, images) if one_thread else 1
        spread = inputs[:3]
        if parts > 1:
            spread = [tensor.unsqueeze(1).expand(-1, parts, *tensor.shape[1:]) for tensor in spread]
        sums = [torch.zeros_like(tensor, memory_format=torch.contiguous_format) for tensor in spread]
        one_or_more = _one_part if parts == 1 else _several_parts
        launch = _prepared(
            ctx.module.soft_rasterize.bwd,
            (*zip(one_or_more(spread), one_or_more(sums), strict=True), (inputs[3], grad_background)),
            tuple(zip(outputs, grad_outputs, strict=True)),
            fixed,
            ctx.limits,
            _arguments(ctx.module, tensors, grads),
        )
        block = (1, 1, 1) if one_thread else (32, ctx.tiling.tile**2 // 32, 1)
        grid = (parts if one_thread else tiles, ctx.tiling.splits, images)
        launch.launchRaw(block, grid)
        needed = (*ctx.needs_input_grad[:4], *ctx.needs_input_grad[11:])
        grads = [*(one.sum(1) if parts > 1 else one for one in sums), grad_background, *grads]
        if needed[0]:
            grads[0] = ctx.projection.reverse(positions, grads[0])
        wanted = [grad if need else None for grad, need in zip(grads, needed, strict=True)]
        grad_module = grad_variant = grad_scene = grad_bins = grad_limits = grad_tiling = grad_projection = None
        return (
            *wanted[:4], grad_module, grad_variant, grad_scene, grad_bins, grad_limits, grad_tiling, grad_projection,
            *wanted[4:],
        )  # fmt: skip


def _one_part(tensors: Sequence[torch.Tensor]) -> tuple[torch.Tensor, ...]:
    """Screen, attributes and parameters as the kernel takes them, where an image is one part."""
    screen, attributes, parameters, *_ = tensors
    return screen.unsqueeze(1), attributes.unsqueeze(1), parameters


def _several_parts(tensors: Sequence[torch.Tensor]) -> tuple[torch.Tensor, ...]:
    """The same from tensors that have a dimension of parts already."""
    screen, attributes, parameters = tensors
    return screen, attributes, parameters.flatten(0, 1)


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
    kernel: Kernel, inputs: tuple, outputs: tuple, fixed: tuple, limits: Limits, tensors: dict[str, Any]
) -> Launchable:
    """soft_rasterize or its reverse, ready to launch. Inputs and outputs may be (value, grad)."""
    screen, attributes, parameters, background = inputs
    out_color, out_silhouette, out_depth = outputs
    triangles, records, tile_faces, tile_offsets, state, winners = fixed
    return kernel(
        screen=screen, triangles=triangles, attributes=attributes, parameters=parameters, background=background,
        records=records, tile_faces=tile_faces, tile_offsets=tile_offsets, state=state, winners=winners,
        out_color=out_color, out_silhouette=out_silhouette, out_depth=out_depth,
        near=limits.near, far=limits.far, cutoff=limits.cutoff, **tensors,
    )  # fmt: skip
