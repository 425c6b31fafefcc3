"""How the triangles of a mesh hang together: its edges, and the pairs of faces that meet at them.

Everything here depends on the triangles alone, so it is worked out once and reused in every optimisation
step.
"""

from __future__ import annotations

import weakref
from functools import cached_property

import torch
from torch import Tensor


def describe(value: object) -> str:
    """Shape and dtype of a tensor, or the type of anything else, for the "got ..." of an error message."""
    if isinstance(value, Tensor):
        return f"{list(value.shape)} {str(value.dtype).removeprefix('torch.')}"
    return type(value).__name__


def check_triangles(function: str, triangles: object) -> None:
    """Raise unless `triangles` is an [F, 3] int32 or int64 tensor; `function` is named in the message."""
    if not isinstance(triangles, Tensor) or triangles.dtype not in (torch.int32, torch.int64):
        raise TypeError(f"{function}: triangles must be [F, 3] int32 or int64, got {describe(triangles)}")
    if triangles.ndim != 2 or triangles.shape[1] != 3:
        raise ValueError(f"{function}: triangles must be [F, 3] int32 or int64, got {describe(triangles)}")


def check_vertices(function: str, vertices: object) -> None:
    """Raise unless `vertices` is a [V, 3] or [N, V, 3] floating-point tensor; `function` is named in the
    message."""
    if not isinstance(vertices, Tensor) or not vertices.dtype.is_floating_point:
        raise TypeError(f"{function}: vertices must be [V, 3] or [N, V, 3] float, got {describe(vertices)}")
    if vertices.ndim not in (2, 3) or vertices.shape[-1] != 3:
        raise ValueError(f"{function}: vertices must be [V, 3] or [N, V, 3] float, got {describe(vertices)}")


def index_range(triangles: Tensor) -> tuple[int, int]:
    """The smallest and largest index; (0, -1) where there are no triangles."""
    if not triangles.numel():
        return 0, -1
    smallest, largest = torch.stack(triangles.aminmax()).tolist()
    return smallest, largest


class Topology:
    """Edges and hinges of a set of triangles, worked out on first use and then kept.

    Triangles that name a vertex twice have no shape and are left out. Boundary edges (one face), edges with
    more than two faces and either winding are all fine.

    Args:
        triangles: [F, 3] int32 or int64, vertex indices, none of them negative.

    Raises:
        TypeError, ValueError: for another dtype or shape, or a negative index.
    """

    def __init__(self, triangles: Tensor) -> None:
        check_triangles("Topology", triangles)
        # A copy of its own: a later in-place edit of the caller's tensor must not reach an edge list computed
        # lazily, and holding the caller's tensor itself would keep its entry in the cache below alive for
        # ever.
        self.triangles = triangles.detach().to(torch.int64, copy=True)
        smallest, largest = index_range(self.triangles)
        if smallest < 0:
            raise ValueError(f"Topology: triangles must hold indices from 0 up, got {smallest}")
        self.vertex_bound: int = largest + 1
        self._degrees: dict[int, Tensor] = {}

    @cached_property
    def _half_edges(self) -> tuple[Tensor, Tensor, Tensor]:
        """The directed sides of all faces, [H] each, sorted by key.

        The key is lower index * bound + higher index; then come the face and whether the side runs upwards.
        """
        a, b, c = self.triangles.unbind(1)
        (faces,) = torch.nonzero((a != b) & (b != c) & (c != a), as_tuple=True)
        a, b, c = self.triangles[faces].unbind(1)
        start, end = torch.cat((a, b, c)), torch.cat((b, c, a))
        keys, order = torch.sort(torch.minimum(start, end) * self.vertex_bound + torch.maximum(start, end), stable=True)
        return keys, faces.repeat(3)[order], (start < end)[order]

    @cached_property
    def edges(self) -> Tensor:
        """[E, 2] int64: every edge once, the lower index first, in ascending order."""
        keys = torch.unique_consecutive(self._half_edges[0])
        bound = max(self.vertex_bound, 1)
        return torch.stack((keys // bound, keys % bound), dim=1)

    @cached_property
    def _hinge_sides(self) -> Tensor:
        """[P, 2] int64: the pairs of half-edges that make the hinges."""
        keys = self._half_edges[0]
        found = [torch.empty((0, 2), dtype=torch.int64, device=keys.device)]
        # Half-edges with one key lie side by side: find pairs by comparing the list with itself, shifted.
        for shift in range(1, len(keys)):
            first = torch.nonzero(keys[:-shift] == keys[shift:])
            if not len(first):
                break
            found.append(torch.cat((first, first + shift), dim=1))
        return torch.cat(found)

    @cached_property
    def hinges(self) -> Tensor:
        """[P, 2] int64: each pair of faces that share an edge.

        An interior edge of a manifold gives one hinge, a boundary edge none, an edge of k faces k (k - 1) /
        2.
        """
        return self._half_edges[1][self._hinge_sides]

    @cached_property
    def hinge_signs(self) -> Tensor:
        """[P] int64: 1 where the faces of a hinge are wound alike (run along their edge in opposite ways), or
        -1."""
        forward = self._half_edges[2][self._hinge_sides]
        return 2 * (forward[:, 0] != forward[:, 1]).to(torch.int64) - 1

    def degrees(self, vertex_count: int) -> Tensor:
        """[V] int64: the number of edges at each of `vertex_count` vertices."""
        if vertex_count not in self._degrees:
            self._degrees[vertex_count] = torch.bincount(self.edges.flatten(), minlength=vertex_count)
        return self._degrees[vertex_count]


_CACHE: dict[int, tuple[weakref.ref[Tensor], int, Topology]] = {}


def topology_of(triangles: Tensor) -> Topology:
    """The `Topology` of a triangle tensor, kept for as long as that tensor object lives.

    Args:
        triangles: [F, 3] int32 or int64. Passing the same tensor object again costs a dictionary look-up; an
            in-place edit of it is noticed and starts afresh.

    Returns:
        The topology, on the device of `triangles`.

    Raises:
        TypeError, ValueError: as `Topology`.
    """
    check_triangles("topology_of", triangles)
    key = id(triangles)
    version = -1 if triangles.is_inference() else triangles._version
    entry = _CACHE.get(key)
    if entry is not None and entry[0]() is triangles and entry[1] == version:
        return entry[2]
    topology = Topology(triangles)

    def forget(reference: weakref.ref[Tensor]) -> None:
        # The id may have been taken over by a younger tensor: remove only the entry that this reference made.
        current = _CACHE.get(key)
        if current is not None and current[0] is reference:
            del _CACHE[key]

    _CACHE[key] = (weakref.ref(triangles, forget), version, topology)
    return topology
