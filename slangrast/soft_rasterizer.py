"""The soft rasterizer: images that are smooth in every vertex, by the kernels of shaders/soft_rasterizer.slang."""

from __future__ import annotations

import functools
from dataclasses import dataclass
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
)
from .binning import TILE, Bins, bin_faces
from .runtime import Kernel, Module, load_module

COVERAGES = {
    "squared_distance": "SquaredDistance",
    "distance": "Distance",
    "barycentric": "Barycentric",
    "edge_product": "EdgeProduct",
    "hard": "HardCoverage",
}
FALLOFFS = {"logistic": "Logistic"}
AGGREGATIONS = {"softmax": "Softmax", "additive": "Additive", "hard": "NearestFace"}
SILHOUETTES = {"probabilistic": "Probabilistic", "max": "Largest", "sum": "ClampedSum"}
DEPTHS = ("view", "ndc")

# More channels than this are rendered in several passes: a thread holds every channel of its pixels at once.
_MOST_CHANNELS = 16


class SoftImage(NamedTuple):
    """What `soft_rasterize` returns. Row 0 is the top row."""

    color: torch.Tensor  # [N, H, W, C]
    silhouette: torch.Tensor  # [N, H, W], in [0, 1]
    depth: torch.Tensor  # [N, H, W], along the view axis; `far` where there is nothing


