"""Antialiasing against its reference, on seams and folds, and its errors."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from contextlib import nullcontext

import pytest
import torch
from torch import Tensor

import slangrast as sr
from slangrast import debug, edge_rings
from slangrast.edge_rings import edge_rings_of, first_at_each_position
from tests import scenes
from tests.comparison import cast, in_both_precisions, on_every_device, on_every_engine
from tests.hard_path import (
    GRADIENT_TOLERANCE,
    VALUE_TOLERANCE,
    before_and_around_the_eye,
    rasterize,
    reference,
    relative_error,
    with_neighbours,
)
from tests.references.antialias import antialias as antialias_reference
from tests.scenes import Scene

SCENES = [
    scenes.pixel_inside,
    scenes.shared_edge,
    scenes.strong_perspective,
    scenes.soup,
    scenes.sphere,
    scenes.one_pixel,
    scenes.no_faces,
    scenes.soup_of_both_signs,
    scenes.across_the_near_plane,
]


def random_image(resolution: tuple[int, int], channels: int = 3, images: int = 1) -> Tensor:
    generator = torch.Generator().manual_seed(channels)
    return torch.rand(images, *resolution, channels, generator=generator, dtype=torch.float64)


def square(low: float, high: float, width: int = 8) -> Tensor:
    """[4, 4] An upright square between two positions in pixels, of an image `width` wide and high."""
    a, b = 2 * low / width - 1, 2 * high / width - 1
    return torch.tensor([[a, a, 0, 1], [b, a, 0, 1], [b, b, 0, 1], [a, b, 0, 1]], dtype=torch.float64)


SQUARE = torch.tensor([[0, 1, 2], [0, 2, 3]])


# Against the reference


@on_every_engine
@pytest.mark.parametrize("scene", SCENES, ids=lambda scene: scene.__name__)
def test_scene(scene: Callable[[], Scene], device: str, dtype: torch.dtype) -> None:
    one, exact = cast(scene(), device, dtype), cast(scene(), "cpu", torch.float64)
    one.positions.requires_grad_()
    exact.positions.requires_grad_()
    theirs = random_image(one.resolution).requires_grad_()
    ours = theirs.detach().to(device, dtype).requires_grad_()
    seen = reference(exact)
    found = sr.antialias(ours, rasterize(one))
    expected = antialias_reference(theirs[0], exact.positions, exact.triangles, seen.triangle_id, seen.depth)
    assert found.shape == ours.shape and found.dtype == dtype
    # What is decided within rounding reaches a pixel and its neighbours.
    sure = ~with_neighbours(expected.doubtful | seen.doubtful)
    assert sure.double().mean() > 0.95
    assert expected.blended > 10 or scene in (scenes.one_pixel, scenes.no_faces)
    assert (found[0].detach().cpu().double() - expected.image.detach())[sure].abs().max() <= VALUE_TOLERANCE[dtype]

    weights = torch.randn(theirs.shape[1:], dtype=torch.float64) * sure[..., None]
    a = torch.autograd.grad((found[0] * weights.to(found)).sum(), (one.positions, ours))
    b = torch.autograd.grad((expected.image * weights).sum(), (exact.positions, theirs), allow_unused=True)
    for gradient, wanted in zip(a, b, strict=True):
        wanted = torch.zeros(gradient.shape, dtype=torch.float64) if wanted is None else wanted
        assert relative_error(gradient, wanted) <= GRADIENT_TOLERANCE[dtype]


@before_and_around_the_eye
def test_finite_differences(scene: Callable[[], Scene]) -> None:
    """By every coordinate and every colour, of faces before the eye and around it."""
    one = scene()

    def blended(positions: Tensor, image: Tensor) -> Tensor:
        return sr.antialias(image, sr.rasterize(positions, one.triangles, one.resolution))

    image = random_image(one.resolution, 2).requires_grad_()
    positions = one.positions.requires_grad_()
    (gradient,) = torch.autograd.grad(blended(positions, image).square().sum(), positions)
    assert gradient[:, [0, 1, 3]].count_nonzero() > 10 and not gradient[:, 2].any()
    assert torch.autograd.gradcheck(blended, (positions, image), eps=1e-7, atol=1e-5, rtol=1e-5, nondet_tol=1e-10)


# What it looks like


@pytest.mark.parametrize("offset", [0.1, 0.4, 0.5, 0.6, 0.9])
def test_a_square_covers_its_area_of_each_pixel(offset: float) -> None:
    """White on black: a pixel at a side is as bright as its share of the square, in rows and in columns.

    At 0.5 the sides pass through the centres of pixels, of which the top-left rule gives half to the square.
    """
    geometry = sr.rasterize(square(2 + offset, 5 + offset), SQUARE, (8, 8))
    blended = sr.antialias(geometry.mask[..., None].double(), geometry)[0, ..., 0]
    # In row 4, away from the corners. Row 0 is on top, so that columns run the other way.
    share = torch.tensor([0, 0, 1 - offset, 1, 1, offset, 0, 0], dtype=torch.float64)
    torch.testing.assert_close(blended[4], share)
    torch.testing.assert_close(blended[:, 4].flip(0), share)


@on_every_device
def test_a_seam_is_no_silhouette(device: str) -> None:
    """A square whose diagonal has two copies of its vertices, as texture coordinates make them."""
    corners = square(1.3, 6.4) * torch.tensor([1.2, 0.8, 1, 1])  # so that the diagonal misses the centres of pixels
    positions = torch.cat([corners, corners[[0, 2]]]).float().to(device)
    seam = torch.tensor([[0, 1, 2], [4, 5, 3]], device=device)
    image = random_image((8, 8)).float().to(device)
    geometry = sr.rasterize(positions, seam, (8, 8))
    inside = torch.zeros(8, 8, dtype=torch.bool, device=device)
    inside[3:5, 2:6] = True
    assert geometry.triangle_id[0][inside].unique().tolist() == [0, 1]
    whole = sr.antialias(image, sr.rasterize(positions, SQUARE.to(device), (8, 8)))
    assert torch.equal(sr.antialias(image, geometry), whole)
    assert torch.equal(whole[0][inside], image[0][inside])
    by_index = sr.antialias(image, geometry, by_position=False)
    assert (by_index != image).any(-1)[0][inside].any(), "the diagonal is blended"


def test_vertices_that_part_are_two_again() -> None:
    """Edges are kept from call to call, but neither when vertices part or meet, nor when triangles change."""
    seam = torch.tensor([[0, 1, 2], [4, 5, 3]], dtype=torch.int32)
    closed = torch.cat([square(1.3, 6.4), square(1.3, 6.4)[[0, 2]]])
    opened = closed + torch.tensor([[0.0] * 4] * 3 + [[-0.1, 0.1, 0, 0]] * 3)
    image = random_image((8, 8))

    def blended(positions: Tensor) -> Tensor:
        return sr.antialias(image, sr.rasterize(positions, seam, (8, 8)))[0, 3:5, 3:5]

    first, then = blended(closed), blended(opened)
    assert torch.equal(first, image[0, 3:5, 3:5]) and not torch.equal(then, first)
    assert torch.equal(blended(closed), first)
    seam[1] = torch.tensor([3, 3, 3])
    assert not torch.equal(blended(closed), first), "an edit in place"
    for size in range(20):
        blended(torch.cat([closed, closed[:1].repeat(size, 1)]))
    assert len(edge_rings._kept) <= 8


def test_folds_are_silhouettes_and_creases_are_not() -> None:
    """A roof seen from above, where its halves lie on either side of the ridge, and from aside, where on one side."""
    image = random_image((9, 9))
    for ridge, end, blends in ((0.05, 0.6, False), (0.7, 0.3, True)):
        points = [[-0.9, -0.9], [-0.9, 0.9], [ridge, 0.9], [ridge, -0.9], [end, -0.9], [end, 0.9]]
        triangles = [[0, 1, 2], [0, 2, 3], [3, 2, 5], [3, 5, 4]]
        one = scenes.scene(points, [4.0, 4.0, 3.0, 3.0, 4.0, 4.0], triangles)
        geometry = sr.rasterize(one.positions, one.triangles, (9, 9))
        column = int(4 + 4.5 * ridge)  # the pixel on the left of the ridge
        changed = (sr.antialias(image, geometry) != image).any(-1)[0, 3:6, column : column + 2]
        assert changed.any(1).all() == changed.any() == blends


def test_a_silhouette_of_triangles_that_no_pixel_sees() -> None:
    """A band of upright strips, much thinner than a pixel, ends where the last of them does."""
    edges = torch.tensor([1.3, 4.55, *(4.56 + 0.03 * k for k in range(9))], dtype=torch.float64) / 4 - 1
    top = torch.stack([edges, torch.full_like(edges, 0.9), edges * 0, edges * 0 + 1], dim=1)
    positions = torch.cat([top, top * torch.tensor([1.0, -1.0, 1.0, 1.0])])
    k = torch.arange(10)
    triangles = torch.cat([torch.stack([k, k + 1, k + 11], 1), torch.stack([k + 1, k + 12, k + 11], 1)])
    geometry = sr.rasterize(positions, triangles, (8, 8))
    row = sr.antialias(geometry.mask[..., None].double(), geometry)[0, 4, :, 0]
    torch.testing.assert_close(row, torch.tensor([0, 0.7, 1, 1, 0.8, 0, 0, 0], dtype=torch.float64))


# Batches, layers, shapes


@on_every_device
def test_meshes_of_one_list(device: str) -> None:
    """Images of different meshes: edges of another image's triangles hide no silhouette."""
    left = torch.tensor([[0, 1, 2]])
    positions = square(1.3, 6.4).float().to(device)
    ranges = torch.tensor([[0, 1], [1, 1], [0, 2]], device=device)
    image = random_image((8, 8), 3, 3).float().to(device)
    found = sr.antialias(image, sr.rasterize(positions, SQUARE.to(device), (8, 8), ranges=ranges))
    alone = [left, SQUARE[1:], SQUARE]
    for n, triangles in enumerate(alone):
        expected = sr.antialias(image[n : n + 1], sr.rasterize(positions, triangles.to(device), (8, 8)))
        assert torch.equal(found[n : n + 1], expected)


