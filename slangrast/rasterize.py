"""The hard rasterizer: which triangle each pixel sees, and where on it, by the kernels of shaders/rasterize.slang."""

from __future__ import annotations

import dataclasses
import functools
from dataclasses import dataclass, field
from typing import Any

import torch
from torch.autograd.function import once_differentiable

from .arguments import Scene, check_image_size, check_scene, lasting_zeros
from .list_room import room_for
from .op_modules import TILE, has_warps, op_module, patch_of
from .runtime import Kernel, Launchable, Module
from .runtime.steady import steady

LARGEST_SIDE = 8192  # pixel positions and tile tests are made for this
_MOST_ENTRIES = 2**31 - 1
_RUN = 32  # as in the shaders
_SMALL_BOX = 64  # as in the shader: with warps, one thread draws a triangle whose box has no more pixels
_NO_SMALL = 0x40000000_FFFFFFFF  # of nearest_word.slang: the triangle -1 at a depth of 2, beyond the far plane
_WARPS_AT_LEAST = 2048  # a quarter of what a large GPU holds: with fewer, several share each triangle's tiles
_FEW_PAIRS = 256  # CPU: of tiles and triangles; to try them all is sooner done than to list them


@dataclass(frozen=True, eq=False)
class GeometryBuffer:
    """What `rasterize` returns: for each pixel, the nearest triangle and where on it the pixel falls.

    Row 0 is the top row. Every float tensor is 0 where the image is empty, and differentiable in the positions that
    were rasterized; in float32, or float64 where positions are.
    """

    triangle_id: torch.Tensor  # [N, H, W] int32: row of `triangles`, -1 where the image is empty
    barycentrics: torch.Tensor  # [N, H, W, 2]: perspective-correct weights of vertices 0 and 1; that of 2 is the rest
    depth: torch.Tensor  # [N, H, W]: z/w, in [-1, 1]
    inverse_w: torch.Tensor  # [N, H, W]: 1/w
    positions: torch.Tensor  # [N, V, 4], or [1, V, 4] where images share it: what was rasterized
    triangles: torch.Tensor  # [F, 3] int32
    ranges: torch.Tensor  # [N, 2] int32: the first triangle of each image, and their number
    resolution: tuple[int, int]
    _bins: _Bins = field(repr=False)
    _slopes: list[torch.Tensor] = field(default_factory=list, repr=False)  # computed when first asked for

    @property
    def mask(self) -> torch.Tensor:
        """[N, H, W] bool: True where a triangle is seen."""
        return self.triangle_id >= 0

    @property
    def barycentric_derivatives(self) -> torch.Tensor:
        """[N, H, W, 4]: (du/dX, du/dY, dv/dX, dv/dY) with u, v the `barycentrics`, per pixel, X to the right, Y down.

        Differentiable in positions. Computed at the first use, and kept.
        """
        # Not by `rasterize` itself: it would write 36 bytes a pixel in place of 20, for all who never ask. Whoever asks
        # pays with one more look at each pixel's triangle.
        wanted = self.positions.requires_grad and torch.is_grad_enabled()
        if not self._slopes or (wanted and not self._slopes[0].requires_grad):
            self._slopes[:] = [_Differentiate.apply(self.positions, self.triangles, self.triangle_id)]
        return self._slopes[0]


