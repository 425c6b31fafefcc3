"""Which sides of triangles are one edge, for the search of silhouettes, by the kernels of shaders/edge_rings.slang."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from .op_modules import op_module

_KEPT = 8  # meshes
_FEW_VERTICES = 512  # CPU: which one thread does sooner than it makes a second launch
_MOST_HALF_EDGES = 2**29 - 1  # their table then has 4 GiB, the reach of Slang's 32-bit strides


@dataclass(frozen=True, eq=False)
class _Mesh:
    """CPU: a mesh whose rings are known, by contents: `rasterize` makes new int32 triangles of int64 ones."""

    triangles: Tensor  # [F, 3] int32, a copy, so that an edit of the caller's in place is noticed
    same: Tensor  # [V] int32
    rings: Tensor

    def is_of(self, triangles: Tensor, same: Tensor) -> bool:
        return torch.equal(self.same, same) and torch.equal(self.triangles, triangles)


_kept: list[_Mesh] = []  # the last used at the end


def edge_rings_of(name: str, triangles: Tensor, positions: Tensor, by_position: bool) -> Tensor:
    """The half-edges of each edge, as rings.

    A half-edge is a side of a triangle: 3 times the triangle's row, plus the column of the vertex opposite to it.

    Args:
        name: the public function, for errors.
        triangles: [F, 3] int32.
        positions: [M, V, 4]. Vertices are one where they are equal in all M images.
        by_position: False to tell vertices apart by their indices.

    Returns:
        [3 F] int32: for each half-edge the next of the same edge; itself where no other triangle has that edge.
    """
    if triangles.numel() > _MOST_HALF_EDGES:
        raise ValueError(f"{name}: triangles must be at most {_MOST_HALF_EDGES // 3}, got {len(triangles)}")
    if by_position:
        same = first_at_each_position(positions.detach())
    else:
        same = torch.arange(positions.shape[1], dtype=torch.int32, device=positions.device)
    if positions.device.type != "cpu":
        # A look at what is kept would wait for the device, and a graph would not look again.
        return _linked(triangles, same, positions)
    mesh = next((mesh for mesh in reversed(_kept) if mesh.is_of(triangles, same)), None)
    if mesh is None:
        mesh = _Mesh(triangles.clone(), same, _linked(triangles, same, positions))
    _kept[:] = [*(other for other in _kept if other is not mesh), mesh][-_KEPT:]
    return mesh.rings


def first_at_each_position(positions: Tensor) -> Tensor:
    """[V] int32: for each vertex of [M, V, 4], the lowest index of those that are equal to it in every image."""
    vertices, device = positions.shape[1], positions.device
    first = torch.empty(vertices, dtype=torch.int32, device=device)
    if vertices:
        module = op_module("edge_rings", positions)
        arguments = {"positions": positions, "table": _table_for(vertices, device)}
        if module.warp_size == 1 and vertices <= _FEW_VERTICES:
            module.find_first_positions(**arguments, out_first=first).launchRaw((1, 1, 1), (1, 1, 1))
        else:
            module.launch(module.enter_positions(**arguments), over=(vertices,))
            module.launch(module.look_up_positions(**arguments, out_first=first), over=(vertices,))
    return first


def _linked(triangles: Tensor, same: Tensor, positions: Tensor) -> Tensor:
    """The rings of triangles whose vertices are one where `same` is. Their order is another in every run."""
    half_edges, device = triangles.numel(), triangles.device
    rings = torch.arange(half_edges, dtype=torch.int32, device=device)
    if half_edges:
        module = op_module("edge_rings", positions)
        table = _table_for(half_edges, device)
        launch = module.link_half_edges(triangles=triangles, first=same, table=table, edge_rings=rings)
        module.launch(launch, over=(len(triangles),))
    return rings


def _table_for(entries: int, device: torch.device) -> Tensor:
    """At least twice the room that is needed: searches in a table that is nearly full are long."""
    return torch.full((2 << entries.bit_length(),), -1, dtype=torch.int32, device=device)
