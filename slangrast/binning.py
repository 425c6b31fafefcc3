"""Which faces may touch which tile of the image: bounds, then count, scan and fill, coarse cells before fine ones.

Nothing is ever dropped: a list is as long as it must be. Faces stand in a list in the order of their indices, whatever
the threads do, so that sums over them repeat bit for bit.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch

from .op_modules import TILE
from .runtime import Module

_MOST_ENTRIES = 2**31 - 1
# Up to so many faces asked whether they touch a tile, one warp does all in one launch: of one lane, of more lanes. Then
# the lists have the room of every face in every tile, too, and nothing waits for their length.
_MOST_AT_ONCE = (4096, 64 * 32)


@dataclass(frozen=True)
class Bins:
    """Faces by tile: those of tile t are tile_faces[tile_offsets[t] : tile_offsets[t + 1]]."""

    bounds: torch.Tensor  # [N, F, 4] int32: first and past-the-end column, first and past-the-end row
    margins: torch.Tensor  # [N, F, 3] how far beyond the line of each edge a face may reach
    tile_offsets: torch.Tensor  # [N * tiles + 1] int32, tiles row by row
    tile_faces: torch.Tensor  # [at least as many as there are entries] int32


@dataclass(frozen=True)
class _Level:
    """A grid of cells over the image, each inside a cell of the level before."""

    cell: tuple[int, int]  # width, height in pixels
    grid: tuple[int, int]  # cells across and down
    parents_per_row: int  # how far the parent moves on for each row of cells
    parents_per_image: int


def _levels(height: int, width: int) -> list[_Level]:
    across, down = -(-width // TILE), -(-height // TILE)
    # A face is looked for in rows of tiles first: then only the faces of its row are asked whether they touch a tile.
    rows = _Level((width, TILE), (1, down), 0, 0)
    return [rows, _Level((TILE, TILE), (across, down), 1, down)]


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
    images, faces = screen.shape[0], triangles.shape[0]
    bounds = torch.empty((images, faces, 4), dtype=torch.int32, device=screen.device)
    margins = torch.empty((images, faces, 3), dtype=screen.dtype, device=screen.device)
    inputs = {"screen": screen, "triangles": triangles}
    image = {"width": width, "height": height}
    bounding = {
        **inputs, **image, **tensors, "parameters": parameters, "extents": extents, "out_bounds": bounds,
        "out_margins": margins, "cull_backfaces": int(cull_backfaces),
    }  # fmt: skip
    lanes, tiles = module.warp_size, images * -(-height // TILE) * -(-width // TILE)
    if tiles * -(-faces // lanes) * lanes <= _MOST_AT_ONCE[lanes > 1]:
        offsets = torch.empty(tiles + 1, dtype=torch.int32, device=screen.device)
        listed = torch.empty(tiles * faces, dtype=torch.int32, device=screen.device)
        module.bin_at_once(**bounding, out_offsets=offsets, unchecked_faces=listed).launchRaw((lanes, 1, 1), (1, 1, 1))
        return Bins(bounds, margins, offsets, listed)

    module.launch(module.bound_faces(**bounding), over=(faces, images))
    found = torch.arange(faces, dtype=torch.int32, device=screen.device)
    offsets = torch.tensor([0, faces], dtype=torch.int32, device=screen.device)
    for level in _levels(height, width):
        parents = {"parent_faces": found, "parent_offsets": offsets}
        found, offsets = _refine(module, level, {**inputs, "bounds": bounds, "margins": margins, **parents, **image})
    return Bins(bounds, margins, offsets, found)


def _refine(module: Module, level: _Level, arguments: dict) -> tuple[torch.Tensor, torch.Tensor]:
    """The faces of each cell of `level`, from those of the cells around it: (faces, offsets)."""
    images, device = len(arguments["screen"]), arguments["screen"].device
    cells = level.grid[0] * level.grid[1]
    arguments.update(
        cell_width=level.cell[0],
        cell_height=level.cell[1],
        cells_x=level.grid[0],
        cells_per_image=cells,
        parents_per_row=level.parents_per_row,
        parents_per_image=level.parents_per_image,
    )
    launch = {"blockSize": (module.warp_size, 1, 1), "gridSize": (cells, 1, images)}  # a cell is the work of a warp
    counts = torch.zeros(1 + images * cells, dtype=torch.int32, device=device)  # after a 0, so that sums are offsets
    module.count_faces(**arguments, out_counts=counts[1:]).launchRaw(**launch)
    ends = counts.cumsum(0, dtype=torch.int64)
    entries = int(ends[-1])
    if entries > _MOST_ENTRIES:
        raise ValueError(
            f"soft_rasterize: {entries} pairs of face and tile are more than 2**31 - 1: "
            "render fewer images at a time, or lower sigma"
        )
    offsets = ends.to(torch.int32)
    faces = torch.empty(entries, dtype=torch.int32, device=device)
    module.fill_faces(**arguments, offsets=offsets, out_faces=faces).launchRaw(**launch)
    return faces, offsets
