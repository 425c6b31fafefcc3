"""Meshes: shapes in closed form, normals, edges and hinges, files."""

from __future__ import annotations

import dataclasses
import gc
import math
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from slangrast import topology
from slangrast.mesh import Mesh, cube, icosphere, load_mesh, plane, save_mesh, torus
from slangrast.topology import Topology, topology_of

SPOT = Path(__file__).parents[2] / "shared" / "data" / "spot" / "spot_triangulated.obj"
CLOSED = {"icosphere": icosphere(2), "cube": cube(), "torus": torus()}


def signed_volume(mesh: Mesh) -> float:
    a, b, c = mesh.vertices.double()[mesh.triangles].unbind(1)
    return (torch.linalg.cross(a, b) * c).sum().item() / 6


def area(mesh: Mesh) -> float:
    a, b, c = mesh.vertices.double()[mesh.triangles].unbind(1)
    return torch.linalg.cross(b - a, c - a).norm(dim=1).sum().item() / 2


@pytest.mark.parametrize("subdivisions", [0, 1, 2, 3, 4])
def test_icosphere_counts(subdivisions: int) -> None:
    mesh = icosphere(subdivisions)
    assert mesh.vertices.shape == (10 * 4**subdivisions + 2, 3)
    assert mesh.triangles.shape == (20 * 4**subdivisions, 3)
    assert mesh.edges().shape == (30 * 4**subdivisions, 2)
    torch.testing.assert_close(mesh.vertices.norm(dim=1), torch.ones(len(mesh.vertices)))
    assert torch.equal(mesh.vertices[:12], icosphere(0).vertices)


def test_icosphere_approaches_a_sphere() -> None:
    mesh = icosphere(5, radius=2.0, dtype=torch.float64)
    assert area(mesh) == pytest.approx(4 * math.pi * 2**2, rel=2e-3)
    assert signed_volume(mesh) == pytest.approx(4 / 3 * math.pi * 2**3, rel=2e-3)
    torch.testing.assert_close(mesh.vertex_normals(), mesh.vertices / 2, atol=4e-3, rtol=0)


@pytest.mark.parametrize("name", CLOSED)
def test_closed_shapes_are_manifold_and_wound_outwards(name: str) -> None:
    mesh = CLOSED[name]
    assert signed_volume(mesh) > 0
    assert len(mesh.topology.hinges) == len(mesh.edges()) == 1.5 * len(mesh.triangles)
    assert (mesh.topology.hinge_signs == 1).all()
    genus = 1 if name == "torus" else 0
    assert len(mesh.vertices) - len(mesh.edges()) + len(mesh.triangles) == 2 - 2 * genus


def test_cube_volume_area_and_normals() -> None:
    mesh = cube(side=3.0, dtype=torch.float64)
    assert signed_volume(mesh) == pytest.approx(27)
    assert area(mesh) == pytest.approx(54)
    outward = mesh.vertices[mesh.triangles].mean(1)
    assert ((mesh.face_normals() * outward).sum(1) > 0).all()
    assert torch.equal(mesh.face_normals().abs().sum(1), torch.ones(12, dtype=torch.float64))


def test_torus_volume_and_parameters() -> None:
    mesh = torus(2.0, 0.5, 200, 100, dtype=torch.float64)
    assert mesh.vertices.shape == (20000, 3)
    assert signed_volume(mesh) == pytest.approx(2 * math.pi**2 * 2.0 * 0.5**2, rel=2e-3)
    assert mesh.vertices[:, 1].abs().max() == pytest.approx(0.5)
    assert mesh.vertices[:, [0, 2]].norm(dim=1).max() == pytest.approx(2.5)