def test_gradients_of_shared_positions_add_up() -> None:
    one = cast(scenes.soup(12), "cpu", torch.float64)
    shared = one.positions.clone().requires_grad_()
    each = one.positions.expand(2, -1, -1).clone().requires_grad_()
    ranges = torch.tensor([[0, 12], [3, 7]])
    image = random_image(one.resolution, 3, 2)
    for positions in (shared, each):
        geometry = sr.rasterize(positions, one.triangles, one.resolution, ranges=ranges)
        sr.antialias(image, geometry).square().sum().backward()
    assert each.grad.flatten(1).any(1).all()
    torch.testing.assert_close(shared.grad, each.grad.sum(0))


def test_the_same_in_every_run() -> None:
    one = cast(scenes.soup(60, (37, 133), 0.3))
    image = random_image(one.resolution).float()
    threads = torch.get_num_threads()
    try:
        results = []
        for count in (1, 4, 4):
            torch.set_num_threads(count)
            results.append(sr.antialias(image, rasterize(one)))
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(results[0], result) for result in results[1:])


@pytest.mark.parametrize("function", [sr.antialias, sr.edge_gradients])
def test_warps_add_runs_of_one_edge(function: Callable) -> None:
    """A square with long level sides, and triangles before and around the eye, in two images narrower than 3 warps."""
    soups = cast(scenes.soup(30, (41, 85), 0.5)), cast(scenes.soup_of_both_signs(30, (41, 85), 5))
    flat = square(0.4, 7.7).float()
    positions = torch.stack([torch.cat([soup.positions, flat]) for soup in soups]).requires_grad_()
    triangles = torch.cat([soups[0].triangles, SQUARE + len(soups[0].positions)])
    image, grad = random_image((41, 85), 3, 2).float(), random_image((41, 85), 4, 2)[..., :3].float() - 0.5

    def gradients() -> list[Tensor]:
        colors = image.clone().requires_grad_()
        found = function(colors, sr.rasterize(positions, triangles, (41, 85)))
        return list(torch.autograd.grad((found * grad).sum(), (positions, colors)))

    expected = gradients()
    with debug.checked(simt=True):
        found = gradients()
    assert all(one[:, -4:].any() for one in (expected[0], found[0]))
    for one, other in zip(found, expected, strict=True):
        assert (one - other).norm() <= 1e-5 * other.norm()


