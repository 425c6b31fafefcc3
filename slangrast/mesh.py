"""Triangle meshes: the `Mesh` type, a few shapes made in code, and files of any format that trimesh reads."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from slangrast import mesh_files, shading
from slangrast.topology import Topology, check_triangles, check_vertices, describe, index_range, topology_of


@dataclass(frozen=True, eq=False)
class Mesh:
    """A triangle mesh; immutable, though `vertices` may carry gradients.

    Args:
        vertices: [V, 3] float, world units. Differentiable.
        triangles: [F, 3] int32 or int64, vertex indices; counter-clockwise seen from outside. Kept as int64.
        uv: [V, 2] float, texture coordinates, (0, 0) at the lower left of the image as in OBJ files, or None.
        vertex_colors: [V, C] float, 0 to 1 for a file, or None. Differentiable.

    Raises:
        TypeError, ValueError: a wrong dtype or shape, two devices, or an index outside [0, V).
    """

    vertices: Tensor
    triangles: Tensor
    uv: Tensor | None = None
    vertex_colors: Tensor | None = None

    def __post_init__(self) -> None:
        check_vertices("Mesh", self.vertices)
        if self.vertices.ndim != 2:
            raise ValueError(f"Mesh: vertices must be [V, 3] float, got {describe(self.vertices)}")
        check_triangles("Mesh", self.triangles)
        object.__setattr__(self, "triangles", self.triangles.long())
        count = len(self.vertices)
        for name, attribute, channels in (("uv", self.uv, "2"), ("vertex_colors", self.vertex_colors, "C")):
            if attribute is None:
                continue
            if not isinstance(attribute, Tensor) or not attribute.dtype.is_floating_point:
                raise TypeError(f"Mesh: {name} must be [V, {channels}] float, got {describe(attribute)}")
            if attribute.ndim != 2 or len(attribute) != count or (name == "uv" and attribute.shape[1] != 2):
                wanted = f"[V, {channels}] float with V = {count}"
                raise ValueError(f"Mesh: {name} must be {wanted}, got {describe(attribute)}")
        devices = {str(tensor.device) for tensor in self._tensors()}
        if len(devices) > 1:
            raise ValueError(f"Mesh: all tensors must be on one device, got {sorted(devices)}")
        smallest, largest = index_range(self.triangles)
        if smallest < 0 or largest >= count:
            raise ValueError(f"Mesh: triangles must lie in [0, {count}), got {smallest} to {largest}")

    def _tensors(self) -> list[Tensor]:
        given = (self.vertices, self.triangles, self.uv, self.vertex_colors)
        return [tensor for tensor in given if tensor is not None]

    @property
    def topology(self) -> Topology:
        """Edges and hinges, worked out on first use and shared with every mesh that `with_vertices` makes."""
        return topology_of(self.triangles)

    def edges(self) -> Tensor:
        """[E, 2] int64: every edge once, the lower index first, in ascending order."""
        return self.topology.edges

    def face_normals(self) -> Tensor:
        """[F, 3] float: `shading.face_normals` of this mesh."""
        return shading.face_normals(self.vertices, self.triangles)

    def vertex_normals(self) -> Tensor:
        """[V, 3] float: `shading.vertex_normals` of this mesh."""
        return shading.vertex_normals(self.vertices, self.triangles)

    def with_vertices(self, vertices: Tensor) -> Mesh:
        """The same triangles and attributes on other vertices, [V, 3] float, such as those being
        optimised."""
        return replace(self, vertices=vertices)

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> Mesh:
        """The mesh on another device, or its floating-point tensors in another dtype.

        Args:
            device: where to, or None to stay.
            dtype: float dtype of vertices, uv and colours, or None to keep each one's.

        Returns:
            The mesh; `self.triangles` itself where it need not move, so that edges are not worked out again.
        """

        def move(tensor: Tensor | None) -> Tensor | None:
            return None if tensor is None else tensor.to(device=device, dtype=dtype)

        return Mesh(
            self.vertices.to(device=device, dtype=dtype),
            self.triangles.to(device=device),
            move(self.uv),
            move(self.vertex_colors),
        )


def _build(
    vertices: Any, triangles: Any, device: torch.device | str | None, dtype: torch.dtype, uv: Any = None
) -> Mesh:
    return Mesh(
        torch.tensor(np.asarray(vertices), dtype=dtype, device=device),
        torch.tensor(np.ascontiguousarray(triangles), dtype=torch.int64, device=device).reshape(-1, 3),
        None if uv is None else torch.tensor(np.asarray(uv), dtype=dtype, device=device),
    )


def _check_positive(function: str, **values: float) -> None:
    for name, value in values.items():
        if not value > 0:
            raise ValueError(f"{function}: {name} must be above 0, got {value}")


def _check_count(function: str, smallest: int, **values: int) -> None:
    for name, value in values.items():
        if not isinstance(value, int) or value < smallest:
            raise ValueError(f"{function}: {name} must be an integer from {smallest} up, got {value!r}")


def icosphere(
    subdivisions: int = 3,
    radius: float = 1.0,
    *,
    device: torch.device | str | None = None,
    dtype: torch.dtype = torch.float32,
) -> Mesh:
    """A sphere around the origin whose triangles are nearly alike: an icosahedron, each face cut in four
    repeatedly.

    Args:
        subdivisions: 0 to 9; the sphere has 10 * 4^subdivisions + 2 vertices: 12, 42, 162, 642, 2,562, ...
        radius: world units, above 0.
        device: of the tensors.
        dtype: of the vertices.

    Returns:
        The mesh, closed. Its first vertices are those of the next coarser sphere.

    Raises:
        ValueError: an argument out of range.
    """
    _check_count("icosphere", 0, subdivisions=subdivisions)
    if subdivisions > 9:
        raise ValueError(f"icosphere: subdivisions must be at most 9 (5 million faces), got {subdivisions}")
    _check_positive("icosphere", radius=radius)
    golden = (1 + 5**0.5) / 2
    corners = [(s, t * golden, 0.0) for t in (1, -1) for s in (-1, 1)]
    vertices = np.array([np.roll(corner, turn) for turn in range(3) for corner in corners])
    vertices /= np.linalg.norm(vertices, axis=1, keepdims=True)
    triangles = _hull_of_icosahedron(vertices)
    for _ in range(subdivisions):
        vertices, triangles = _cut_in_four(vertices, triangles)
        vertices /= np.linalg.norm(vertices, axis=1, keepdims=True)
    return _build(vertices * radius, triangles, device, dtype)


def _hull_of_icosahedron(vertices: np.ndarray) -> np.ndarray:
    """[20, 3]: all triples of mutually adjacent vertices, counter-clockwise seen from outside."""
    near = np.linalg.norm(vertices[:, None] - vertices[None], axis=2) < 1.2  # edges are 1.05 long, diagonals 1.70
    triples = [
        (a, b, c) for a in range(12) for b in range(a) for c in range(b) if near[a, b] and near[b, c] and near[c, a]
    ]
    inward = [np.linalg.det(vertices[list(triple)]) < 0 for triple in triples]
    return np.array([(a, c, b) if flip else (a, b, c) for (a, b, c), flip in zip(triples, inward, strict=True)])


def _cut_in_four(vertices: np.ndarray, triangles: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Put a vertex in the middle of every edge; the old vertices keep their numbers."""
    sides = np.sort(triangles[:, [[0, 1], [1, 2], [2, 0]]].reshape(-1, 2), axis=1)
    edges, edge_of_side = np.unique(sides, axis=0, return_inverse=True)
    a, b, c = triangles.T
    ab, bc, ca = len(vertices) + edge_of_side.reshape(-1, 3).T
    quarters = np.stack(((a, ab, ca), (b, bc, ab), (c, ca, bc), (ab, bc, ca)))  # [4, 3, F]
    return np.concatenate((vertices, vertices[edges].mean(axis=1))), quarters.transpose(2, 0, 1).reshape(-1, 3)