def test_plane_faces_the_viewer_and_its_uv_follow_its_positions() -> None:
    mesh = plane(3.0, 2.0, columns=4, rows=5)
    assert mesh.vertices.shape == (30, 3) and mesh.triangles.shape == (40, 3)
    assert area(mesh) == pytest.approx(6.0)
    torch.testing.assert_close(mesh.face_normals(), torch.tensor([[0.0, 0.0, 1.0]]).expand(40, 3))
    assert mesh.uv is not None
    torch.testing.assert_close(mesh.uv, mesh.vertices[:, :2] / torch.tensor([3.0, 2.0]) + 0.5)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: icosphere(-1), "icosphere: subdivisions must be an integer from 0 up, got -1"),
        (lambda: icosphere(10), "icosphere: subdivisions must be at most 9"),
        (lambda: icosphere(radius=0.0), "icosphere: radius must be above 0"),
        (lambda: cube(-1.0), "cube: side must be above 0"),
        (lambda: torus(minor_radius=0.0), "torus: minor_radius must be above 0"),
        (lambda: torus(major_segments=2), "torus: major_segments must be an integer from 3 up, got 2"),
        (lambda: plane(rows=0), "plane: rows must be an integer from 1 up, got 0"),
        (lambda: plane(width=float("nan")), "plane: width must be above 0, got nan"),
    ],
)
def test_shape_errors(make, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize("make", [icosphere, cube, torus, plane])
def test_shapes_take_dtype_and_device(make) -> None:
    mesh = make(dtype=torch.float64, device="cpu")
    assert mesh.vertices.dtype == torch.float64 and mesh.triangles.dtype == torch.int64
    assert make().vertices.dtype == torch.float32
    if mesh.uv is not None:
        assert mesh.uv.dtype == torch.float64


def test_to_changes_dtype_and_keeps_the_edges() -> None:
    mesh = plane()
    other = mesh.to(dtype=torch.float64)
    assert other.vertices.dtype == torch.float64 and other.triangles is mesh.triangles
    assert other.uv is not None and other.uv.dtype == torch.float64
    assert other.topology is mesh.topology


@pytest.mark.cuda
def test_meshes_move_to_a_gpu() -> None:
    mesh = icosphere(2).to("cuda")
    assert mesh.vertices.is_cuda and mesh.edges().is_cuda
    torch.testing.assert_close(mesh.vertex_normals().cpu(), icosphere(2).vertex_normals())


VERTICES, TRIANGLES = torch.zeros(3, 3), torch.tensor([[0, 1, 2]])


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (([[0.0]], TRIANGLES), TypeError, r"Mesh: vertices must be .* got list"),
        ((VERTICES.long(), TRIANGLES), TypeError, r"got \[3, 3\] int64"),
        ((VERTICES[None], TRIANGLES), ValueError, r"vertices must be \[V, 3\] float, got \[1, 3, 3\]"),
        ((VERTICES[:, :2], TRIANGLES), ValueError, r"got \[3, 2\] float32"),
        (
            (VERTICES, TRIANGLES.float()),
            TypeError,
            r"triangles must be \[F, 3\] int32 or int64, got \[1, 3\] float32",
        ),
        (
            (VERTICES, TRIANGLES.T),
            ValueError,
            r"triangles must be \[F, 3\] int32 or int64, got \[3, 1\] int64",
        ),
        ((VERTICES, TRIANGLES + 1), ValueError, r"triangles must lie in \[0, 3\), got 1 to 3"),
        ((VERTICES, TRIANGLES - 1), ValueError, r"triangles must lie in \[0, 3\), got -1 to 1"),
        ((VERTICES, TRIANGLES, torch.zeros(3, 3)), ValueError, r"uv must be \[V, 2\] float with V = 3"),
        (
            (VERTICES, TRIANGLES, None, torch.zeros(2, 3)),
            ValueError,
            r"vertex_colors must be \[V, C\] float with V = 3",
        ),
        ((VERTICES, TRIANGLES, None, VERTICES.byte()), TypeError, r"vertex_colors must be \[V, C\] float"),
        ((VERTICES, TRIANGLES.to("meta")), ValueError, r"one device, got \['cpu', 'meta'\]"),
    ],
)
def test_mesh_errors(arguments, error, message: str) -> None:
    with pytest.raises(error, match=message):
        Mesh(*arguments)


def test_mesh_is_immutable_and_takes_other_vertices() -> None:
    mesh = cube()
    with pytest.raises(dataclasses.FrozenInstanceError):
        mesh.vertices = mesh.vertices  # type: ignore[misc]
    moved = mesh.with_vertices((mesh.vertices + 1).requires_grad_())
    assert moved.topology is mesh.topology and moved.vertices.requires_grad
    assert Mesh(mesh.vertices, mesh.triangles.int()).triangles.dtype == torch.int64


def test_empty_mesh_has_no_edges() -> None:
    mesh = Mesh(torch.zeros(0, 3), torch.zeros(0, 3, dtype=torch.int64))
    assert mesh.edges().shape == (0, 2) and mesh.topology.hinges.shape == (0, 2)
    assert mesh.vertex_normals().shape == (0, 3) and mesh.face_normals().shape == (0, 3)


# Topology


def test_edges_and_hinges_of_two_triangles() -> None:
    alike = Topology(torch.tensor([[0, 1, 2], [2, 1, 3]]))
    assert alike.edges.tolist() == [[0, 1], [0, 2], [1, 2], [1, 3], [2, 3]]
    assert sorted(alike.hinges[0].tolist()) == [0, 1] and alike.hinge_signs.tolist() == [1]
    assert alike.degrees(5).tolist() == [2, 3, 3, 2, 0]
    assert Topology(torch.tensor([[0, 1, 2], [1, 2, 3]])).hinge_signs.tolist() == [-1]