def test_layers_behind() -> None:
    one = cast(scenes.soup(12, (19, 31)), "cpu", torch.float64)
    one.positions.requires_grad_()
    layer = sr.peel(rasterize(one))
    first = reference(one)
    seen = reference(one, behind=first)
    image = random_image(one.resolution)
    found = sr.antialias(image, layer)
    expected = antialias_reference(image[0], one.positions, one.triangles, seen.triangle_id, seen.depth)
    assert not (expected.doubtful | seen.doubtful).any()
    torch.testing.assert_close(found[0], expected.image)


@pytest.mark.parametrize("channels", [0, 1, 7])
def test_any_number_of_channels(channels: int) -> None:
    geometry = sr.rasterize(square(1.3, 6.4), SQUARE, (8, 8))
    image = random_image((8, 8), channels)
    parts = [sr.antialias(image[..., c : c + 1], geometry) for c in range(channels)]
    assert torch.equal(sr.antialias(image, geometry), torch.cat([image[..., :0], *parts], dim=-1))


def test_views_and_half_precision() -> None:
    geometry = sr.rasterize(square(1.3, 6.4).float(), SQUARE, (8, 8))
    image = random_image((8, 8)).float()
    expected = sr.antialias(image, geometry)
    turned = image.transpose(1, 2).contiguous().transpose(1, 2)
    assert torch.equal(sr.antialias(turned, geometry), expected)
    grey = image[..., :1].expand(-1, -1, -1, 3)
    assert torch.equal(sr.antialias(grey, geometry)[..., 2], expected[..., 0])
    half = image.bfloat16().requires_grad_()
    blended = sr.antialias(half, geometry)
    assert blended.dtype == torch.bfloat16
    blended.sum().backward()
    assert half.grad.dtype == torch.bfloat16