def cube(side: float = 1.0, *, device: torch.device | str | None = None, dtype: torch.dtype = torch.float32) -> Mesh:
    """A closed cube around the origin: 8 shared vertices, 12 triangles.

    Args:
        side: world units, above 0.
        device: of the tensors.
        dtype: of the vertices.

    Raises:
        ValueError: `side` is not above 0.
    """
    _check_positive("cube", side=side)
    vertices = [[x, y, z] for x in (-0.5, 0.5) for y in (-0.5, 0.5) for z in (-0.5, 0.5)]  # index 4 x + 2 y + z
    squares = [
        (0, 1, 3, 2),
        (4, 6, 7, 5),
        (0, 4, 5, 1),
        (2, 3, 7, 6),
        (0, 2, 6, 4),
        (1, 5, 7, 3),
    ]  # -x +x -y +y -z +z
    triangles = [corners for a, b, c, d in squares for corners in ((a, b, c), (a, c, d))]
    return _build(np.array(vertices) * side, triangles, device, dtype)


def _grid(rows: int, columns: int, index: Callable[[np.ndarray, np.ndarray], np.ndarray]) -> np.ndarray:
    """Two triangles for each cell of a grid; `index` numbers the vertex at (row, column)."""
    row, column = (axis.ravel() for axis in np.meshgrid(np.arange(rows), np.arange(columns), indexing="ij"))
    a, b = index(row, column), index(row, column + 1)
    c, d = index(row + 1, column + 1), index(row + 1, column)
    return np.stack((a, b, c, a, c, d), axis=1).reshape(-1, 3)


