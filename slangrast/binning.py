"""Which faces may touch which tile of the image: bounds, then count, scan and fill.

Nothing is ever dropped: a list is as long as it must be. On the CPU faces stand in a list in the order of their indices,
whatever the threads do, so that sums over them repeat bit for bit.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch

from .op_modules import TILE
from .runtime import Module

_MOST_ENTRIES = 2**31 - 1
# On CUDA so many threads share the tiles of a face: a face that covers the image touches thousands.
_THREADS_PER_FACE = 4
# On the CPU: chunks of faces for each thread, so that none waits long for the last. Each has a place in each tile.
_CHUNKS_PER_THREAD = 4


@dataclass(frozen=True)
class Bins:
    """Faces by tile: those of tile t are tile_faces[tile_offsets[t] : tile_offsets[t + 1]]."""

    bounds: torch.Tensor  # [N, F, 4] int32: first and past-the-end column, first and past-the-end row
    margins: torch.Tensor  # [N, F, 3] how far beyond the line of each edge a face may reach
    tile_offsets: torch.Tensor  # [N * tiles + 1] int32, tiles row by row
    tile_faces: torch.Tensor  # [entries] int32


def find_extents(
    module: Module, parameters: torch.Tensor, tensors: Mapping[str, torch.Tensor], cutoff: float
) -> torch.Tensor:
    """[N], the x beyond which the falloff of each image lies below `cutoff` at -x."""
    extents = parameters.new_empty(len(parameters))
    launch = module.find_extents(parameters=parameters, out_extents=extents, cutoff=cutoff, **tensors)
    module.launch(launch, over=(len(parameters),))
    return extents


def bin_faces(
    module: Module,
    screen: torch.Tensor,
    triangles: torch.Tensor,
    parameters: torch.Tensor,
    tensors: Mapping[str, torch.Tensor],
    extents: torch.Tensor,
    resolution: tuple[int, int],
    cull_backfaces: bool,
) -> Bins:
    """Bin the faces of every image by tiles of 16 x 16 pixels.

    Args:
        module: bin.slang, compiled for the coverage and falloff in use.
        screen: [N, V, 4] x, y, z/w, 1/w as project.slang writes them.
        triangles: [F, 3] int32.
        parameters: [N, 3 + own] sigma, gamma, epsilon and the formulas' own.
        tensors: those that the formulas have as fields, by the names of the kernels' arguments.
        extents: [N] from `find_extents`.
        resolution: (height, width).
        cull_backfaces: drop faces whose vertices run clockwise.

    Raises:
        ValueError: the lists together have over 2**31 entries.
    """
    height, width = resolution
    images, faces, device = len(screen), len(triangles), screen.device
    tiles = images * -(-height // TILE) * -(-width // TILE)
    chunks, launch = _shared_out(module, images, faces)
    places = tiles * (chunks if module.warp_size == 1 else 1)
    bounds = torch.empty((images, faces, 4), dtype=torch.int32, device=device)
    margins = screen.new_empty((images, faces, 3))
    counts = torch.zeros(places + 2, dtype=torch.int32, device=device)
    inputs = {
        "screen": screen, "triangles": triangles, "width": width, "height": height, "chunk_faces": -(-faces // chunks)
    }  # fmt: skip
    module.count_faces(
        **inputs, **tensors, parameters=parameters, extents=extents, out_bounds=bounds, out_margins=margins,
        offsets=counts, cull_backfaces=int(cull_backfaces),
    ).launchRaw(**launch)  # fmt: skip
    entries = int(counts.sum())
    if entries > _MOST_ENTRIES:
        raise ValueError(
            f"soft_rasterize: {entries} pairs of face and tile are more than 2**31 - 1: "
            "render fewer images at a time, or lower sigma"
        )
    offsets = counts.cumsum(0, dtype=torch.int32)
    tile_faces = torch.empty(entries, dtype=torch.int32, device=device)
    module.fill_faces(
        **inputs, bounds=bounds, margins=margins, offsets=offsets, out_faces=tile_faces
    ).launchRaw(**launch)  # fmt: skip
    return Bins(bounds, margins, offsets[: places + 1 : places // tiles], tile_faces)


def _shared_out(module: Module, images: int, faces: int) -> tuple[int, dict[str, tuple[int, int, int]]]:
    """Into how many chunks the faces of an image are cut, and how the kernels are launched over them."""
    if module.warp_size > 1:
        grid = (-(-faces // 32), 1, images)
        return max(faces, 1), {"blockSize": (32, _THREADS_PER_FACE, 1), "gridSize": grid}
    threads = torch.get_num_threads()
    chunks = 1 if images >= threads else min(_CHUNKS_PER_THREAD * threads, -(-faces // 64))
    return max(chunks, 1), {"blockSize": (1, 1, 1), "gridSize": (max(chunks, 1), 1, images)}
