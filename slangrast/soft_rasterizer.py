"""The soft rasterizer: images that are smooth in every vertex, by the kernels of shaders/soft_rasterizer.slang."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch

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
from .formulas import Formula, Layout, pack_attributes, pack_parameters, pack_tensors
from .op_modules import Tiling, layout_of, op_module, tiling_for
from .projection import Projection, not_yet_projected, project
from .runtime import Module
from .runtime.kept_tensors import keep_tensors
from .runtime.steady import steady
from .soft_function import Plan, SoftRasterize, draw
from .soft_variant import Variant

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

    Faces that have a vertex at or behind the eye (w <= 0), a coordinate that is not finite (1e30 counts as such), or no
    area are dropped, and send no gradient. So do fragments below `cutoff`: at a face's reach the silhouette has a step
    of that height.
    """
    name = "soft_rasterize"
    scene = check_scene(name, positions, triangles, resolution)
    formulas = {"coverage": coverage, "falloff": falloff, "aggregation": aggregation, "silhouette": silhouette}
    variant = Variant.choose(
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
        plan = Plan(module, variant, scene, projection, limits, tiling)
        passes.append(_render(name, plan, bins, some_attributes, softness, some_background))
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
    variant = Variant.choose(
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
    plan = Plan(module, variant, scene, projection, limits, tiling)
    _, image, _ = _render(name, plan, bins, nothing[0], softness, nothing[1])
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


def _project_and_bin(
    caller: str,
    scene: Scene,
    variant: Variant,
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
    variant: Variant,
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


def _extents(caller: str, variant: Variant, softness: torch.Tensor, like: torch.Tensor, cutoff: float) -> torch.Tensor:
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
    caller: str, plan: Plan, bins: Bins, attributes: torch.Tensor, softness: torch.Tensor, background: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """One pass: (color, silhouette, depth)."""
    layout, given = layout_of(plan.module), plan.variant.given
    parameters = pack_parameters(caller, layout, given, softness)
    tensors = pack_tensors(caller, layout, given, plan.projection.screen)
    if not torch.is_grad_enabled():  # the way by autograd takes longer
        return draw(plan, bins, attributes, parameters, background, *tensors)[1]
    return SoftRasterize.apply(plan, bins, plan.scene.positions, attributes, parameters, background, *tensors)
