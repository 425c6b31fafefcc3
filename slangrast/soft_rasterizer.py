"""The soft rasterizer: images that are smooth in every vertex, by the kernels of shaders/soft_rasterizer.slang."""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch.autograd.function import once_differentiable

from .binning import TILE, Bins, bin_faces
from .runtime import Module, load_module

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
_SMALLEST_GAMMA = 1e-8


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

    with d_j the distance to the border of the face, in units of half the shorter image side, delta_j = 1 inside the face
    and -1 outside, and w normalised to sum 1 (Liu et al., "Soft Rasterizer", 2019, equations 1 to 4; the depth
    score and the background's weight as in its section 3.2). The gradients are the exact derivatives of these images.

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
    scene = _check_scene(name, positions, triangles, resolution)
    variant = _Variant(
        coverage=_choose(name, "coverage", coverage, COVERAGES),
        falloff=_choose(name, "falloff", falloff, FALLOFFS),
        aggregation=_choose(name, "aggregation", aggregation, AGGREGATIONS),
        silhouette=_choose(name, "silhouette", silhouette, SILHOUETTES),
        view_depth=_choose(name, "depth", depth, {d: d for d in DEPTHS}) == "view",
        perspective_correct=bool(perspective_correct),
    )
    attributes = _check_attributes(name, attributes, scene)
    images = max(len(scene.positions), len(attributes))
    scene = scene.repeated(images)
    channels = attributes.shape[-1]
    attributes = attributes.expand(images, -1, -1)
    background = _check_background(name, background, scene, channels)
    softness = _check_softness(name, scene, sigma=sigma, gamma=gamma, epsilon=epsilon)
    limits = _check_limits(name, near, far, cutoff)

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
    scene = _check_scene(name, positions, triangles, resolution)
    variant = _Variant(
        coverage=_choose(name, "coverage", coverage, COVERAGES),
        falloff=_choose(name, "falloff", falloff, FALLOFFS),
        silhouette=_choose(name, "silhouette", silhouette, SILHOUETTES),
        view_depth=_choose(name, "depth", depth, {d: d for d in DEPTHS}) == "view",
        with_color=False,
    )
    softness = _check_softness(name, scene, sigma=sigma, gamma=1.0, epsilon=0.0)
    limits = _check_limits(name, near, far, cutoff)
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

    def module(self, channels: int, like: torch.Tensor) -> Module:
        return _load("soft_rasterizer", like.device.type, _precision(like), self, channels)


@functools.cache
def _load(shader: str, device_type: str, precision: str, *key: Any) -> Module:
    """One module for one variant, kept for the life of the process."""
    if shader == "project":
        defines = {}
    elif shader == "bin":
        defines = {"COVERAGE": key[0], "FALLOFF": key[1]}
    else:
        variant, channels = key
        defines = {
            "COVERAGE": variant.coverage,
            "FALLOFF": variant.falloff,
            "AGGREGATION": variant.aggregation,
            "SILHOUETTE": variant.silhouette,
            "CHANNELS": channels,
            "WITH_COLOR": variant.with_color,
            "VIEW_DEPTH": variant.view_depth,
            "PERSPECTIVE_CORRECT": variant.perspective_correct,
            "TILE": TILE,
            "PATCH": _patch(device_type),
        }
    return load_module(shader, device=device_type, defines=defines, precision=precision)


@dataclass(frozen=True)
class _Limits:
    near: float
    far: float
    cutoff: float


@dataclass(frozen=True)
class _Scene:
    """Checked inputs, in the precision that the kernels compute in."""

    positions: torch.Tensor  # [N, V, 4]
    triangles: torch.Tensor  # [F, 3] int32
    resolution: tuple[int, int]
    dtype: torch.dtype  # of the user's tensors, and of the images

    def repeated(self, images: int) -> _Scene:
        return _Scene(self.positions.expand(images, -1, -1), self.triangles, self.resolution, self.dtype)


class _Project(torch.autograd.Function):
    """Clip space to screen space, by shaders/project.slang.

    Tensors: positions [N, V, 4] (differentiable) -> screen [N, V, 4] (differentiable): x, y, z/w, 1/w.
    """

    @staticmethod
    def forward(ctx, positions, resolution):
        ctx.save_for_backward(positions)
        ctx.resolution = resolution
        screen = positions.new_empty(positions.shape)
        module, image = _Project.module_and_size(positions, resolution)
        launch = module.project(positions=positions, out_screen=screen, **image)
        module.launch(launch, over=(positions.shape[1], positions.shape[0]))
        return screen

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_screen):
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
    def module_and_size(positions, resolution):
        module = _load("project", positions.device.type, _precision(positions))
        return module, {"height": resolution[0], "width": resolution[1]}