@steady()
def rasterize(
    positions: torch.Tensor,
    triangles: torch.Tensor,
    resolution: tuple[int, int],
    *,
    ranges: torch.Tensor | None = None,
) -> GeometryBuffer:
    """Find the nearest triangle at each pixel centre, and where on it the pixel falls.

    Triangles are tested by their edge functions in homogeneous coordinates (Olano and Greer, 1997), so that one that
    crosses the near plane or the eye is drawn to the pixel, without clipping. Both windings are drawn. A pixel centre
    on an edge belongs to one of the triangles that share it, by the top-left rule. Where depths are equal, the triangle
    with the lower index is seen.

    Which triangle a pixel sees is a step function of the positions. The gradients are those of the values inside the
    triangles; none of them moves a silhouette.

    Args:
        positions: [N, V, 4] or [V, 4] float. Clip space, OpenGL style: x right, y up, visible where z/w is in [-1, 1]
            and w > 0, smaller is nearer. x/w from -1 to 1 is the width of the image, y/w its height. Differentiable.
        triangles: [F, 3] int32 or int64. Indices of vertices, in either winding.
        resolution: (height, width) in pixels, each from 1 to 8192.
        ranges: [N, 2] int32 or int64. The first triangle of each image and their number, for images of different meshes
            in one list. None: all triangles in every image. With ranges, positions may be [V, 4] for all images.

    Returns:
        A `GeometryBuffer`: triangle_id, barycentrics, depth, inverse_w, mask and barycentric_derivatives.

    Raises:
        ValueError: a shape or range is not one of the above, or tensors are on different devices.
        TypeError: an argument is not of the type above.

    A triangle that has a coordinate which is not finite, or 1e18 pixels away, or no area, is dropped.

    Example:
        >>> import torch, slangrast as sr
        >>> corners = [[-1, -1, 0, 1], [1, -1, 0, 1], [-1, 1, 0, 1], [1, 1, 0, 1]]  # of the image, half way in depth
        >>> positions = torch.tensor(corners, dtype=torch.float32)
        >>> geometry = sr.rasterize(positions, torch.tensor([[0, 1, 2], [1, 3, 2]]), (3, 4))
        >>> geometry.triangle_id[0]
        tensor([[0, 1, 1, 1],
                [0, 0, 1, 1],
                [0, 0, 0, 1]], dtype=torch.int32)
    """
    name = "rasterize"
    scene = check_scene(name, positions, triangles, resolution)
    height, width = scene.resolution
    if max(height, width) > LARGEST_SIDE:
        raise ValueError(f"{name}: resolution must be at most {LARGEST_SIDE} a side, got {height} x {width}")
    check_image_size(name, scene, 4)
    ranges = _check_ranges(name, ranges, scene)
    image_shape = (len(ranges), height, width)
    with torch.no_grad():
        bins, nearest_small = _bin(scene, ranges, image_shape)
    triangle_id, barycentrics, depth, inverse_w = _Rasterize.apply(
        scene.positions, scene.triangles, bins, image_shape, nearest_small, None
    )
    return GeometryBuffer(
        triangle_id, barycentrics, depth, inverse_w,
        scene.positions, scene.triangles, ranges, scene.resolution, bins,
    )  # fmt: skip


@steady()
def peel(geometry: GeometryBuffer) -> GeometryBuffer:
    """Find the next layer: at each pixel, the nearest triangle behind the one that `geometry` shows.

    Behind means a greater depth, or the same depth and a greater index, so that peeling shows each triangle of a pixel
    once. It ends where `mask` is False everywhere.

    Args:
        geometry: what `rasterize` or `peel` returned.

    Returns:
        A `GeometryBuffer` of the same positions, triangles and resolution, differentiable like the first.

    Example:
        >>> import torch, slangrast as sr
        >>> camera = sr.Camera.look_at((0.0, 0.0, 4.0))
        >>> sphere = sr.icosphere()
        >>> front = sr.rasterize(camera.project(sphere.vertices), sphere.triangles, (33, 33))
        >>> back = sr.peel(front)
        >>> [round(1 / layer.inverse_w[0, 16, 16].item(), 2) for layer in (front, back)]  # how far they are
        [3.0, 5.0]
        >>> sr.peel(back).mask.any()  # a sphere has two layers
        tensor(False)
    """
    if not isinstance(geometry, GeometryBuffer):
        raise TypeError(f"peel: geometry must be a GeometryBuffer, got {type(geometry).__name__}")
    layer = geometry.triangle_id, geometry.depth.detach()
    with torch.no_grad():
        nearest_small = _draw_small_triangles(geometry, layer)
    triangle_id, barycentrics, depth, inverse_w = _Rasterize.apply(
        geometry.positions, geometry.triangles, geometry._bins, tuple(geometry.triangle_id.shape), nearest_small, layer
    )
    layers = {"triangle_id": triangle_id, "barycentrics": barycentrics, "depth": depth, "inverse_w": inverse_w}
    return dataclasses.replace(geometry, **layers, _slopes=[])


