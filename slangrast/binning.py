"""Which faces may touch which tile of the image: bounds, then count, scan and fill.

Nothing is ever dropped: a list is as long as it must be, or else its tile goes through all faces. On the CPU faces
stand in a list in the order of their indices, whatever the threads do, so that sums over them repeat bit for bit.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch

from .list_room import room_for
from .op_modules import ONE_THREAD_A_TILE, Tiling
from .runtime import Module
from .runtime.cpu_threads import kernel_threads

_MOST_ENTRIES = 2**31 - 1
_RECORD = (5, 4)  # floats of a face
# On CUDA so many threads share the tiles of a face: a face that covers the image touches thousands.
_THREADS_PER_FACE = 4
# On the CPU: chunks of faces for each thread, so that none waits long for the last. Each has a place in each tile.
_CHUNKS_PER_THREAD = 4
_LEAST_CHUNK = 64
# On the CPU: up to so many faces, one thread does all of it in one launch sooner than several do in four.
_MOST_FOR_ONE_THREAD = 1536
# Its lists have room for so many tiles of each face. More take a second launch.
_TILES_OF_A_FACE = 4


class Bins(NamedTuple):
    """Faces by tile: those of tile t are tile_faces[tile_offsets[t] : tile_offsets[t + 1]]."""

    records: torch.Tensor  # [N, F, 5, 4] vertices on the screen and region of influence: shaders/face_records.slang
    tile_offsets: torch.Tensor  # [N * tiles + 1 or more] int32, tiles row by row
    tile_faces: torch.Tensor  # int32; where a list does not fit in, its tile is to go through all faces


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
    tiling: Tiling = ONE_THREAD_A_TILE,
) -> Bins:
    """Bin the faces of every image by tiles.

    Args:
        module: bin.slang, compiled for the coverage, falloff and tiles in use.
        screen: [N, V, 4] x, y, z/w, 1/w as project.slang writes them.
        triangles: [F, 3] int32.
        parameters: [N, 3 + own] sigma, gamma, epsilon and the formulas' own.
        tensors: those that the formulas have as fields, by the names of the kernels' arguments.
        extents: [N] from `find_extents`.
        resolution: (height, width).
        cull_backfaces: drop faces whose vertices run clockwise.
        tiling: the tiles that `module` was compiled for.

    Raises:
        ValueError: the lists together have over 2**31 entries.
    """
    height, width = resolution
    images, faces, device = screen.shape[0], triangles.shape[0], screen.device
    tiles = images * tiling.tiles(resolution)
    chunk_faces, places, launch = _shared_out(module, images, faces)
    records = screen.new_empty((images, faces, *_RECORD))
    counts = torch.zeros(tiles * places + 2, dtype=torch.int32, device=device)
    shared = {"width": width, "height": height, "chunk_faces": chunk_faces, "places": places}
    module.count_faces(
        **shared, **tensors, screen=screen, triangles=triangles, parameters=parameters, extents=extents,
        out_records=records, offsets=counts, cull_backfaces=int(cull_backfaces),
    ).launchRaw(**launch)  # fmt: skip
    offsets = counts.cumsum(0, dtype=torch.int32)
    # The last offset is the number of entries, unless there may be more than it can hold.
    may_overflow = faces * tiles > _MOST_ENTRIES
    entries = room_for(counts.sum() if may_overflow else offsets[-1], ("soft", images, faces, resolution, tiling))
    if entries > _MOST_ENTRIES:
        raise ValueError(
            f"soft_rasterize: {entries} pairs of face and tile are more than 2**31 - 1: "
            "render fewer images at a time, or lower sigma"
        )
    tile_faces = torch.empty(entries, dtype=torch.int32, device=device)
    module.fill_faces(**shared, records=records, offsets=offsets, out_faces=tile_faces).launchRaw(**launch)
    return Bins(records, offsets[: tiles * places + 1 : places], tile_faces)


def is_one_threads(module: Module, images: int, faces: int) -> bool:
    """Whether `project_and_bin` is the faster way."""
    return module.warp_size == 1 and (kernel_threads() == 1 or images * faces <= _MOST_FOR_ONE_THREAD)


def project_and_bin(
    module: Module,
    positions: torch.Tensor,
    out_screen: torch.Tensor,
    triangles: torch.Tensor,
    parameters: torch.Tensor,
    tensors: Mapping[str, torch.Tensor],
    extents: torch.Tensor,
    resolution: tuple[int, int],
    cull_backfaces: bool,
) -> Bins:
    """`project` and `bin_faces` by one thread, on the CPU. The screen comes to be in `out_screen`."""
    (height, width), faces = resolution, triangles.shape[0]
    images = positions.shape[0]
    tiles = images * ONE_THREAD_A_TILE.tiles(resolution)
    records = positions.new_empty((images, faces, *_RECORD))
    offsets = positions.new_empty(tiles + 2, dtype=torch.int32)
    room = faces * min(_TILES_OF_A_FACE * images, tiles)
    listed = positions.new_empty(room, dtype=torch.int32)
    module.project_and_bin(
        positions=positions, triangles=triangles, parameters=parameters, extents=extents, out_screen=out_screen,
        out_records=records, offsets=offsets, unchecked_faces=listed, cull_backfaces=int(cull_backfaces),
        width=width, height=height, **tensors,
    ).launchRaw((1, 1, 1), (1, 1, 1))  # fmt: skip
    if room < faces * tiles and (entries := int(offsets[-1])) > room:
        listed = positions.new_empty(entries, dtype=torch.int32)
        module.fill_faces(
            records=records, offsets=offsets, out_faces=listed, chunk_faces=faces, places=1, width=width, height=height
        ).launchRaw((1, 1, 1), (1, 1, images))
    return Bins(records, offsets, listed)


def _shared_out(module: Module, images: int, faces: int) -> tuple[int, int, dict[str, tuple[int, int, int]]]:
    """How many faces a thread takes, how many places each tile has for their counts, and how to launch over them."""
    if module.warp_size > 1:
        return 1, 1, {"blockSize": (32, _THREADS_PER_FACE, 1), "gridSize": (-(-faces // 32), 1, images)}
    threads = kernel_threads()
    chunks = 1 if images >= threads else max(1, min(_CHUNKS_PER_THREAD * threads, faces // _LEAST_CHUNK))
    return max(1, -(-faces // chunks)), chunks, {"blockSize": (1, 1, 1), "gridSize": (chunks, 1, images)}
