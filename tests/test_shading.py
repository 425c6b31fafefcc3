"""Normals, lights and reflection models in closed form; gradients against finite differences."""

from __future__ import annotations

import math

import pytest
import torch
from torch.autograd import gradcheck

from slangrast import shading
from slangrast.mesh import cube, icosphere

DOUBLE = torch.float64


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=DOUBLE)


# Normalisation


@pytest.mark.parametrize("scale", [1e-30, 1e-12, 1.0, 1e12, 1e30])
def test_normalize_at_every_scale(scale: float) -> None:
    vectors = torch.tensor([[3.0, 0.0, -4.0]]) * scale
    torch.testing.assert_close(shading.normalize(vectors, floor=0.0), torch.tensor([[0.6, 0.0, -0.8]]))


def test_normalize_gives_zero_and_no_gradient_below_the_floor() -> None:
    vectors = torch.tensor([[0.0, 0.0, 0.0], [1e-5, 0.0, 0.0], [2e-3, 0.0, 0.0]], requires_grad=True)
    unit = shading.normalize(vectors, floor=1e-3)
    assert unit.tolist() == [[0, 0, 0], [0, 0, 0], [1, 0, 0]]
    (gradient,) = torch.autograd.grad(unit.sum(), vectors)
    assert gradient[:2].abs().max() == 0
    assert gradient[2].norm() <= math.sqrt(3) / 1e-3
    torch.testing.assert_close(gradient[2], torch.tensor([0.0, 500.0, 500.0]))


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_normalize_of_bad_numbers_is_zero(bad: float) -> None:
    vectors = torch.tensor([[bad, 1.0, 0.0], [0.0, 2.0, 0.0]], requires_grad=True)
    unit = shading.normalize(vectors)
    unit.sum().backward()
    assert unit.tolist() == [[0, 0, 0], [0, 1, 0]]
    assert vectors.grad is not None and torch.isfinite(vectors.grad).all()


def test_normalize_gradients_and_error() -> None:
    vectors = random(4, 3).requires_grad_()
    assert gradcheck(shading.normalize, vectors)
    assert torch.autograd.gradgradcheck(shading.normalize, vectors)
    with pytest.raises(TypeError, match=r"normalize: vectors must be a .* got \[2\] int64"):
        shading.normalize(torch.tensor([1, 2]))


# Normals


def test_normals_follow_the_winding() -> None:
    vertices = torch.tensor([[0.0, 0.0, 0.0], [1.0, 0.0, 0.0], [0.0, 1.0, 0.0]])
    assert shading.face_normals(vertices, torch.tensor([[0, 1, 2]])).tolist() == [[0, 0, 1]]
    assert shading.face_normals(vertices, torch.tensor([[0, 2, 1]])).tolist() == [[0, 0, -1]]


def test_vertex_normals_are_weighted_by_area() -> None:
    # At the origin: area 1/2 facing +z and area 2 facing +x.
    vertices = torch.tensor([[0.0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 2, 0], [0, 0, 2]], dtype=DOUBLE)
    normals = shading.vertex_normals(vertices, torch.tensor([[0, 1, 2], [0, 3, 4]]))
    torch.testing.assert_close(normals[0], torch.tensor([4.0, 0.0, 1.0], dtype=DOUBLE) / math.sqrt(17))
    torch.testing.assert_close(normals[1], torch.tensor([0.0, 0.0, 1.0], dtype=DOUBLE))


@pytest.mark.parametrize("normals", [shading.face_normals, shading.vertex_normals])
def test_normals_of_a_batch_and_of_int32(normals) -> None:
    mesh = icosphere(1, dtype=DOUBLE)
    batch = torch.stack((mesh.vertices, 3 * mesh.vertices + 1))
    both = normals(batch, mesh.triangles.int())
    torch.testing.assert_close(both[0], normals(mesh.vertices, mesh.triangles))
    torch.testing.assert_close(both[1], both[0])


@pytest.mark.parametrize("normals", [shading.face_normals, shading.vertex_normals])
def test_normals_gradients(normals) -> None:
    triangles = cube().triangles
    vertices = (cube(dtype=DOUBLE).vertices + 0.1 * random(8, 3)).requires_grad_()
    assert gradcheck(lambda v: normals(v, triangles), vertices)


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
def test_normals_do_not_depend_on_the_unit(scale: float) -> None:
    mesh = icosphere(3)
    torch.testing.assert_close(
        shading.vertex_normals(mesh.vertices * scale, mesh.triangles),
        mesh.vertex_normals(),
        atol=1e-5,
        rtol=0,
    )