def test_an_edge_of_three_faces_has_three_hinges() -> None:
    fan = Topology(torch.tensor([[0, 1, 2], [0, 1, 3], [0, 1, 4]]))
    assert sorted(map(sorted, fan.hinges.tolist())) == [[0, 1], [0, 2], [1, 2]]
    assert len(fan.edges) == 7


def test_triangles_that_repeat_a_vertex_are_left_out() -> None:
    repeated = Topology(torch.tensor([[0, 1, 1], [0, 1, 2], [2, 2, 2]]))
    assert repeated.edges.tolist() == [[0, 1], [0, 2], [1, 2]]
    assert len(repeated.hinges) == 0


def test_negative_indices_are_refused() -> None:
    with pytest.raises(ValueError, match="from 0 up, got -1"):
        Topology(torch.tensor([[0, 1, -1]]))


def test_topology_is_kept_per_tensor_and_notices_edits() -> None:
    triangles = torch.tensor([[0, 1, 2], [2, 1, 3]])
    first = topology_of(triangles)
    assert topology_of(triangles) is first
    assert topology_of(triangles.clone()) is not first
    triangles[1, 2] = 4
    assert topology_of(triangles).edges.max() == 4
    assert first.edges.max() == 3


def test_topology_is_forgotten_with_its_tensor() -> None:
    before = len(topology._CACHE)
    triangles = torch.tensor([[0, 1, 2]])
    topology_of(triangles)
    assert len(topology._CACHE) == before + 1
    del triangles
    gc.collect()
    assert len(topology._CACHE) == before


# Files


def colored() -> Mesh:
    mesh = icosphere(1)
    return dataclasses.replace(mesh, vertex_colors=(mesh.vertices + 1) / 2)


@pytest.mark.parametrize("suffix", ["obj", "ply", "off", "glb"])
@pytest.mark.parametrize("scale", [1.0, 1e-4])
def test_files_keep_vertices_and_their_order(tmp_path: Path, suffix: str, scale: float) -> None:
    mesh = icosphere(1, radius=scale)
    save_mesh(tmp_path / f"mesh.{suffix}", mesh)
    loaded = load_mesh(str(tmp_path / f"mesh.{suffix}"))
    # trimesh writes OFF files with ten decimals, whatever the size.
    tolerance = 1e-6 * scale if suffix != "off" else 1e-6 * scale + 1e-10
    torch.testing.assert_close(loaded.vertices, mesh.vertices, rtol=0, atol=tolerance)
    assert torch.equal(loaded.triangles, mesh.triangles)
    assert loaded.uv is None and loaded.vertex_colors is None
    assert [entry.name for entry in tmp_path.iterdir()] == [f"mesh.{suffix}"]


def test_stl_vertices_are_joined(tmp_path: Path) -> None:
    mesh = icosphere(1)
    save_mesh(tmp_path / "mesh.stl", mesh)
    loaded = load_mesh(tmp_path / "mesh.stl")
    assert loaded.vertices.shape == mesh.vertices.shape
    torch.testing.assert_close(loaded.vertices[loaded.triangles], mesh.vertices[mesh.triangles])
    assert len(loaded.topology.hinges) == len(mesh.topology.hinges)


@pytest.mark.parametrize("suffix", ["obj", "ply", "glb"])
def test_files_keep_colours_and_uv(tmp_path: Path, suffix: str) -> None:
    save_mesh(tmp_path / f"colors.{suffix}", colored())
    colors = load_mesh(tmp_path / f"colors.{suffix}", dtype=torch.float64).vertex_colors
    assert colors is not None and colors.dtype == torch.float64
    torch.testing.assert_close(colors.float(), colored().vertex_colors, atol=0.5 / 255 + 1e-6, rtol=0)
    save_mesh(tmp_path / f"uv.{suffix}", plane(columns=3))
    uv = load_mesh(tmp_path / f"uv.{suffix}").uv
    assert uv is not None
    torch.testing.assert_close(uv, plane(columns=3).uv)
    assert load_mesh(tmp_path / f"uv.{suffix}", keep_uv=False).uv is None


def test_obj_normals_materials_and_unused_vertices_do_not_change_the_vertices(tmp_path: Path) -> None:
    vertices = "v 9 9 9\nv 0 0 0\nv 1 0 0\nv 0 1 0\nv 1 1 0\nvn 0 0 1\nvn 0 1 0\n"
    text = vertices + "usemtl a\nf 4//1 2//1 3//2\nusemtl b\nf 3//1 5//1 4//1\n"
    (tmp_path / "a.obj").write_text(text)
    mesh = load_mesh(tmp_path / "a.obj")
    assert mesh.vertices[0].tolist() == [9, 9, 9] and len(mesh.vertices) == 5
    assert mesh.triangles.tolist() == [[3, 1, 2], [2, 4, 3]]