class _SoftRasterize(torch.autograd.Function):
    """Binned faces to images, by shaders/soft_rasterizer.slang.

    Tensors: screen [N, V, 4], attributes [N, V, C], softness [N, 3], background [N, H, W, C] (all differentiable)
    -> color [N, H, W, C], silhouette [N, H, W], depth [N, H, W] (all differentiable).
    """

    @staticmethod
    def forward(ctx, screen, attributes, softness, background, scene, variant, bins, limits):
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
    def backward(ctx, *grad_outputs):
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


def _launch(kernel, inputs, outputs, fixed, limits):
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
def _bin(scene: _Scene, variant: _Variant, screen, softness, limits: _Limits, cull_backfaces: bool) -> Bins:
    module = _load("bin", screen.device.type, _precision(screen), variant.coverage, variant.falloff)
    return bin_faces(module, screen, scene.triangles, softness, scene.resolution, limits.cutoff, cull_backfaces)


def _precision(tensor: torch.Tensor) -> str:
    return "float64" if tensor.dtype == torch.float64 else "float32"


def _patch(device_type: str) -> int:
    """How many pixels across a thread renders: a whole tile on the CPU, so that its rows become vectors."""
    return TILE if device_type == "cpu" else 1


# Checks. Each raises in the name of the public function.


def _check_scene(name: str, positions: Any, triangles: Any, resolution: Any) -> _Scene:
    dtype = _check_float(name, "positions", positions)
    if positions.dim() not in (2, 3) or positions.shape[-1] != 4:
        raise ValueError(f"{name}: positions must be [N, V, 4] or [V, 4] float, got {_show(positions)}")
    if not isinstance(triangles, torch.Tensor):
        raise TypeError(f"{name}: triangles must be a tensor [F, 3] of int32 or int64, got {type(triangles).__name__}")
    if triangles.dim() != 2 or triangles.shape[1] != 3 or triangles.dtype not in (torch.int32, torch.int64):
        raise ValueError(f"{name}: triangles must be [F, 3] int32 or int64, got {_show(triangles)}")
    _check_device(name, "triangles", triangles, positions)
    positions = positions if positions.dim() == 3 else positions[None]
    vertices = positions.shape[1]
    # On CUDA the look at the indices would stall the device, and is left out.
    if triangles.numel() and triangles.device.type == "cpu":
        low, high = (int(bound) for bound in torch.aminmax(triangles))
        if low < 0 or high >= vertices:
            raise ValueError(
                f"{name}: triangles must hold indices of the {vertices} vertices, 0 to {vertices - 1}, "
                f"got indices from {low} to {high}"
            )
    resolution = _check_resolution(name, resolution)
    return _Scene(_computed_in(positions), triangles.to(torch.int32), resolution, dtype)


def _check_resolution(name: str, resolution: Any) -> tuple[int, int]:
    try:
        height, width = (int(side) for side in resolution)
        valid = (height, width) == tuple(resolution) and height >= 1 and width >= 1
    except (TypeError, ValueError):
        valid = False
    if not valid:
        raise ValueError(f"{name}: resolution must be (height, width), two integers of at least 1, got {resolution!r}")
    return height, width


def _check_attributes(name: str, attributes: Any, scene: _Scene) -> torch.Tensor:
    _check_float(name, "attributes", attributes)
    images, vertices, _ = scene.positions.shape
    if attributes.dim() not in (2, 3) or attributes.shape[-2] != vertices:
        raise ValueError(
            f"{name}: attributes must be [N, V, C] or [V, C] float with V = {vertices}, got {_show(attributes)}"
        )
    _check_device(name, "attributes", attributes, scene.positions)
    attributes = attributes if attributes.dim() == 3 else attributes[None]
    if len(attributes) != images and 1 not in (len(attributes), images):
        raise ValueError(f"{name}: attributes must be for 1 or {images} images like positions, got {len(attributes)}")
    _check_same_float(name, "attributes", attributes, scene)
    return _computed_in(attributes)


def _check_background(name: str, background: Any, scene: _Scene, channels: int) -> torch.Tensor:
    """As [N, H, W, C], without a copy."""
    images, (height, width) = len(scene.positions), scene.resolution
    if background is None:
        background = 0.0
    if not isinstance(background, torch.Tensor):
        try:
            background = torch.tensor(background, dtype=scene.positions.dtype, device=scene.positions.device)
        except (TypeError, ValueError, RuntimeError):
            raise TypeError(
                f"{name}: background must be None, a number, a sequence of C numbers or a tensor, got {background!r}"
            ) from None
    _check_float(name, "background", background)
    _check_device(name, "background", background, scene.positions)
    _check_same_float(name, "background", background, scene)
    shape = tuple(background.shape)
    image, image_of_each = (height, width, channels), (images, height, width, channels)
    if shape == (images, channels) and len(shape) == 2:
        background = background[:, None, None, :]
    elif shape not in ((), (channels,), image, image_of_each, (1, *image)):
        raise ValueError(
            f"{name}: background must be a number, [C], [N, C], [H, W, C] or [N, H, W, C] with N, H, W, C = "
            f"{image_of_each}, got {list(shape)}"
        )
    return _computed_in(background).expand(images, height, width, channels)