def _check_ranges(name: str, ranges: Any, scene: Scene) -> torch.Tensor:
    images, faces = len(scene.positions), len(scene.triangles)
    if ranges is None:
        every = torch.zeros((images, 2), dtype=torch.int32, device=scene.positions.device)
        every.select(1, 1).fill_(faces)
        return every
    if not isinstance(ranges, torch.Tensor):
        raise TypeError(f"{name}: ranges must be a tensor [N, 2] of int32 or int64, got {type(ranges).__name__}")
    shape, dtype = list(ranges.shape), str(ranges.dtype).removeprefix("torch.")
    if ranges.dim() != 2 or ranges.shape[1] != 2 or ranges.dtype not in (torch.int32, torch.int64) or not len(ranges):
        raise ValueError(f"{name}: ranges must be [N, 2] int32 or int64, got {shape} {dtype}")
    if images not in (1, len(ranges)):
        raise ValueError(f"{name}: ranges must be [{images}, 2] like the {images} images of positions, got {shape}")
    if ranges.device != scene.positions.device:
        device = scene.positions.device
        raise ValueError(f"{name}: ranges must be on {device} like positions, got a tensor on {ranges.device}")
    # On CUDA the look at the numbers would stall the device; the kernel then keeps within the triangles that there are.
    if ranges.device.type == "cpu" and not _are_within(ranges, faces):
        raise ValueError(
            f"{name}: ranges must hold first and count >= 0 with first + count <= {faces}, the number of triangles, "
            f"got {ranges.tolist()}"
        )
    return ranges.to(torch.int32)


def _are_within(ranges: torch.Tensor, faces: int) -> bool:
    # Each number by itself too: the sum of two large ones may be negative.
    return not bool(((ranges < 0) | (ranges > faces) | (ranges.sum(1, keepdim=True) > faces)).any())


@dataclass(frozen=True)
class _Bins:
    """Triangles by tile: those of tile t are triangles[ends[t] - counts[t] : ends[t]], in any order.

    Where a list does not fit in, its tile is to go through all triangles of its range. Small triangles are in no list.
    """

    ranges: torch.Tensor  # [N, 2] int32
    counts: torch.Tensor  # [N * tiles] int32, tiles row by row
    ends: torch.Tensor  # [N * tiles] int32
    triangles: torch.Tensor  # [entries] int32
    small_box: int  # the pixels of the largest box of a small triangle; 0 where there are none