def test_a_vertex_that_is_no_number() -> None:
    """The face that has it is dropped; the edge of its neighbour is then a silhouette."""
    positions = square(1.3, 6.4)
    positions[3, 1] = torch.nan
    positions.requires_grad_()
    image = random_image((8, 8))
    found = sr.antialias(image, sr.rasterize(positions, SQUARE, (8, 8)))
    assert torch.equal(found, sr.antialias(image, sr.rasterize(positions, SQUARE[:1], (8, 8))))
    (gradient,) = torch.autograd.grad(found.square().sum(), positions)
    assert gradient.isfinite().all() and gradient[:3].any()


# Edges


def rings(triangles: list[list[int]], positions: Tensor | None = None, by_position: bool = False) -> list[set[int]]:
    """The half-edges that are linked with one another."""
    faces = torch.tensor(triangles, dtype=torch.int32).reshape(-1, 3)
    if positions is None:
        positions = torch.zeros(1, int(faces.max()) + 1 if len(faces) else 0, 4)
    following = edge_rings_of("test", faces, positions, by_position).tolist()
    found = []
    for start in range(len(following)):
        ring, here = {start}, following[start]
        while here != start:
            ring.add(here)
            here = following[here]
        found.append(ring)
    return found


def test_rings() -> None:
    alone = [{0}, {1}, {2}]
    assert rings([]) == [] and rings([[0, 1, 2]]) == alone
    # Opposite to vertex 1 of the first is the edge from 0 to 2, which is opposite to vertex 3 of the second.
    assert rings([[0, 1, 2], [0, 2, 3]])[1] == {1, 5}
    assert rings([[0, 1, 2], [3, 2, 0]])[1] == {1, 3}, "in the other direction"
    assert rings([[0, 1, 2], [0, 2, 3], [4, 0, 2]])[1] == {1, 5, 6}, "three triangles at one edge"
    assert rings([[0, 1, 2], [0, 1, 1]])[:3] == alone, "a triangle without area"
    assert all(len(ring) == 2 for ring in rings(sr.icosphere(2).triangles.tolist()))
    apart = torch.tensor([[0, 0], [1, 0], [1, 1], [0, 0], [1, 1], [0, 1]]).float()
    apart = torch.nn.functional.pad(apart, (0, 2))[None]
    assert rings([[0, 1, 2], [3, 4, 5]], apart, True)[1] == {1, 5}
    assert rings([[0, 1, 2], [3, 4, 5]], apart, False)[1] == {1}
    assert rings([[0, 1, 2], [3, 4, 5]], torch.cat([apart, apart + torch.arange(6)[:, None]]), True)[1] == {1}


