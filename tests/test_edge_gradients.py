"""Gradients of moving edges: against the reference, and against differences of the exact image."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

import slangrast as sr
from tests import scenes, silhouette_motion
from tests.comparison import cast, on_every_device, on_every_engine
from tests.hard_path import GRADIENT_TOLERANCE, rasterize, reference, relative_error, with_neighbours
from tests.references.antialias import edge_gradients as edge_gradients_reference
from tests.scenes import Scene
from tests.silhouette_motion import MOTIONS, agreement, estimated_gradient, exact_gradient
from tests.test_antialias import SQUARE, random_image, square


def few_triangles() -> Scene:
    return scenes.soup(20, (19, 31))


def few_around_the_eye() -> Scene:
    return scenes.soup_of_both_signs(15, (19, 31), seed=4)


SCENES = [
    scenes.shared_edge,
    scenes.sphere,
    scenes.no_faces,
    few_triangles,
    few_around_the_eye,
    scenes.across_the_near_plane,
]


@on_every_engine
@pytest.mark.parametrize("scene", SCENES, ids=lambda scene: scene.__name__)
def test_scene(scene: Callable[[], Scene], device: str, dtype: torch.dtype) -> None:
    one, exact = cast(scene(), device, dtype), cast(scene(), "cpu", torch.float64)
    one.positions.requires_grad_()
    exact.positions.requires_grad_()
    seen = reference(exact)
    image, grad = random_image(one.resolution), torch.randn(1, *one.resolution, 3, dtype=torch.float64)
    # Where something is decided within rounding, in a pixel or its neighbour, there is no difference of colours.
    doubtful = edge_gradients_reference(image[0], grad[0], exact.positions, exact.triangles, seen.triangle_id).doubtful
    doubtful = with_neighbours(doubtful | seen.doubtful)
    assert doubtful.double().mean() < 0.06
    image[0, doubtful] = 0.5
    expected = edge_gradients_reference(image[0], grad[0], exact.positions, exact.triangles, seen.triangle_id)
    assert expected.silhouettes > 20 or scene is scenes.no_faces
    assert (expected.crossings > 5) == (scene in (few_triangles, few_around_the_eye))

    given = image.to(device, dtype).requires_grad_()
    found = sr.edge_gradients(given, rasterize(one))
    assert torch.equal(found, given)
    gradients = torch.autograd.grad((found * grad.to(found)).sum(), (one.positions, given))
    assert torch.equal(gradients[1], grad.to(found))
    assert gradients[0].dtype == dtype and gradients[0].isfinite().all()
    assert relative_error(gradients[0], expected.positions) <= GRADIENT_TOLERANCE[dtype]


# Against the exact image


@pytest.fixture(scope="module", params=MOTIONS)
def motion(request) -> tuple[str, Tensor]:
    return request.param, exact_gradient(MOTIONS[request.param]())


def test_moving_edges(motion: tuple[str, Tensor]) -> None:
    """Of every coordinate of every vertex: the direction, and the size."""
    name, exact = motion
    found = {key: agreement(estimated_gradient(MOTIONS[name](), key), exact) for key in silhouette_motion.ESTIMATORS}
    print(name, found)
    assert found["none"].cosine < 0.7, "edges are most of what changes"
    assert found["edge_gradients"].cosine > 0.995 and abs(found["edge_gradients"].size - 1) < 0.05
    if name == "crossing_triangles":
        assert found["antialias"].size < 0.01, "antialias knows of no crossing"
    elif name == "crossing_triangles_with_sides":
        assert found["antialias"].cosine < 0.995 < found["edge_gradients"].cosine
    else:
        assert found["antialias"].cosine > 0.995 and abs(found["antialias"].size - 1) < 0.05


@pytest.mark.parametrize("estimator", ["antialias", "edge_gradients"])
def test_a_finely_divided_sphere(estimator: str) -> None:
    """5,120 faces, 24 pixels across: the last triangles before its silhouette are seen by no pixel."""
    sphere = sr.icosphere(4)
    vertices = 0.9 * sphere.vertices.double()
    one = silhouette_motion.Motion(vertices, sphere.triangles, torch.full_like(vertices, 0.9), 0.01)
    x, y, _ = torch.eye(3, dtype=torch.float64)
    estimate = estimated_gradient(one, estimator)
    for direction in (vertices, x.expand_as(vertices), y.expand_as(vertices)):
        exact = silhouette_motion.exact_change(one, direction)
        assert float((estimate * direction).sum()) == pytest.approx(exact, rel=0.06)


# What moves and what does not


def position_gradient(positions: Tensor, triangles: Tensor, image: Tensor, grad: Tensor, **options) -> Tensor:
    positions = positions.clone().requires_grad_()
    geometry = sr.rasterize(positions, triangles, (image.shape[1], image.shape[2]), **options)
    return torch.autograd.grad((sr.edge_gradients(image, geometry) * grad).sum(), positions)[0]


def test_a_side_that_moves() -> None:
    """A white square: its right side moving by a pixel adds a column of pixels, and that pulls at its two vertices."""
    corners = square(2.2, 5.2)
    geometry = sr.rasterize(corners, SQUARE, (8, 8))
    image = geometry.mask[..., None].double()
    gradient = position_gradient(corners, SQUARE, image, torch.ones_like(image))
    # Three rows of pixels see it; a pixel is a quarter of x, whose range is from -1 to 1.
    assert gradient[[1, 2], 0].sum().item() == pytest.approx(3 * 4)
    assert gradient[[0, 3], 0].sum().item() == pytest.approx(-3 * 4)
    assert gradient[[2, 3], 1].sum().item() == pytest.approx(3 * 4)
    assert not gradient[:, 2].any()


@on_every_device
def test_a_seam_does_not_move(device: str) -> None:
    corners = square(-6.3, 14.4).float()  # larger than the image
    positions = torch.cat([corners, corners[[0, 2]]]).to(device)
    image, grad = random_image((9, 8)).float().to(device), torch.randn(1, 9, 8, 3).to(device)
    for triangles in (SQUARE, torch.tensor([[0, 1, 2], [4, 5, 3]])):
        assert not position_gradient(positions, triangles.to(device), image, grad).any()


@on_every_engine
def test_creases_do_not_move(device: str, dtype: torch.dtype) -> None:
    """Triangles of a pleated sheet share edges and have one depth there, but for rounding: they do not cross."""
    x = torch.linspace(-1.6, 1.6, 21, dtype=torch.float64)
    z = torch.where(torch.arange(21) % 2 == 0, 0.9, -0.9)
    sheet = torch.stack([torch.stack([x + lean, x * 0 + y, z, x * 0 + 1], 1) for lean, y in ((-0.2, -1.4), (0.2, 1.4))])
    k = torch.arange(20)
    triangles = torch.cat([torch.stack([k, k + 1, k + 22], 1), torch.stack([k, k + 22, k + 21], 1)]).to(device)
    positions = sheet.flatten(0, 1).to(device, dtype)
    assert len(sr.rasterize(positions, triangles, (37, 53)).triangle_id.unique()) > 20
    image, grad = random_image((37, 53)).to(positions), torch.ones(1, 37, 53, 3).to(positions)
    assert not position_gradient(positions, triangles, image, grad).any()


@on_every_engine
def test_two_planes_in_one(device: str, dtype: torch.dtype) -> None:
    """Where two triangles lie in one plane, which of them is seen is rounding: no large gradient comes of it."""
    generator = torch.Generator().manual_seed(0)
    corners = 4 * torch.rand(12, 3, 2, generator=generator, dtype=torch.float64) - 2
    flat = torch.cat([corners, 0.3 * corners[..., :1] + 0.2 * corners[..., 1:], torch.ones_like(corners[..., :1])], -1)
    positions = flat.flatten(0, 1).to(device, dtype)
    triangles = torch.arange(36, device=device).reshape(12, 3)
    image, grad = random_image((37, 53)).to(positions), torch.ones(1, 37, 53, 3, device=device, dtype=dtype)
    gradient = position_gradient(positions, triangles, image, grad)
    assert gradient.isfinite().all() and gradient[:, :2].any()
    # z moves crossings alone.
    assert gradient[:, 2].abs().max() < 1e-2 * gradient[:, :2].abs().max()


@on_every_device
def test_meshes_of_one_list(device: str) -> None:
    one = cast(scenes.soup(12), device, torch.float32)
    ranges = torch.tensor([[0, 5], [3, 9]], device=device)
    image, grad = (random_image(one.resolution, c, 2)[..., :3].float().to(device) for c in (3, 4))
    found = position_gradient(one.positions, one.triangles, image, grad, ranges=ranges)
    parts = [
        position_gradient(one.positions, one.triangles[a : a + count], image[n : n + 1], grad[n : n + 1])
        for n, (a, count) in enumerate(ranges.tolist())
    ]
    torch.testing.assert_close(found, parts[0] + parts[1], rtol=1e-4, atol=1e-4 * float(found.abs().max()))


_SLOPES = torch.tensor([[[0.2], [0.03]], [[-0.2], [0.05]]])  # of two planes


def test_a_depth_is_found_by_descent() -> None:
    """A triangle that passes through a wall is pushed back to where it was, from the picture of the two alone."""
    corners = torch.tensor([[-9.0, -6.0], [9.0, -6.0], [0.0, 12.0]])
    first, second = (torch.cat([corners, corners @ slope, torch.ones(3, 1)], 1) for slope in _SLOPES)
    colours = torch.tensor([[0.9, 0.3, 0.2]] * 3 + [[0.2, 0.5, 0.9]] * 3)

    def picture(depth: Tensor) -> Tensor:
        moved = second + depth * torch.tensor([0.0, 0.0, 1.0, 0.0])
        geometry = sr.rasterize(torch.cat([first, moved]), torch.arange(6).reshape(2, 3), (37, 53))
        return sr.edge_gradients(sr.interpolate(geometry, colours), geometry)

    target = picture(torch.tensor(0.05))
    depth = torch.tensor(-0.25, requires_grad=True)
    optimizer = torch.optim.Adam([depth], lr=0.03)
    for _ in range(30):
        optimizer.zero_grad()
        (picture(depth) - target).square().mean().backward()
        optimizer.step()
    assert abs(depth.item() - 0.05) < 0.02


def test_layers_and_fixed_positions() -> None:
    one = cast(scenes.soup(12, (19, 31)), "cpu", torch.float64)
    image = random_image(one.resolution).requires_grad_()
    found = sr.edge_gradients(image, rasterize(one))
    assert torch.equal(torch.autograd.grad(found.sum(), image)[0], torch.ones_like(image)), (
        "of positions none is wanted"
    )
    one.positions.requires_grad_()
    layer = sr.peel(rasterize(one))
    expected = edge_gradients_reference(
        image[0].detach(), torch.ones_like(image[0]), one.positions, one.triangles, layer.triangle_id[0]
    )
    assert not expected.doubtful.any()
    (gradient,) = torch.autograd.grad(sr.edge_gradients(image, layer).sum(), one.positions)
    torch.testing.assert_close(gradient, expected.positions)