def torus(
    major_radius: float = 1.0,
    minor_radius: float = 0.4,
    major_segments: int = 32,
    minor_segments: int = 16,
    *,
    device: torch.device | str | None = None,
    dtype: torch.dtype = torch.float32,
) -> Mesh:
    """A closed ring around the y axis, in the plane y = 0.

    Args:
        major_radius: from the origin to the middle of the tube, world units, above 0.
        minor_radius: of the tube, world units, above 0.
        major_segments: vertices around the ring, at least 3.
        minor_segments: vertices around the tube, at least 3.
        device: of the tensors.
        dtype: of the vertices.

    Raises:
        ValueError: an argument out of range.
    """
    _check_positive("torus", major_radius=major_radius, minor_radius=minor_radius)
    _check_count("torus", 3, major_segments=major_segments, minor_segments=minor_segments)
    around = np.arange(major_segments)[:, None] * 2 * np.pi / major_segments
    across = np.arange(minor_segments)[None] * 2 * np.pi / minor_segments
    ring = major_radius + minor_radius * np.cos(across)
    height = np.broadcast_to(minor_radius * np.sin(across), (major_segments, minor_segments))
    vertices = np.stack((ring * np.sin(around), height, ring * np.cos(around)), axis=2).reshape(-1, 3)
    triangles = _grid(
        major_segments,
        minor_segments,
        lambda row, column: row % major_segments * minor_segments + column % minor_segments,
    )
    return _build(vertices, triangles[:, ::-1], device, dtype)


def plane(
    width: float = 2.0,
    height: float = 2.0,
    columns: int = 1,
    rows: int = 1,
    *,
    device: torch.device | str | None = None,
    dtype: torch.dtype = torch.float32,
) -> Mesh:
    """A rectangle around the origin in z = 0 that faces +z, with uv from (0, 0) at its lower left to (1, 1).

    Args:
        width: along x, world units, above 0.
        height: along y, world units, above 0.
        columns: cells along x, at least 1.
        rows: cells along y, at least 1.
        device: of the tensors.
        dtype: of the vertices.

    Raises:
        ValueError: an argument out of range.
    """
    _check_positive("plane", width=width, height=height)
    _check_count("plane", 1, columns=columns, rows=rows)
    v, u = np.meshgrid(np.linspace(0, 1, rows + 1), np.linspace(0, 1, columns + 1), indexing="ij")
    uv = np.stack((u.ravel(), v.ravel()), axis=1)
    vertices = np.concatenate(((uv - 0.5) * (width, height), np.zeros((len(uv), 1))), axis=1)
    triangles = _grid(rows, columns, lambda row, column: row * (columns + 1) + column)
    return _build(vertices, triangles, device, dtype, uv)


def load_mesh(
    path: str | Path,
    *,
    keep_uv: bool = True,
    device: torch.device | str | None = None,
    dtype: torch.dtype = torch.float32,
) -> Mesh:
    """Read a mesh from a file of any format that trimesh reads: OBJ, PLY, STL, OFF, GLB, ...

    Args:
        path: the file. Several meshes in it become one, each where the file places it; polygons become
            triangles.
        keep_uv: read texture coordinates. A vertex of an OBJ file that has several is then split into as
            many, which opens the surface at texture seams; False keeps vertices, their order and the
            connectivity as in the file.
        device: of the tensors.
        dtype: of vertices, uv and colours.

    Returns:
        The mesh, with uv and vertex colours (RGB, 0 to 1) where all of the file has them. The vertices of STL
        files, which repeat them for each face, are joined where they are equal.

    Raises:
        FileNotFoundError: no such file.
        ValueError: trimesh cannot read it, it holds no triangles, or a vertex is not finite.
    """
    arrays = mesh_files.read_arrays(Path(path), keep_uv)
    mesh = _build(arrays.vertices, arrays.triangles, device, dtype, arrays.uv)
    if arrays.colors is None:
        return mesh
    return replace(mesh, vertex_colors=torch.tensor(arrays.colors, dtype=dtype, device=device))


def save_mesh(path: str | Path, mesh: Mesh) -> None:
    """Write a mesh to a file, in the format of its suffix: .obj, .ply, .stl, .off or .glb.

    Args:
        path: the file, overwritten if it is there; its folder must exist.
        mesh: OBJ, PLY and GLB hold its uv or its vertex colours, RGB in steps of 1/255, clamped to [0, 1];
            STL and OFF hold the shape alone. The order of vertices is kept, but in STL.

    Raises:
        TypeError: `mesh` is not a `Mesh`.
        FileNotFoundError: the folder is not there.
        ValueError: another suffix, uv and colours at once (files hold one of them), or colours that are not
            RGB.
    """
    if not isinstance(mesh, Mesh):
        raise TypeError(f"save_mesh: mesh must be a Mesh, got {describe(mesh)} (the path comes first)")
    if mesh.uv is not None and mesh.vertex_colors is not None:
        hint = "leave one out with dataclasses.replace(mesh, uv=None)"
        raise ValueError(f"save_mesh: mesh must have uv or vertex_colors, got both: {hint}")
    if mesh.vertex_colors is not None and mesh.vertex_colors.shape[1] != 3:
        raise ValueError(f"save_mesh: vertex_colors must be [V, 3], got {describe(mesh.vertex_colors)}")
    arrays = mesh_files.MeshArrays(
        _to_numpy(mesh.vertices),
        _to_numpy(mesh.triangles),
        None if mesh.uv is None else _to_numpy(mesh.uv),
        None if mesh.vertex_colors is None else _to_numpy(mesh.vertex_colors),
    )
    mesh_files.write_arrays(Path(path), arrays)


def _to_numpy(tensor: Tensor) -> np.ndarray:
    return tensor.detach().cpu().numpy()