@pytest.mark.parametrize("normals", [shading.face_normals, shading.vertex_normals])
@pytest.mark.parametrize(
    "corners",
    [
        [[0.3, 0.3, 0.3], [0.3, 0.3, 0.3], [0.3, 0.3, 0.3]],
        [[0.0, 0.0, 0.0], [0.1, 0.2, 0.3], [0.2, 0.4, 0.6]],
        [[0.0, 0.0, 0.0], [1.0, 0.0, 0.0], [1.0, 0.0, 0.0]],
    ],
    ids=["point", "line", "two equal"],
)
def test_normals_of_faces_without_area(normals, corners) -> None:
    vertices = torch.tensor(corners, requires_grad=True)
    result = normals(vertices, torch.tensor([[0, 1, 2]]))
    result.sum().backward()
    assert result.abs().max() == 0
    assert vertices.grad is not None and vertices.grad.abs().max() == 0


def test_normal_of_an_unused_vertex_and_of_faces_back_to_back() -> None:
    vertices = torch.tensor([[0.0, 0, 0], [1, 0, 0], [0, 1, 0], [5, 5, 5]])
    assert shading.vertex_normals(vertices, torch.tensor([[0, 1, 2], [0, 2, 1]])).abs().max() == 0


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), 1e30])
def test_one_bad_vertex_spoils_only_its_own_faces(bad: float) -> None:
    mesh = icosphere(1)
    vertices = mesh.vertices.clone()
    vertices[0, 0] = bad
    vertices.requires_grad_()
    touched = (mesh.triangles == 0).any(1)
    normals = shading.face_normals(vertices, mesh.triangles)
    normals.sum().backward()
    assert torch.isfinite(normals).all()
    assert vertices.grad is not None and torch.isfinite(vertices.grad).all()
    if not math.isfinite(bad):
        torch.testing.assert_close(normals[~touched], mesh.face_normals()[~touched])
        assert normals[touched].abs().max() == 0


def test_normals_errors() -> None:
    with pytest.raises(
        ValueError, match=r"vertex_normals: vertices must be \[V, 3\] or \[N, V, 3\] float, got \[4, 2\]"
    ):
        shading.vertex_normals(torch.zeros(4, 2), torch.tensor([[0, 1, 2]]))
    with pytest.raises(
        TypeError, match=r"face_normals: triangles must be \[F, 3\] int32 or int64, got \[1, 3\] float32"
    ):
        shading.face_normals(torch.zeros(4, 3), torch.zeros(1, 3))
    with pytest.raises(ValueError, match=r"vertex_normals: triangles must lie in \[0, 4\), got 0 to 4"):
        shading.vertex_normals(torch.zeros(4, 3), torch.tensor([[0, 1, 4]]))
    with pytest.raises(ValueError, match="face_normals: triangles must be on the device of vertices, meta, got cpu"):
        shading.face_normals(torch.zeros(4, 3, device="meta"), torch.tensor([[0, 1, 2]]))


# Lights


def test_directional_light() -> None:
    light = shading.directional_light((0.0, 3.0, 4.0), color=(1.0, 0.5, 0.0))
    torch.testing.assert_close(light.direction, torch.tensor([0.0, 0.6, 0.8]))
    assert light.radiance.tolist() == [1.0, 0.5, 0.0]
    with pytest.raises(ValueError, match=r"directional_light: direction must be \[..., 3\] float, got \[2\]"):
        shading.directional_light((1.0, 2.0))


def test_a_direction_of_numbers_takes_dtype_and_device() -> None:
    light = shading.directional_light((0.0, 3.0, 4.0), dtype=DOUBLE, device="meta")
    assert light.direction.dtype == DOUBLE and light.direction.device.type == "meta"
    with pytest.raises(ValueError, match="lambert: light must be on the device of normals, cpu, got meta"):
        shading.lambert(torch.zeros(1, 3), light)


def test_point_light_falls_off_with_the_square_beyond_the_reference_distance() -> None:
    points = torch.tensor([[0.0, 0.0, 0.0], [0.0, 0.0, 3.5], [0.0, 0.0, 4.0]])
    light = shading.point_light(points, (0.0, 0.0, 4.0), color=2.0, reference_distance=1.0)
    assert light.direction.tolist() == [[0, 0, 1], [0, 0, 1], [0, 0, 0]]
    assert light.radiance.tolist() == [[2 / 16], [2], [2]]
    far = shading.point_light(points, (0.0, 0.0, 4.0), color=2.0, reference_distance=4.0)
    assert far.radiance.tolist() == [[2], [2], [2]]
    assert shading.point_light(points, (0.0, 0.0, 4.0), color=2.0).radiance.item() == 2
    with pytest.raises(ValueError, match=r"point_light: reference_distance must be above 0, got 0\.0"):
        shading.point_light(points, (0.0, 0.0, 4.0), reference_distance=0.0)
    with pytest.raises(ValueError, match=r"point_light: position must be \[..., 3\] float"):
        shading.point_light(points, (0.0, 0.0))


