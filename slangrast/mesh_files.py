"""Mesh files as arrays, read and written by trimesh, which is imported on first use; `load_mesh` and
`save_mesh` in mesh.py are the public names."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

WRITABLE = ("obj", "ply", "stl", "off", "glb")


class MeshArrays(NamedTuple):
    """vertices [V, 3], triangles [F, 3], uv [V, 2] or None, colors [V, 3] in [0, 1] or None."""

    vertices: np.ndarray
    triangles: np.ndarray
    uv: np.ndarray | None = None
    colors: np.ndarray | None = None


def read_arrays(path: Path, keep_uv: bool) -> MeshArrays:
    """All the meshes of a file as one; arguments and errors are those of `load_mesh`."""
    if not path.is_file():
        raise FileNotFoundError(f"load_mesh: path must be an existing file, got {str(path)!r}")
    parts = [part for part in map(_arrays_of, _geometries(path, keep_uv)) if len(part.triangles)]
    if not parts:
        raise ValueError(f"load_mesh: path must be a file with triangles in it, got none in {str(path)!r}")
    arrays = _concatenate(parts)
    if not np.isfinite(arrays.vertices).all():
        raise ValueError(f"load_mesh: vertices must be finite, got NaN or inf in {str(path)!r}")
    if path.suffix.lower() == ".stl":
        return _merge_equal_vertices(arrays)
    return arrays if keep_uv else arrays._replace(uv=None)


def _geometries(path: Path, keep_uv: bool) -> list[Any]:
    """What trimesh finds in a file, placed in world space."""
    import trimesh

    suffix = path.suffix.lower().lstrip(".")
    try:
        if suffix == "obj":
            text = _plain_obj(path.read_text(encoding="utf-8", errors="replace"), keep_uv)
            # Without texture coordinates to split them at, keep all vertices, even those of no face.
            options: dict[str, Any] = {} if "\nvt " in text else {"maintain_order": True}
            loaded = trimesh.load(io.BytesIO(text.encode()), file_type="obj", process=False, **options)
        else:
            loaded = trimesh.load(str(path), process=False)
    except Exception as error:  # trimesh's readers fail with whatever their parsing ran into
        formats = ", ".join(sorted(trimesh.available_formats()))
        raise ValueError(
            f"load_mesh: path must be a mesh in a format that trimesh reads ({formats}), got {str(path)!r}: "
            f"{type(error).__name__}: {error}"
        ) from error
    return list(loaded.dump()) if isinstance(loaded, trimesh.Scene) else [loaded]


def _plain_obj(text: str, keep_uv: bool) -> str:
    """The positions, faces and perhaps texture coordinates of an OBJ file.

    trimesh splits vertices wherever normals or materials change, and drops or reorders them; a mesh to be
    deformed needs the connectivity of the file, split at texture seams at most.
    """
    kept = []
    for line in text.replace("\\\n", " ").splitlines():
        keyword, _, rest = line.strip().partition(" ")
        if keyword == "f":
            corners = [corner.split("/") for corner in rest.split("#")[0].split()]
            if keep_uv and all(len(corner) > 1 and corner[1] for corner in corners):
                kept.append("f " + " ".join("/".join(corner[:2]) for corner in corners))
            else:
                kept.append("f " + " ".join(corner[0] for corner in corners))
        elif keyword == "v" or (keyword == "vt" and keep_uv):
            kept.append(f"{keyword} {rest}")
    return "\n".join(["", *kept, ""])


def _arrays_of(geometry: Any) -> MeshArrays:
    triangles = np.asarray(getattr(geometry, "faces", ())).reshape(-1, 3)  # point clouds and paths have none
    if not len(triangles):
        return MeshArrays(np.zeros((0, 3)), triangles)
    vertices, visual = np.asarray(geometry.vertices, dtype=np.float64), geometry.visual
    uv = getattr(visual, "uv", None)
    # Only colours stored per vertex: trimesh would otherwise make some up from faces or materials.
    colors = np.asarray(visual.vertex_colors)[:, :3] / 255 if visual.kind == "vertex" else None
    return MeshArrays(vertices, triangles, uv if uv is not None and len(uv) == len(vertices) else None, colors)


def _concatenate(parts: list[MeshArrays]) -> MeshArrays:
    """One mesh of several; uv and colours stay where every part has them."""
    starts = np.cumsum([0] + [len(part.vertices) for part in parts[:-1]])
    return MeshArrays(
        np.concatenate([part.vertices for part in parts]),
        np.concatenate([part.triangles + start for part, start in zip(parts, starts, strict=True)]),
        _joined([part.uv for part in parts]),
        _joined([part.colors for part in parts]),
    )


def _joined(arrays: list[np.ndarray | None]) -> np.ndarray | None:
    given = [array for array in arrays if array is not None]
    return np.concatenate(given) if len(given) == len(arrays) else None


def _merge_equal_vertices(arrays: MeshArrays) -> MeshArrays:
    """Join vertices at one position, in order of first appearance: STL files repeat them for every face."""
    _, first, inverse = np.unique(arrays.vertices, axis=0, return_index=True, return_inverse=True)
    rank = np.argsort(np.argsort(first))
    return MeshArrays(arrays.vertices[np.sort(first)], rank[inverse.reshape(-1)][arrays.triangles])


def write_arrays(path: Path, arrays: MeshArrays) -> None:
    """Write one mesh; arguments and errors are those of `save_mesh`."""
    import trimesh

    suffix = path.suffix.lower().lstrip(".")
    if suffix not in WRITABLE:
        wanted = ", ".join(f".{name}" for name in WRITABLE)
        raise ValueError(f"save_mesh: path must end in one of {wanted}, got {str(path)!r}")
    if not path.parent.is_dir():
        raise FileNotFoundError(f"save_mesh: path must be in an existing folder, got {str(path)!r}")
    mesh = trimesh.Trimesh(arrays.vertices, arrays.triangles, process=False)
    if arrays.uv is not None:
        mesh.visual = trimesh.visual.TextureVisuals(uv=arrays.uv)
    elif arrays.colors is not None:
        colors = np.clip(np.round(arrays.colors * 255), 0, 255).astype(np.uint8)
        mesh.visual = trimesh.visual.ColorVisuals(mesh, vertex_colors=colors)
    exported: Any = _obj_text(mesh) if suffix == "obj" else mesh.export(file_type=suffix)
    path.write_bytes(exported.encode() if isinstance(exported, str) else exported)


def _obj_text(mesh: Any) -> str:
    # trimesh writes a fixed number of decimals: a mesh in small units needs more to keep float32's 7 digits.
    extent = float(np.abs(mesh.vertices).max(initial=0.0))
    digits = 8 + max(0, -int(np.floor(np.log10(extent)))) if extent > 0 else 8
    text = mesh.export(file_type="obj", digits=digits, write_texture=False, include_normals=False, header=None)
    # The material would be a white image of trimesh's making: leave it out, so that one file is one mesh.
    return "".join(line for line in text.splitlines(True) if not line.startswith(("mtllib", "usemtl")))