def _check_softness(name: str, scene: _Scene, **values: Any) -> torch.Tensor:
    """sigma, gamma and epsilon of each image, as [N, 3]."""
    images = len(scene.positions)
    least = {"sigma": 0.0, "gamma": _SMALLEST_GAMMA}
    columns = []
    for key, value in values.items():
        if isinstance(value, torch.Tensor):
            _check_float(name, key, value)
            _check_device(name, key, value, scene.positions, unless_scalar=True)
            if tuple(value.shape) not in ((), (1,), (images,)):
                raise ValueError(f"{name}: {key} must be a number or a tensor [] or [{images}], got {_show(value)}")
            known = value.detach() if value.device.type == "cpu" else None
        elif isinstance(value, (int, float)) and not isinstance(value, bool):
            value = known = torch.tensor(float(value), dtype=torch.float64)
        else:
            raise TypeError(f"{name}: {key} must be a number or a tensor, got {type(value).__name__}")
        if known is not None:
            _check_softness_range(name, key, known, least.get(key))
        columns.append(value.to(scene.positions).expand(images))
    return torch.stack(columns, dim=1)


def _check_softness_range(name: str, key: str, value: torch.Tensor, least: float | None) -> None:
    if not bool(torch.isfinite(value).all()):
        raise ValueError(f"{name}: {key} must be finite, got {value.tolist()}")
    if key == "sigma" and not bool((value > 0).all()):
        raise ValueError(f"{name}: sigma must be > 0, got {value.tolist()}")
    if key == "gamma" and least is not None and not bool((value.double() >= least * (1 - 1e-6)).all()):
        raise ValueError(f"{name}: gamma must be at least {least:g}, got {value.tolist()}")


def _check_limits(name: str, near: Any, far: Any, cutoff: Any) -> _Limits:
    for key, value in {"near": near, "far": far, "cutoff": cutoff}.items():
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise TypeError(f"{name}: {key} must be a number, got {type(value).__name__}")
        if not math.isfinite(value):
            raise ValueError(f"{name}: {key} must be finite, got {value}")
    if not 0 < near < far:
        raise ValueError(f"{name}: near and far must be 0 < near < far, got near {near} and far {far}")
    if not 0 < cutoff <= 0.5:
        raise ValueError(f"{name}: cutoff must be in (0, 0.5], got {cutoff}")
    return _Limits(float(near), float(far), float(cutoff))


def _check_float(name: str, key: str, value: Any) -> torch.dtype:
    if not isinstance(value, torch.Tensor):
        raise TypeError(f"{name}: {key} must be a float tensor, got {type(value).__name__}")
    if value.dtype not in (torch.float32, torch.float64, torch.float16, torch.bfloat16):
        raise TypeError(f"{name}: {key} must be float32, float64, float16 or bfloat16, got {_show(value)}")
    if value.dtype == torch.float64 and value.device.type != "cpu":
        raise ValueError(f"{name}: {key} must be float32 on {value.device}: float64 runs on the CPU, got float64")
    return value.dtype


def _check_same_float(name: str, key: str, value: torch.Tensor, scene: _Scene) -> None:
    if (value.dtype == torch.float64) != (scene.positions.dtype == torch.float64):
        dtype = str(scene.dtype).removeprefix("torch.")
        raise ValueError(f"{name}: {key} must be {dtype} like positions, got {_show(value)}")


def _check_device(name: str, key: str, value: torch.Tensor, like: torch.Tensor, unless_scalar: bool = False) -> None:
    if value.device != like.device and not (unless_scalar and value.dim() == 0):
        raise ValueError(f"{name}: {key} must be on {like.device} like positions, got a tensor on {value.device}")


def _choose(name: str, key: str, value: Any, allowed: dict[str, str]) -> str:
    if value not in allowed:
        raise ValueError(f"{name}: {key} must be one of {sorted(allowed)}, got {value!r}")
    return allowed[value]


def _computed_in(tensor: torch.Tensor) -> torch.Tensor:
    """Half and bfloat16 are computed in float32; autograd casts the gradient back."""
    return tensor.float() if tensor.dtype in (torch.float16, torch.bfloat16) else tensor


def _show(tensor: torch.Tensor) -> str:
    return f"{list(tensor.shape)} {str(tensor.dtype).removeprefix('torch.')}"