def test_obj_vertices_split_at_texture_seams_unless_uv_are_left_out(tmp_path: Path) -> None:
    vertices = "v 0 0 0\nv 1 0 0\nv 0 1 0\nv 1 1 0\nvt 0 0\nvt 1 0\nvt 0 1\nvt 0.5 0.5\n"
    text = vertices + "f 1/1 2/2 3/3\nf 3/4 2/2 4/1\n"
    (tmp_path / "a.obj").write_text(text)
    seamed, whole = load_mesh(tmp_path / "a.obj"), load_mesh(tmp_path / "a.obj", keep_uv=False)
    assert len(seamed.vertices) == 5 and seamed.uv is not None
    assert len(whole.vertices) == 4 and whole.uv is None
    assert torch.equal(seamed.vertices[seamed.triangles], whole.vertices[whole.triangles])


def test_several_meshes_become_one(tmp_path: Path) -> None:
    trimesh = pytest.importorskip("trimesh")
    scene = trimesh.Scene([trimesh.creation.box(), trimesh.creation.icosphere(1)])
    (tmp_path / "scene.glb").write_bytes(scene.export(file_type="glb"))
    mesh = load_mesh(tmp_path / "scene.glb")
    assert len(mesh.triangles) == 12 + 80
    assert signed_volume(mesh) == pytest.approx(1 + trimesh.creation.icosphere(1).volume, rel=1e-4)


def test_polygons_become_triangles(tmp_path: Path) -> None:
    (tmp_path / "a.obj").write_text("v 0 0 0\nv 1 0 0\nv 1 1 0\nv 0 1 0\nf 1 2 3 4\n")
    assert area(load_mesh(tmp_path / "a.obj")) == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("name", "content", "error", "message"),
    [
        (
            "missing.obj",
            None,
            FileNotFoundError,
            "load_mesh: path must be an existing file, got '.*missing.obj'",
        ),
        (
            "a.foo",
            "x",
            ValueError,
            r"load_mesh: path must be a mesh in a format that trimesh reads \(.*ply.*\), got",
        ),
        ("a.ply", "ply\nnonsense", ValueError, "load_mesh: path must be a mesh in a format"),
        (
            "a.obj",
            "v 0 0 0\nv 1 0 0\nv 0 1 0\nf 1 2 9\n",
            ValueError,
            "load_mesh: path must be a mesh in a format",
        ),
        ("b.obj", "", ValueError, "load_mesh: path must be a file with triangles"),
        ("c.obj", "v 0 0 0\nv 1 0 0\n", ValueError, "load_mesh: path must be a file with triangles"),
        ("d.obj", "v nan 0 0\nv 1 0 0\nv 0 1 0\nf 1 2 3\n", ValueError, "load_mesh: vertices must be finite"),
    ],
)
def test_load_errors(tmp_path: Path, name: str, content: str | None, error, message: str) -> None:
    if content is not None:
        (tmp_path / name).write_text(content)
    with pytest.raises(error, match=message):
        load_mesh(tmp_path / name)


def test_save_errors(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="save_mesh: mesh must be a Mesh, got str"):
        save_mesh(cube(), "a.obj")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"save_mesh: path must end in one of \.obj, \.ply"):
        save_mesh(tmp_path / "a.foo", cube())
    with pytest.raises(FileNotFoundError, match="save_mesh: path must be in an existing folder"):
        save_mesh(tmp_path / "no" / "a.obj", cube())
    both = dataclasses.replace(plane(), vertex_colors=torch.zeros(4, 3))
    with pytest.raises(ValueError, match="save_mesh: mesh must have uv or vertex_colors, got both"):
        save_mesh(tmp_path / "a.obj", both)
    with pytest.raises(ValueError, match=r"save_mesh: vertex_colors must be \[V, 3\], got \[4, 4\] float32"):
        save_mesh(tmp_path / "a.obj", dataclasses.replace(plane(), uv=None, vertex_colors=torch.zeros(4, 4)))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(not SPOT.exists(), reason=f"needs {SPOT.name} in ../shared/data")
def test_spot_is_closed_without_its_seams() -> None:
    mesh = load_mesh(SPOT, keep_uv=False)
    assert mesh.vertices.shape == (2930, 3) and mesh.triangles.shape == (5856, 3)
    assert len(mesh.topology.hinges) == len(mesh.edges()) == 8784
    textured = load_mesh(SPOT)
    assert textured.uv is not None and textured.uv.shape == (3225, 2)
    assert torch.equal(textured.vertices[textured.triangles], mesh.vertices[mesh.triangles])


def test_trimesh_is_imported_only_for_files() -> None:
    code = "import sys, slangrast.mesh as m; m.icosphere(1); sys.exit('trimesh' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[1], check=False).returncode == 0