def test_point_light_gradients_are_finite_at_the_light() -> None:
    points = torch.zeros(1, 3, requires_grad=True)
    light = shading.point_light(points, (0.0, 0.0, 0.0), reference_distance=1.0)
    (light.direction.sum() + light.radiance.sum()).backward()
    assert points.grad is not None and torch.isfinite(points.grad).all()


# Reflection


def test_ambient() -> None:
    albedo = torch.tensor([[0.5, 1.0, 0.0]])
    torch.testing.assert_close(shading.ambient(albedo, (0.2, 0.1, 1.0)), torch.tensor([[0.1, 0.1, 0.0]]))
    assert torch.equal(shading.ambient(albedo), albedo)


@pytest.mark.parametrize("degrees", [0, 30, 60, 89, 91, 180])
def test_lambert_is_the_cosine(degrees: int) -> None:
    angle = math.radians(degrees)
    light = shading.directional_light((math.sin(angle), 0.0, math.cos(angle)), color=2.0)
    normals = torch.tensor([[0.0, 0.0, 1.0]])
    albedo = torch.tensor([[0.25, 0.5, 1.0]])
    front = shading.lambert(normals, light, albedo)
    torch.testing.assert_close(front, 2 * albedo * max(0.0, math.cos(angle)), atol=1e-6, rtol=0)
    both = shading.lambert(normals, light, albedo, two_sided=True)
    torch.testing.assert_close(both, 2 * albedo * abs(math.cos(angle)), atol=1e-6, rtol=0)


@pytest.mark.parametrize("degrees", [0, 10, 45, 100])
def test_phong_is_the_cosine_to_the_mirror_direction(degrees: int) -> None:
    # Light at 30 degrees on one side, so the mirror direction is at 30 degrees on the other.
    light = shading.directional_light((-0.5, 0.0, math.sqrt(3) / 2))
    seen = math.radians(30 + degrees)
    to_eye = 7 * torch.tensor([[math.sin(seen), 0.0, math.cos(seen)]])
    for shininess in (1.0, 20.0):
        value = shading.phong(torch.tensor([[0.0, 0.0, 1.0]]), light, to_eye, 0.5, shininess).item()
        assert value == pytest.approx(0.5 * max(0.0, math.cos(math.radians(degrees))) ** shininess, abs=1e-5)


def test_phong_needs_a_light_in_front_and_a_shininess_from_1() -> None:
    normals, below = torch.tensor([[0.0, 0.0, 1.0]]), shading.directional_light((0.9, 0.0, -0.1))
    assert shading.phong(normals, below, torch.tensor([[-0.9, 0.0, -0.1]]), shininess=1.0).item() == 0
    with pytest.raises(ValueError, match=r"phong: shininess must be at least 1, got 0\.5"):
        shading.phong(normals, below, normals, shininess=0.5)
    with pytest.raises(ValueError, match=r"phong: to_eye must be \[..., 3\] float, got \[1, 2\]"):
        shading.phong(normals, below, torch.zeros(1, 2))
    with pytest.raises(ValueError, match=r"lambert: normals must be \[..., 3\] float"):
        shading.lambert(torch.zeros(1, 2), below)


def test_shading_gradients_for_every_input() -> None:
    def shade(vertices, position, albedo, color, eye, specular, shininess):
        normals = shading.vertex_normals(vertices, triangles)
        light = shading.point_light(vertices, position, color, reference_distance=0.3)
        highlight = shading.phong(normals, light, eye - vertices, specular, shininess)
        return shading.ambient(albedo, color) + shading.lambert(normals, light, albedo) + highlight

    mesh = icosphere(0, dtype=DOUBLE)
    triangles = mesh.triangles
    inputs = [mesh.vertices, random(3) * 3, random(12, 4).abs(), random(4).abs(), random(3, seed=1) * 3]
    inputs += [random(4, seed=2).abs(), torch.tensor(3.0, dtype=DOUBLE)]
    assert gradcheck(shade, [tensor.clone().requires_grad_() for tensor in inputs])


def test_shading_works_per_pixel() -> None:
    normals = shading.normalize(random(2, 5, 7, 3))
    light = shading.directional_light(random(3, seed=1), color=torch.ones(3, dtype=DOUBLE))
    image = shading.lambert(normals, light, 0.5) + shading.phong(normals, light, random(2, 5, 7, 3, seed=2))
    assert image.shape == (2, 5, 7, 3) and image.dtype == DOUBLE