def _bin(scene: Scene, ranges: torch.Tensor, image_shape: tuple[int, int, int]) -> tuple[_Bins, torch.Tensor | None]:
    """List the triangles that may touch each tile of 16 x 16 pixels: count, scan, fill. Draw small ones on the way."""
    images, height, width = image_shape
    device = scene.positions.device
    small_box = _small_box(scene.positions)
    module = _module(scene.positions, small_box, is_peeling=False)
    tiles_high, tiles_wide = -(-height // TILE), -(-width // TILE)
    if module.warp_size == 1 and images * tiles_high * tiles_wide * len(scene.triangles) <= _FEW_PAIRS:
        return _Bins(ranges, *_no_lists(images * tiles_high * tiles_wide), small_box), None
    launch, slices = _a_thread_for_each_triangle(module, scene.triangles, ranges, tiles_high)
    arguments = {
        "positions": scene.positions, "triangles": scene.triangles, "ranges": ranges, "height": height, "width": width,
        "slices": slices,
    }  # fmt: skip
    counts = torch.zeros(images * tiles_high * tiles_wide, dtype=torch.int32, device=device)
    nearest_small = _nothing_small(image_shape, device) if small_box else None
    small = {} if nearest_small is None else {"nearest_small": nearest_small}
    module.count_tiles(**arguments, **small, tile_counts=counts).launchRaw(**launch)
    ends = counts.cumsum(0)
    entries = room_for(ends[-1], (images, len(scene.triangles), scene.resolution))
    if entries > _MOST_ENTRIES:
        raise ValueError(
            f"rasterize: {entries} pairs of triangle and tile are more than 2**31 - 1: render fewer images at a time"
        )
    # Where lists begin; filling moves each to its list's end.
    ends = torch.sub(ends, counts, out=torch.empty_like(counts))
    found = torch.empty(entries, dtype=torch.int32, device=device)
    module.fill_tiles(**arguments, tile_ends=ends, tile_triangles=found).launchRaw(**launch)
    return _Bins(ranges, counts, ends, found, small_box), nearest_small


def _draw_small_triangles(geometry: GeometryBuffer, layer: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor | None:
    """[N, H, W] int64, the nearest small triangle behind a layer; None where lists have them all."""
    bins = geometry._bins
    if bins.small_box == 0:
        return None
    module = _module(geometry.positions, bins.small_box, is_peeling=True)
    height, width = geometry.resolution
    nearest_small = _nothing_small(tuple(geometry.triangle_id.shape), geometry.positions.device)
    launch, _ = _a_thread_for_each_triangle(module, geometry.triangles, bins.ranges, tiles_high=1)
    module.draw_small_triangles(
        positions=geometry.positions, triangles=geometry.triangles, ranges=bins.ranges, last_id=layer[0],
        last_depth=layer[1], nearest_small=nearest_small, height=height, width=width,
    ).launchRaw(**launch)  # fmt: skip
    return nearest_small


def _small_box(positions: torch.Tensor) -> int:
    """The most pixels that the box of a small triangle has. One lane draws as fast from lists; a double is no word."""
    return _SMALL_BOX if has_warps(positions.device.type) and positions.dtype == torch.float32 else 0


def _nothing_small(image_shape: tuple[int, ...], device: torch.device) -> torch.Tensor:
    return torch.full(image_shape, _NO_SMALL, dtype=torch.int64, device=device)


def _module(positions: torch.Tensor, small_box: int, *, is_peeling: bool) -> Module:
    return op_module("rasterize", positions, {"PEEL": is_peeling, "SMALL_BOX": small_box})


def _a_thread_for_each_triangle(
    module: Module, triangles: torch.Tensor, ranges: torch.Tensor, tiles_high: int
) -> tuple[dict[str, tuple[int, int, int]], int]:
    """A launch, and the slices of it. Of few triangles, threads of many slices share the tiles."""
    images = len(ranges)
    most = int(ranges[:, 1].max()) if ranges.device.type == "cpu" else len(triangles)
    threads, slices = 32, 1
    if module.warp_size > 1:
        threads = 128
        warps = max(images * -(-most // module.warp_size), 1)
        slices = max(min(_WARPS_AT_LEAST // warps, -(-tiles_high // 2)), 1)  # two rows of tiles a slice at least
    return {"blockSize": (threads, 1, 1), "gridSize": (-(-most // threads), slices, images)}, slices


@functools.lru_cache(64)
def _no_lists(tiles: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Counts, ends and triangles in which no tile's list fits. Kept: nothing writes to them."""
    with torch.inference_mode(False):  # a tensor made in that mode could not be saved for a later reverse
        ones = torch.ones(tiles, dtype=torch.int32, device="cpu")
        return ones, ones, ones[:0]


class _Rasterize(torch.autograd.Function):
    """Binned triangles to pixels, by shaders/rasterize.slang.

    Tensors: positions [M, V, 4] (differentiable) -> triangle_id [N, H, W], barycentrics [N, H, W, 2], depth and
    inverse_w [N, H, W] (differentiable). `nearest_small` [N, H, W] is what was drawn of small triangles, or None;
    `layer` the triangle_id and depth behind which to look, or None.
    """

    @staticmethod
    def forward(
        ctx: Any,
        positions: torch.Tensor,
        triangles: torch.Tensor,
        bins: _Bins,
        image_shape: tuple[int, int, int],
        nearest_small: torch.Tensor | None,
        layer: tuple[torch.Tensor, torch.Tensor] | None,
    ) -> tuple[torch.Tensor, ...]:
        images, height, width = image_shape
        module = _module(positions, bins.small_box, is_peeling=layer is not None)
        triangle_id = torch.empty(image_shape, dtype=torch.int32, device=positions.device)
        barycentrics = positions.new_empty((*image_shape, 2))
        depth, inverse_w = positions.new_empty(image_shape), positions.new_empty(image_shape)
        outputs = (barycentrics, depth, inverse_w)
        nothing = triangle_id.new_empty((1, 1, 1)), positions.new_empty((1, 1, 1))
        fixed = (triangles, bins.ranges, bins.counts, bins.ends, bins.triangles, *(layer or nothing), triangle_id)
        ctx.mark_non_differentiable(triangle_id)
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(positions, *outputs, *fixed)
        ctx.module, ctx.small_box = module, bins.small_box
        threads = TILE // patch_of(module)
        _launch(module.rasterize, positions, outputs, fixed, nearest_small).launchRaw(
            blockSize=(threads, threads, 1), gridSize=(-(-width // TILE), -(-height // TILE), images)
        )
        return triangle_id, *outputs

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_triangle_id: None, *grad_outputs: torch.Tensor | None) -> Any:
        positions, *tensors = ctx.saved_tensors
        outputs, fixed = tensors[:3], tensors[3:]
        grad_positions = torch.zeros_like(positions, memory_format=torch.contiguous_format)
        pairs = [(out, _gradient_or_zeros(g, out)) for out, g in zip(outputs, grad_outputs, strict=True)]
        # What was drawn is not asked for again.
        nearest_small = positions.new_empty((1, 1, 1), dtype=torch.int64) if ctx.small_box else None
        launch = _launch(ctx.module.rasterize.bwd, (positions, grad_positions), pairs, fixed, nearest_small)
        ctx.module.launch(launch, over=_runs(ctx.module, fixed[-1]))
        grad_triangles = grad_bins = grad_image_shape = grad_nearest_small = grad_layer = None
        return grad_positions, grad_triangles, grad_bins, grad_image_shape, grad_nearest_small, grad_layer


def _gradient_or_zeros(gradient: torch.Tensor | None, like: torch.Tensor) -> torch.Tensor:
    return lasting_zeros(tuple(like.shape), like.dtype, like.device) if gradient is None else gradient


def _launch(kernel: Kernel, positions: Any, outputs: Any, fixed: Any, nearest_small: torch.Tensor | None) -> Launchable:
    """`rasterize` or its reverse, ready to launch. Positions and outputs may be (value, grad)."""
    barycentrics, depth, inverse_w = outputs
    triangles, ranges, tile_counts, tile_ends, tile_triangles, last_id, last_depth, triangle_id = fixed
    small = {} if nearest_small is None else {"nearest_small": nearest_small}
    return kernel(
        positions=positions, triangles=triangles, ranges=ranges,
        tile_counts=tile_counts, tile_ends=tile_ends, tile_triangles=tile_triangles,
        last_id=last_id, last_depth=last_depth, out_triangle_id=triangle_id,
        out_barycentrics=barycentrics, out_depth=depth, out_inverse_w=inverse_w, **small,
    )  # fmt: skip


class _Differentiate(torch.autograd.Function):
    """Screen-space derivatives of the barycentrics, by shaders/rasterize.slang.

    Tensors: positions [M, V, 4] (differentiable), triangle_id [N, H, W] -> slopes [N, H, W, 4] (differentiable).
    """

    @staticmethod
    def forward(ctx: Any, positions: torch.Tensor, triangles: torch.Tensor, triangle_id: torch.Tensor) -> torch.Tensor:
        ctx.module = module = _module(positions, _small_box(positions), is_peeling=False)
        slopes = positions.new_empty((*triangle_id.shape, 4))
        ctx.save_for_backward(positions, triangles, triangle_id, slopes)
        launch = module.differentiate_barycentrics(
            positions=positions, triangles=triangles, triangle_id=triangle_id, out_slopes=slopes
        )
        module.launch(launch, over=_runs(module, triangle_id))
        return slopes

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_slopes: torch.Tensor) -> Any:
        positions, triangles, triangle_id, slopes = ctx.saved_tensors
        grad_positions = torch.zeros_like(positions, memory_format=torch.contiguous_format)
        launch = ctx.module.differentiate_barycentrics.bwd(
            positions=(positions, grad_positions),
            triangles=triangles,
            triangle_id=triangle_id,
            out_slopes=(slopes, grad_slopes),
        )
        ctx.module.launch(launch, over=_runs(ctx.module, triangle_id))
        grad_triangles = grad_triangle_id = None
        return grad_positions, grad_triangles, grad_triangle_id


def run_of(module: Module) -> int:
    """How many pixels of a row a thread goes through: one where a warp takes care of neighbours."""
    return 1 if patch_of(module) == 1 else _RUN


def _runs(module: Module, triangle_id: torch.Tensor) -> tuple[int, int, int]:
    """The threads that go through all pixels, each through a run of them."""
    images, height, width = triangle_id.shape
    return -(-width // run_of(module)), height, images