@pytest.mark.parametrize("simt", [False, True], ids=["cpu", "simt"])
def test_rings_of_a_tangle(simt: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Up to dozens of triangles at an edge, and some that have a vertex twice."""
    triangles = torch.randint(0, 12, (400, 3), generator=torch.Generator().manual_seed(0)).tolist()
    edges: dict[frozenset[int], set[int]] = {}
    for t, corners in enumerate(triangles):
        for k in range(3):
            alone = len(set(corners)) < 3
            edge = frozenset([-1 - 3 * t - k] if alone else corners[:k] + corners[k + 1 :])
            edges.setdefault(edge, set()).add(3 * t + k)
    expected = {half_edge: ring for ring in edges.values() for half_edge in ring}
    assert max(map(len, edges.values())) > 20
    threads = torch.get_num_threads()
    try:
        for count in (1, 4):
            torch.set_num_threads(count)
            monkeypatch.setattr(edge_rings, "_kept", [])
            with debug.checked(simt=True) if simt else nullcontext():
                found = rings(triangles)
            assert found == [expected[half_edge] for half_edge in range(len(found))]
    finally:
        torch.set_num_threads(threads)


@pytest.mark.parametrize("function", [sr.antialias, sr.edge_gradients])
def test_the_order_of_a_ring_changes_nothing(function: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    """A wide page on the left of a spine, and thirteen on its right that end before the next pixel: which counts?"""
    widths = 2 / 31 * (0.1 + 0.8 * torch.rand(13, generator=torch.Generator().manual_seed(2), dtype=torch.float64))
    x = torch.tensor([0.005, 0.005, -0.8], dtype=torch.float64)  # a centre of pixels is at 0
    y = torch.tensor([-0.9, 0.9, 0.1], dtype=torch.float64)
    corners = torch.stack([torch.cat([x, 0.005 + widths]), torch.cat([y, 0 * widths])], dim=1)
    positions = torch.nn.functional.pad(torch.nn.functional.pad(corners, (0, 1)), (0, 1), value=1.0).requires_grad_()
    triangles = torch.tensor([[0, 1, 2 + page] for page in range(14)])
    image, grad = random_image((23, 31)), random_image((23, 31), 4)[..., :3] - 0.5
    op = sys.modules["slangrast.antialias"]
    permutation: list[int] = []

    def shuffled(*arguments: object) -> Tensor:
        following = edge_rings_of(*arguments)
        found = following.tolist()
        start = next(half_edge for half_edge, after in enumerate(found) if after != half_edge)
        ring = [start]
        while found[ring[-1]] != start:
            ring.append(found[ring[-1]])
        assert len(ring) == 14
        members = torch.tensor(sorted(ring))[permutation]
        following = following.clone()
        following[members] = members.roll(-1).int()
        return following

    monkeypatch.setattr(op, "edge_rings_of", shuffled)
    results = []
    for seed in range(3):
        permutation[:] = torch.randperm(14, generator=torch.Generator().manual_seed(seed)).tolist()
        found = function(image, sr.rasterize(positions, triangles, (23, 31)))
        results.append((found.detach(), *torch.autograd.grad((found * grad).sum(), positions)))
    assert results[0][1].any()
    for result in results[1:]:
        assert torch.equal(result[0], results[0][0])
        torch.testing.assert_close(result[1], results[0][1], rtol=1e-12, atol=1e-14)


@in_both_precisions
def test_vertices_at_one_position(dtype: torch.dtype) -> None:
    """Also where coordinates are such round numbers that they differ in a few bits only, and in the sign of a zero."""
    steps = torch.arange(-8.0, 9.0, dtype=dtype) / 8
    corners = torch.cartesian_prod(steps, steps, steps[:1], steps[-1:])
    for corner in (corners, corners[:, :2].sign().repeat(1, 2)):
        other = torch.where(corner == 0, -corner, corner).flip(0)  # the other of the two zeros
        positions = torch.cat([corner, other])[None]
        first = first_at_each_position(positions)
        equal = (positions[0][:, None] == positions[0]).all(2)
        assert torch.equal(first, equal.int().argmax(1).int())


@in_both_precisions
@pytest.mark.parametrize("copies", [1, 40], ids=["few", "many"])
def test_equal_in_every_image(copies: int, dtype: torch.dtype) -> None:
    """Not where they part in one image; what is no number equals nothing, and many may equal one another."""
    corners = torch.randn(50, 4, dtype=dtype).repeat(copies, 1)
    corners[3::7] = 1.0
    corners[5::11, 2] = torch.nan
    other = corners.clone()
    other[1::5, 3] += 1
    images = torch.stack([corners, other])
    equal = (images[:, :, None] == images[:, None]).all(0).all(-1) | torch.eye(len(corners), dtype=torch.bool)
    threads = torch.get_num_threads()
    try:
        for count in (1, 4):
            torch.set_num_threads(count)
            assert torch.equal(first_at_each_position(images), equal.int().argmax(1).int())
    finally:
        torch.set_num_threads(threads)
    assert (equal.sum(1) == 1).any() and equal.sum(1).max() > 3


# Errors


def test_no_second_derivative() -> None:
    image = random_image((8, 8)).requires_grad_()
    blended = sr.antialias(image, sr.rasterize(square(1.3, 6.4), SQUARE, (8, 8)))
    with pytest.raises(RuntimeError, match="once_differentiable"):
        (first,) = torch.autograd.grad(blended.square().sum(), image, create_graph=True)
        first.sum().backward()


@pytest.mark.parametrize("function", [sr.antialias, sr.edge_gradients])
@pytest.mark.parametrize(
    ("image", "error", "message"),
    [
        (
            torch.zeros(8, 8, 3),
            ValueError,
            "image must be [N, H, W, C] float with N, H, W = (1, 8, 8) like geometry, got",
        ),
        (torch.zeros(1, 8, 9, 3), ValueError, "like geometry, got [1, 8, 9, 3] float32"),
        (torch.zeros(2, 8, 8, 3), ValueError, "like geometry, got [2, 8, 8, 3] float32"),
        (torch.zeros(1, 8, 8, 3, dtype=torch.int32), TypeError, "image must be float32, float64, float16 or bfloat16"),
        (torch.zeros(1, 8, 8, 3).double(), ValueError, "image must be float32 like positions, got"),
        (
            torch.zeros(1, 8, 8, 3, device="meta"),
            ValueError,
            "image must be on cpu like geometry, got a tensor on meta",
        ),
        ([[1.0]], TypeError, "image must be a float tensor, got list"),
    ],
)
def test_errors(function: Callable, image: object, error: type[Exception], message: str) -> None:
    geometry = sr.rasterize(square(1.3, 6.4).float(), SQUARE, (8, 8))
    with pytest.raises(error, match=re.escape(f"{function.__name__}: ") + ".*" + re.escape(message)):
        function(image, geometry)


def test_errors_of_other_arguments() -> None:
    image = torch.zeros(1, 8, 8, 3)
    with pytest.raises(
        TypeError, match="antialias: geometry must be a GeometryBuffer, as rasterize returns, got Tensor"
    ):
        sr.antialias(image, image)
    with pytest.raises(TypeError, match="edge_gradients: geometry must be a GeometryBuffer"):
        sr.edge_gradients(image, None)
    geometry = sr.rasterize(square(1.3, 6.4).float(), SQUARE, (8, 8))
    with pytest.raises(TypeError, match="antialias: by_position must be True or False, got 1"):
        sr.antialias(image, geometry, by_position=1)
