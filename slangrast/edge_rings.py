"""Which sides of triangles are one edge, for the search of silhouettes: worked out once for a mesh, then kept."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from .op_modules import op_module

_KEPT = 8  # meshes
_FEW_VERTICES = 512  # CPU: which one thread does sooner than it makes a second launch
_MOST_HALF_EDGES = 2**31 - 1


@dataclass(frozen=True, eq=False)
class _Mesh:
    """A mesh whose rings are known. It is known by contents: `rasterize` makes new int32 triangles of int64 ones."""

    triangles: Tensor  # [F, 3] int32, a copy, so that an edit of the caller's in place is noticed
    same: Tensor  # [V] int32
    rings: Tensor

    def is_of(self, triangles: Tensor, same: Tensor) -> bool:
        known = self.triangles
        return known.device == triangles.device and torch.equal(self.same, same) and torch.equal(known, triangles)


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
        [F, 3] int32: for each half-edge the next of the same edge; itself where no other triangle has that edge.
    """
    if triangles.numel() > _MOST_HALF_EDGES:
        raise ValueError(f"{name}: triangles must be at most {_MOST_HALF_EDGES // 3}, got {len(triangles)}")
    if by_position:
        same = first_at_each_position(positions.detach())
    else:
        same = torch.arange(positions.shape[1], dtype=torch.int32, device=positions.device)
    mesh = next((mesh for mesh in reversed(_kept) if mesh.is_of(triangles, same)), None)
    if mesh is None:
        mesh = _Mesh(triangles.clone(), same, _rings(same.long()[triangles.long()], len(same)))
    _kept[:] = [*(other for other in _kept if other is not mesh), mesh][-_KEPT:]
    return mesh.rings


def first_at_each_position(positions: Tensor) -> Tensor:
    """[V] int32: for each vertex of [M, V, 4], the lowest index of those that are equal to it in every image."""
    vertices, device = positions.shape[1], positions.device
    first = torch.empty(vertices, dtype=torch.int32, device=device)
    if vertices:
        module = op_module("coincident_vertices", positions)
        # At least twice the room that is needed: searches in a table that is nearly full are long.
        table = torch.full((2 << vertices.bit_length(),), -1, dtype=torch.int32, device=device)
        arguments = {"positions": positions, "table": table}
        if module.warp_size == 1 and vertices <= _FEW_VERTICES:
            module.find_first_positions(**arguments, out_first=first).launchRaw((1, 1, 1), (1, 1, 1))
        else:
            module.launch(module.enter_positions(**arguments), over=(vertices,))
            module.launch(module.look_up_positions(**arguments, out_first=first), over=(vertices,))
    return first


def _rings(corners: Tensor, vertices: int) -> Tensor:
    """Half-edges with the same two ends, each linked to the next, and the last to the first."""
    rings = torch.arange(corners.numel(), device=corners.device)
    a, b, c = corners.unbind(1)
    start, end = torch.stack((b, c, a), dim=1).flatten(), torch.stack((c, a, b), dim=1).flatten()
    # A triangle that has a vertex twice has no inside, on neither side of an edge.
    sound = ((a != b) & (b != c) & (c != a)).repeat_interleave(3).nonzero()[:, 0]
    keys = (torch.minimum(start, end) * vertices + torch.maximum(start, end))[sound]
    keys, order = torch.sort(keys, stable=True)
    half_edges = sound[order]
    _, counts = torch.unique_consecutive(keys, return_counts=True)
    lasts = counts.cumsum(0) - 1
    following = half_edges.roll(-1)
    following[lasts] = half_edges[lasts - counts + 1]
    rings[half_edges] = following
    return rings.reshape(-1, 3).to(torch.int32)
