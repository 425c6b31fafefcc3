"""Which sides of triangles are one edge, for the search of silhouettes: worked out once for a mesh, then kept."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

_KEPT = 8  # meshes
_MOST_HALF_EDGES = 2**31 - 1


@dataclass(frozen=True, eq=False)
class _Mesh:
    """A mesh whose rings are known. It is known by contents: `rasterize` makes new int32 triangles of int64 ones."""

    triangles: Tensor  # [F, 3] int32, a copy, so that an edit of the caller's in place is noticed
    vertices: int
    same: Tensor | None  # [V] int64: a vertex at the same position as each; None where they are told apart by index
    rings: Tensor

    def is_of(self, triangles: Tensor, positions: Tensor, by_position: bool) -> bool:
        """True where triangles are those of this mesh, and vertices that were at one position still are."""
        return (
            self.triangles.device == triangles.device
            and self.vertices == positions.shape[1]
            and (self.same is not None) == by_position
            and torch.equal(self.triangles, triangles)
            and (self.same is None or torch.equal(positions.index_select(1, self.same), positions))
        )


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
    positions = positions.detach()
    kept = [mesh for mesh in reversed(_kept) if mesh.is_of(triangles, positions, by_position)][:1]
    mesh = kept[0] if kept else _mesh(triangles, positions, by_position)
    _kept[:] = [*(other for other in _kept if other is not mesh), mesh][-_KEPT:]
    return mesh.rings


def _mesh(triangles: Tensor, positions: Tensor, by_position: bool) -> _Mesh:
    vertices = positions.shape[1]
    same = _first_at_each_position(positions) if by_position and vertices else None
    corners = triangles.long() if same is None else same[triangles.long()]
    if by_position and same is None:  # a mesh without vertices
        same = corners.new_empty(0)
    return _Mesh(triangles.detach().clone(), vertices, same, _rings(corners, vertices))


def _first_at_each_position(positions: Tensor) -> Tensor:
    """[V] int64: for each vertex, the lowest index of those that are equal to it in every image."""
    rows = positions.transpose(0, 1).flatten(1)
    _, groups = torch.unique(rows, dim=0, return_inverse=True)
    index = torch.arange(len(rows), device=rows.device)
    return torch.full_like(index, len(rows)).scatter_reduce_(0, groups, index, "amin")[groups]


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