def soft_rasterize(
    positions: torch.Tensor,
    triangles: torch.Tensor,
    attributes: torch.Tensor,
    resolution: tuple[int, int],
    *,
    sigma: float | torch.Tensor = 1e-4,
    gamma: float | torch.Tensor = 1e-4,
    epsilon: float | torch.Tensor = 1e-3,
    background: float | tuple[float, ...] | torch.Tensor | None = None,
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
        attributes: [N, V, C] or [V, C] float, any C. Differentiable.
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
        falloff: "logistic".
        aggregation: "softmax" as above; "additive", log w_j = D_j + z_j / gamma; "hard", the nearest face that covers
            the pixel centre.
        silhouette: "probabilistic" as above; "max"; "sum", clamped to 1.
        perspective_correct: interpolate attributes in space rather than on the screen.
        cull_backfaces: drop faces whose vertices run clockwise on the screen.
        cutoff: coverage below which a fragment is dropped, in (0, 0.5]. It bounds how far a face reaches.

    Returns:
        A `SoftImage` of color [N, H, W, C], silhouette [N, H, W] and depth [N, H, W].

    Raises:
        ValueError: a shape, range or name is not one of the above, or tensors are on different devices.
        TypeError: an argument is not of the type above.

    Faces that have a vertex at or behind the eye (w <= 0), a coordinate that is not finite, or no area are dropped, and
    send no gradient. So do fragments below `cutoff`: the image has a step of that height at a face's reach.
    """
    name = "soft_rasterize"
    scene = check_scene(name, positions, triangles, resolution)
    variant = _Variant(
        coverage=choose(name, "coverage", coverage, COVERAGES),
        falloff=choose(name, "falloff", falloff, FALLOFFS),
        aggregation=choose(name, "aggregation", aggregation, AGGREGATIONS),
        silhouette=choose(name, "silhouette", silhouette, SILHOUETTES),
        view_depth=choose(name, "depth", depth, {d: d for d in DEPTHS}) == "view",
        perspective_correct=bool(perspective_correct),
    )
    attributes = check_attributes(name, attributes, scene)
    images = max(len(scene.positions), len(attributes))
    scene = scene.repeated(images)
    channels = attributes.shape[-1]
    check_image_size(name, scene, min(channels, _MOST_CHANNELS))
    attributes = attributes.expand(images, -1, -1)
    background = check_background(name, background, scene, channels)
    softness = check_softness(name, scene, sigma=sigma, gamma=gamma, epsilon=epsilon)
    limits = check_limits(name, near, far, cutoff)

    screen = _Project.apply(scene.positions, scene.resolution)
    bins = _bin(scene, variant, screen, softness, limits, bool(cull_backfaces))
    # An image of many channels is several images of the same faces: each pass has all gradients of its own channels.
    passes = []
    for first in range(0, max(channels, 1), _MOST_CHANNELS):
        part = slice(first, first + _MOST_CHANNELS)
        passes.append(
            _SoftRasterize.apply(
                screen, attributes[..., part], softness, background[..., part], scene, variant, bins, limits
            )
        )
    color = passes[0][0] if len(passes) == 1 else torch.cat([one[0] for one in passes], dim=-1)
    return SoftImage(*(image.to(scene.dtype) for image in (color, passes[0][1], passes[0][2])))


def soft_silhouette(
    positions: torch.Tensor,
    triangles: torch.Tensor,
    resolution: tuple[int, int],
    *,
    sigma: float | torch.Tensor = 1e-4,
    near: float = 1.0,
    far: float = 100.0,
    depth: str = "view",
    coverage: str = "squared_distance",
    falloff: str = "logistic",
    silhouette: str = "probabilistic",
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
    variant = _Variant(
        coverage=choose(name, "coverage", coverage, COVERAGES),
        falloff=choose(name, "falloff", falloff, FALLOFFS),
        silhouette=choose(name, "silhouette", silhouette, SILHOUETTES),
        view_depth=choose(name, "depth", depth, {d: d for d in DEPTHS}) == "view",
        with_color=False,
    )
    check_image_size(name, scene, 1)
    softness = check_softness(name, scene, sigma=sigma, gamma=1.0, epsilon=0.0)
    limits = check_limits(name, near, far, cutoff)
    screen = _Project.apply(scene.positions, scene.resolution)
    bins = _bin(scene, variant, screen, softness, limits, bool(cull_backfaces))
    nothing = screen.new_zeros((1, 1, 1))
    _, image, _ = _SoftRasterize.apply(screen, nothing, softness, nothing[..., None], scene, variant, bins, limits)
    return image.to(scene.dtype)


@dataclass(frozen=True)
class _Variant:
    """What a module is compiled for."""

    coverage: str
    falloff: str
    silhouette: str
    view_depth: bool
    aggregation: str = "Softmax"
    perspective_correct: bool = True
    with_color: bool = True

    @property
    def keeps_winners(self) -> bool:
        return self.aggregation == "NearestFace" or self.silhouette == "Largest"

    def binning_module(self, like: torch.Tensor) -> Module:
        return _load(
            "bin", like.device.type, _precision(like), (("COVERAGE", self.coverage), ("FALLOFF", self.falloff))
        )

    def module(self, channels: int, like: torch.Tensor) -> Module:
        defines = (
            ("COVERAGE", self.coverage),
            ("FALLOFF", self.falloff),
            ("AGGREGATION", self.aggregation),
            ("SILHOUETTE", self.silhouette),
            ("CHANNELS", channels),
            ("WITH_COLOR", self.with_color),
            ("VIEW_DEPTH", self.view_depth),
            ("PERSPECTIVE_CORRECT", self.perspective_correct),
            ("TILE", TILE),
            ("PATCH", _patch(like.device.type)),
        )
        return _load("soft_rasterizer", like.device.type, _precision(like), defines)


@functools.cache
def _load(shader: str, device_type: str, precision: str, defines: tuple[tuple[str, Any], ...] = ()) -> Module:
    """One module for one variant, kept for the life of the process."""
    return load_module(shader, device=device_type, defines=dict(defines), precision=precision)


class _Project(torch.autograd.Function):
    """Clip space to screen space, by shaders/project.slang.

    Tensors: positions [N, V, 4] (differentiable) -> screen [N, V, 4] (differentiable): x, y, z/w, 1/w.
    """

    @staticmethod
    def forward(ctx: Any, positions: torch.Tensor, resolution: tuple[int, int]) -> torch.Tensor:
        ctx.save_for_backward(positions)
        ctx.resolution = resolution
        screen = positions.new_empty(positions.shape)
        module, image = _Project.module_and_size(positions, resolution)
        launch = module.project(positions=positions, out_screen=screen, **image)
        module.launch(launch, over=(positions.shape[1], positions.shape[0]))
        return screen

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_screen: torch.Tensor) -> Any:
        (positions,) = ctx.saved_tensors
        grad_positions = torch.zeros_like(positions, memory_format=torch.contiguous_format)
        # The reverse that Slang generates stores the outputs once more. Autograd owns the first; this copy is let go.
        screen = positions.new_empty(positions.shape)
        module, image = _Project.module_and_size(positions, ctx.resolution)
        launch = module.project.bwd(positions=(positions, grad_positions), out_screen=(screen, grad_screen), **image)
        module.launch(launch, over=(positions.shape[1], positions.shape[0]))
        grad_resolution = None
        return grad_positions, grad_resolution

    @staticmethod
    def module_and_size(positions: torch.Tensor, resolution: tuple[int, int]) -> tuple[Module, dict[str, int]]:
        module = _load("project", positions.device.type, _precision(positions))
        return module, {"height": resolution[0], "width": resolution[1]}


class _SoftRasterize(torch.autograd.Function):
    """Binned faces to images, by shaders/soft_rasterizer.slang.

    Tensors: screen [N, V, 4], attributes [N, V, C], softness [N, 3], background [N, H, W, C] (all differentiable)
    -> color [N, H, W, C], silhouette [N, H, W], depth [N, H, W] (all differentiable).
    """

    @staticmethod
    def forward(
        ctx: Any,
        screen: torch.Tensor,
        attributes: torch.Tensor,
        softness: torch.Tensor,
        background: torch.Tensor,
        scene: Scene,
        variant: _Variant,
        bins: Bins,
        limits: Limits,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        images, (height, width) = len(screen), scene.resolution
        channels = attributes.shape[-1] if variant.with_color else 0
        color = screen.new_empty((images, height, width, channels))
        silhouette = screen.new_empty((images, height, width))
        depth = screen.new_empty((images, height, width) if variant.with_color else (1, 1, 1))
        state = screen.new_empty((images, height, width, 2))
        winners_shape = (images, height, width, 2) if variant.keeps_winners else (1, 1, 1, 1)
        winners = torch.empty(winners_shape, dtype=torch.int32, device=screen.device)
        inputs, outputs = (screen, attributes, softness, background), (color, silhouette, depth)
        fixed = (scene.triangles, bins.bounds, bins.tile_faces, bins.tile_offsets, state, winners)
        ctx.save_for_backward(*inputs, *outputs, *fixed)
        ctx.variant, ctx.limits = variant, limits
        _launch(variant.module(channels, screen).soft_rasterize, inputs, outputs, fixed, limits)
        return outputs

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grad_outputs: torch.Tensor) -> Any:
        inputs, outputs, fixed = ctx.saved_tensors[:4], ctx.saved_tensors[4:7], ctx.saved_tensors[7:]
        grad_inputs = [torch.zeros_like(tensor, memory_format=torch.contiguous_format) for tensor in inputs]
        kernel = ctx.variant.module(outputs[0].shape[-1], inputs[0]).soft_rasterize.bwd
        _launch(
            kernel,
            tuple(zip(inputs, grad_inputs, strict=True)),
            tuple(zip(outputs, grad_outputs, strict=True)),
            fixed,
            ctx.limits,
        )
        wanted = [grad if need else None for grad, need in zip(grad_inputs, ctx.needs_input_grad[:4], strict=True)]
        grad_scene = grad_variant = grad_bins = grad_limits = None
        return (*wanted, grad_scene, grad_variant, grad_bins, grad_limits)


def _launch(kernel: Kernel, inputs: tuple, outputs: tuple, fixed: tuple, limits: Limits) -> None:
    """Launch soft_rasterize or its reverse, with a block for each tile. Inputs and outputs may be (value, grad)."""
    screen, attributes, softness, background = inputs
    out_color, out_silhouette, out_depth = outputs
    triangles, bounds, tile_faces, tile_offsets, state, winners = fixed
    images, height, width, _ = state.shape
    threads = TILE // _patch(state.device.type)
    kernel(
        screen=screen, triangles=triangles, attributes=attributes, softness=softness, background=background,
        bounds=bounds, tile_faces=tile_faces, tile_offsets=tile_offsets, state=state, winners=winners,
        out_color=out_color, out_silhouette=out_silhouette, out_depth=out_depth,
        near=limits.near, far=limits.far, cutoff=limits.cutoff,
    ).launchRaw(blockSize=(threads, threads, 1), gridSize=(-(-width // TILE), -(-height // TILE), images))  # fmt: skip


@torch.no_grad()
def _bin(
    scene: Scene,
    variant: _Variant,
    screen: torch.Tensor,
    softness: torch.Tensor,
    limits: Limits,
    cull_backfaces: bool,
) -> Bins:
    return bin_faces(
        variant.binning_module(screen),
        screen,
        scene.triangles,
        softness,
        scene.resolution,
        limits.cutoff,
        cull_backfaces,
    )


def _precision(tensor: torch.Tensor) -> str:
    return "float64" if tensor.dtype == torch.float64 else "float32"


def _patch(device_type: str) -> int:
    """How many pixels across a thread renders: a whole tile on the CPU, so that its rows become vectors."""
    return TILE if device_type == "cpu" else 1
