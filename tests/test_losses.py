"""Losses: closed forms on small meshes, invariances, gradients, degenerate and boundary meshes, errors."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.autograd import gradcheck

from slangrast import losses
from slangrast.mesh import Mesh, cube, icosphere, plane, torus
from slangrast.topology import Topology

DOUBLE = torch.float64
MESH_LOSSES = [losses.laplacian, losses.flatten, losses.edge_length]


def bumpy(mesh: Mesh, amount: float = 0.1) -> Tensor:
    noise = torch.randn(mesh.vertices.shape, generator=torch.Generator().manual_seed(0), dtype=mesh.vertices.dtype)
    return mesh.vertices + amount * noise


# Images


def test_mse_and_l1() -> None:
    prediction = torch.tensor([[0.0, 1.0], [2.0, 5.0]], dtype=DOUBLE, requires_grad=True)
    target = torch.tensor([[0.0, 2.0], [4.0, 1.0]], dtype=DOUBLE)
    assert losses.mse(prediction, target).item() == (0 + 1 + 4 + 16) / 4
    assert losses.l1(prediction, target).item() == (0 + 1 + 2 + 4) / 4
    assert gradcheck(losses.mse, (prediction, target))
    (gradient,) = torch.autograd.grad(losses.l1(prediction, target), prediction)
    assert gradient.tolist() == [[0, -0.25], [-0.25, 0.25]]


def test_silhouette_iou_of_rectangles() -> None:
    prediction, target = torch.zeros(2, 37, 53), torch.zeros(2, 37, 53)
    prediction[0, :10, :10] = 1
    target[0, 5:15, :10] = 1
    prediction[1, :4, :4] = target[1, :4, :4] = 1
    assert losses.silhouette_iou(prediction[0], target[0]).item() == pytest.approx(1 - 50 / 150)
    assert losses.silhouette_iou(prediction, target).item() == pytest.approx((1 - 50 / 150 + 0) / 2)


def test_silhouette_iou_of_soft_masks_and_its_gradient() -> None:
    generator = torch.Generator().manual_seed(0)
    prediction = torch.rand(2, 3, 4, generator=generator, dtype=DOUBLE, requires_grad=True)
    target = torch.rand(2, 3, 4, generator=generator, dtype=DOUBLE, requires_grad=True)
    expected = 0.0
    for p, t in zip(prediction, target, strict=True):
        expected += 1 - ((p * t).sum() / (p + t - p * t).sum()).item()
    assert losses.silhouette_iou(prediction, target).item() == pytest.approx(expected / 2)
    assert gradcheck(losses.silhouette_iou, (prediction, target))


def test_silhouette_iou_of_empty_images() -> None:
    empty, full = torch.zeros(4, 5, requires_grad=True), torch.ones(4, 5)
    assert losses.silhouette_iou(empty, torch.zeros(4, 5)).item() == 0
    assert losses.silhouette_iou(empty, full).item() == 1
    for target in (torch.zeros(4, 5), full):
        (gradient,) = torch.autograd.grad(losses.silhouette_iou(empty, target), empty)
        assert torch.isfinite(gradient).all()
    assert gradient.max() < 0


@pytest.mark.parametrize("loss", [losses.mse, losses.l1, losses.silhouette_iou])
def test_image_errors(loss) -> None:
    with pytest.raises(
        ValueError, match=rf"{loss.__name__}: target must have prediction's shape \[2, 3\], got \[2, 3, 1\]"
    ):
        loss(torch.zeros(2, 3), torch.zeros(2, 3, 1))
    with pytest.raises(ValueError, match=f"{loss.__name__}: target must be on prediction's device cpu, got meta"):
        loss(torch.zeros(2, 3), torch.zeros(2, 3, device="meta"))


def test_silhouette_iou_takes_images_only() -> None:
    with pytest.raises(
        ValueError, match=r"silhouette_iou: prediction must be \[N, H, W\] or \[H, W\], got \[2, 3, 4, 1\]"
    ):
        losses.silhouette_iou(torch.zeros(2, 3, 4, 1), torch.zeros(2, 3, 4, 1))


# Laplacian


def test_laplacian_against_a_dense_matrix() -> None:
    mesh = torus(major_segments=7, minor_segments=5, dtype=DOUBLE)
    vertices, count = bumpy(mesh), len(mesh.vertices)
    adjacency = torch.zeros(count, count, dtype=DOUBLE)
    for a, b, c in mesh.triangles.tolist():
        for i, j in ((a, b), (b, c), (c, a)):
            adjacency[i, j] = adjacency[j, i] = 1
    delta = adjacency @ vertices / adjacency.sum(1, keepdim=True) - vertices
    torch.testing.assert_close(losses.laplacian(vertices, mesh.triangles), delta.square().sum())


def test_laplacian_of_an_even_plane_is_zero_inside() -> None:
    mesh = plane(6.0, 6.0, columns=6, rows=6, dtype=DOUBLE)
    whole = mesh.vertices.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(losses.laplacian(whole, mesh.triangles), whole)
    inside = mesh.vertices.abs().amax(1) < 1.5  # two rings away from the boundary
    assert inside.sum() == 9
    assert gradient[inside].abs().max() < 1e-12
    assert gradient[~inside].abs().max() > 0.1


def test_laplacian_of_one_triangle() -> None:
    # The middle of two corners lies beyond the centre, by half the distance of the third.
    triangle = torch.tensor([[0.0, 0, 0], [1, 0, 0], [0, 1, 0]], dtype=DOUBLE)
    centre = triangle.mean(0)
    expected = (1.5 * (triangle - centre)).square().sum()
    torch.testing.assert_close(losses.laplacian(triangle, torch.tensor([[0, 1, 2]])), expected)


# Flatten


def folded(degrees: float, flip: bool = False) -> tuple[Tensor, Tensor]:
    """Two triangles that share the edge 0-1, at an angle: 180 degrees is flat."""
    angle = math.radians(degrees)
    vertices = [[0, 0, 0], [0, 1, 0], [1, 0.3, 0], [2 * math.cos(angle), 0.7, 2 * math.sin(angle)]]
    triangles = [[0, 1, 2], [0, 1, 3] if flip else [1, 0, 3]]
    return torch.tensor(vertices, dtype=DOUBLE), torch.tensor(triangles)


@pytest.mark.parametrize("degrees", [1, 45, 90, 135, 180])
@pytest.mark.parametrize("flip", [False, True])
def test_flatten_is_the_dihedral_angle(degrees: float, flip: bool) -> None:
    expected = (math.cos(math.radians(degrees)) + 1) ** 2
    assert losses.flatten(*folded(degrees, flip)).item() == pytest.approx(expected, abs=1e-12)


def test_flatten_of_a_cube() -> None:
    # Twelve edges at a right angle, where cos is 0, and six flat diagonals.
    assert losses.flatten(cube(dtype=DOUBLE).vertices, cube().triangles).item() == pytest.approx(12)


def test_flatten_of_a_flat_plane_and_of_three_faces_at_an_edge() -> None:
    mesh = plane(columns=5, rows=4)
    assert losses.flatten(mesh.vertices, mesh.triangles).item() == pytest.approx(0, abs=1e-10)
    vertices = torch.tensor([[0.0, 0, 0], [0, 1, 0], [1, 0, 0], [-1, 0, 0], [0, 0, 1]], dtype=DOUBLE)
    fan = torch.tensor([[0, 1, 2], [0, 1, 3], [0, 1, 4]])
    assert losses.flatten(vertices, fan).item() == pytest.approx(0 + 1 + 1)


@pytest.mark.parametrize("scale", [1e-12, 1e-3, 1e12])
def test_flatten_does_not_depend_on_the_unit(scale: float) -> None:
    mesh = icosphere(2)
    vertices = bumpy(mesh, 0.02)
    value = losses.flatten(vertices * scale, mesh.triangles)
    expected = losses.flatten(vertices, mesh.triangles)
    torch.testing.assert_close(value, expected, rtol=1e-4, atol=0)
    both = torch.stack((vertices, vertices * scale))
    torch.testing.assert_close(losses.flatten(both, mesh.triangles), expected, rtol=1e-4, atol=0)


# Edge length


def test_edge_length_closed_forms() -> None:
    mesh = cube(side=2.0, dtype=DOUBLE)  # twelve edges of 2 and six diagonals
    diagonal = 2 * math.sqrt(2)
    wanted = {0.0: 12 * 4 + 6 * 8, 2.0: 6 * (diagonal - 2) ** 2}
    for target, expected in wanted.items():
        assert losses.edge_length(mesh.vertices, mesh.triangles, target).item() == pytest.approx(expected)
    mean = (12 * 2 + 6 * diagonal) / 18
    spread = 12 * (2 - mean) ** 2 + 6 * (diagonal - mean) ** 2
    assert losses.edge_length(mesh.vertices, mesh.triangles, "mean").item() == pytest.approx(spread)


def test_edge_length_gradients_for_every_target() -> None:
    mesh = cube(dtype=DOUBLE)
    vertices = bumpy(mesh).requires_grad_()
    target = torch.tensor(0.7, dtype=DOUBLE, requires_grad=True)
    assert gradcheck(lambda v, t: losses.edge_length(v, mesh.triangles, t), (vertices, target))
    assert gradcheck(lambda v: losses.edge_length(v, mesh.triangles, "mean"), vertices)


def test_edge_length_errors() -> None:
    mesh = cube()
    with pytest.raises(ValueError, match=r'edge_length: target_length must be a number, .* got "median"'):
        losses.edge_length(mesh.vertices, mesh.triangles, "median")
    with pytest.raises(ValueError, match="edge_length: target_length must be at least 0, got -1"):
        losses.edge_length(mesh.vertices, mesh.triangles, -1)


# All mesh losses


@pytest.mark.parametrize("loss", MESH_LOSSES)
@pytest.mark.parametrize("mesh", [cube(dtype=DOUBLE), plane(columns=2, rows=2, dtype=DOUBLE)], ids=["closed", "open"])
def test_mesh_loss_gradients(loss, mesh: Mesh) -> None:
    batch = torch.stack((bumpy(mesh), 2 * bumpy(mesh, 0.2))).requires_grad_()
    assert gradcheck(lambda v: loss(v, mesh.triangles), batch)
    assert torch.autograd.gradgradcheck(lambda v: loss(v, mesh.triangles), batch)


@pytest.mark.parametrize("loss", MESH_LOSSES)
def test_mesh_losses_are_means_over_the_batch_and_take_any_form_of_triangles(loss) -> None:
    mesh = icosphere(1)
    first, second = bumpy(mesh), 2 * bumpy(mesh, 0.3)
    expected = (loss(first, mesh.triangles) + loss(second, mesh.triangles)) / 2
    torch.testing.assert_close(loss(torch.stack((first, second)), mesh.triangles.int()), expected)
    torch.testing.assert_close(loss(torch.stack((first, second)), Topology(mesh.triangles)), expected)
    assert loss(first, mesh.topology) == loss(first, mesh.triangles)


@pytest.mark.parametrize("loss", MESH_LOSSES)
def test_mesh_losses_do_not_depend_on_place_or_order(loss) -> None:
    mesh = icosphere(1, dtype=DOUBLE)
    vertices, generator = bumpy(mesh), torch.Generator().manual_seed(1)
    expected = loss(vertices, mesh.triangles)
    torch.testing.assert_close(loss(vertices + 3, mesh.triangles), expected)
    order = torch.randperm(len(mesh.triangles), generator=generator)
    torch.testing.assert_close(loss(vertices, mesh.triangles[order].roll(1, dims=1)), expected)
    names = torch.randperm(len(vertices), generator=generator)
    torch.testing.assert_close(loss(vertices[names], names.argsort()[mesh.triangles]), expected)


@pytest.mark.parametrize("loss", [*MESH_LOSSES, lambda v, t: losses.edge_length(v, t, "mean")])
@pytest.mark.parametrize("collapse", ["point", "line", "one vertex onto another", "one sliver"])
def test_mesh_losses_of_faces_without_area_are_finite(loss, collapse: str) -> None:
    mesh = icosphere(1)
    vertices = mesh.vertices.clone()
    if collapse == "point":
        vertices[:] = 0.3
    elif collapse == "line":
        vertices[:, 1:] = vertices[:, :1] * torch.tensor([2.0, 3.0])
    elif collapse == "one vertex onto another":
        vertices[0] = vertices[mesh.edges()[0, 1]]
    else:
        a, b, c = mesh.triangles[0].tolist()
        vertices[a] = (vertices[b] + vertices[c]) / 2 + 1e-6
    vertices.requires_grad_()
    value = loss(vertices, mesh.triangles)
    value.backward()
    assert torch.isfinite(value)
    assert vertices.grad is not None and torch.isfinite(vertices.grad).all()


def test_flatten_of_a_collapsed_mesh_is_zero() -> None:
    mesh = icosphere(1)
    assert losses.flatten(torch.zeros_like(mesh.vertices), mesh.triangles) == 0


@pytest.mark.parametrize("loss", [*MESH_LOSSES, lambda v, t: losses.edge_length(v, t, "mean")])
def test_mesh_losses_without_triangles_and_with_loose_vertices(loss) -> None:
    vertices = torch.rand(4, 3, requires_grad=True)
    value = loss(vertices, torch.zeros(0, 3, dtype=torch.int64))
    value.backward()
    assert value == 0
    assert vertices.grad is not None and vertices.grad.abs().max() == 0
    triangle = torch.tensor([[0, 1, 2]])
    torch.testing.assert_close(loss(vertices, triangle), loss(vertices[:3], triangle))


@pytest.mark.parametrize("loss", MESH_LOSSES)
@pytest.mark.parametrize("dtype", [torch.float32, DOUBLE])
def test_mesh_losses_keep_the_dtype(loss, dtype: torch.dtype) -> None:
    assert loss(cube(dtype=dtype).vertices, cube().triangles).dtype == dtype


@pytest.mark.cuda
@pytest.mark.parametrize("loss", MESH_LOSSES)
def test_mesh_losses_on_a_gpu(loss) -> None:
    mesh = icosphere(2)
    vertices = bumpy(mesh)
    on_gpu = loss(vertices.to("cuda"), mesh.triangles.to("cuda"))
    assert on_gpu.is_cuda
    torch.testing.assert_close(on_gpu.cpu(), loss(vertices, mesh.triangles), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("loss", MESH_LOSSES)
def test_mesh_loss_errors(loss) -> None:
    mesh, name = cube(), loss.__name__
    with pytest.raises(ValueError, match=f"{name}: triangles must index the 7 vertices, got index 7"):
        loss(mesh.vertices[:7], mesh.triangles)
    with pytest.raises(ValueError, match=rf"{name}: vertices must be \[V, 3\] or \[N, V, 3\] float, got \[8, 2\]"):
        loss(mesh.vertices[:, :2], mesh.triangles)
    with pytest.raises(TypeError, match=rf"{name}: vertices must be .* got \[8, 3\] int64"):
        loss(mesh.vertices.long(), mesh.triangles)
    with pytest.raises(TypeError, match=rf"{name}: triangles must be \[F, 3\] int32 or int64, got \[12, 3\] float32"):
        loss(mesh.vertices, mesh.triangles.float())
    with pytest.raises(ValueError, match=f"{name}: triangles must be on the device of vertices, meta, got cpu"):
        loss(mesh.vertices.to("meta"), mesh.triangles)
