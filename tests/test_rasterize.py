"""The hard rasterizer against its reference, its fill rule, its ties, its layers and its errors."""

from __future__ import annotations

import dataclasses
import re
import sys
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

import slangrast as sr
from tests import scenes
from tests.comparison import cast, in_both_precisions, on_every_device, on_every_engine
from tests.hard_path import FIELDS, VALUE_TOLERANCE, rasterize, reference
from tests.references.rasterize import Geometry
from tests.scenes import Scene


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


SCENES = [
    scenes.pixel_inside,
    scenes.clockwise,
    scenes.off_screen,
    scenes.behind_the_eye,
    scenes.covers_everything,
    scenes.one_pixel,
    scenes.no_faces,
    scenes.outside_the_range,
    scenes.strong_perspective,
    scenes.soup,
    scenes.sphere,
    scenes.soup_of_both_signs,
]


def assert_agrees(found: sr.GeometryBuffer, expected: Geometry, tolerance: float, image: int = 0) -> None:
    sure = ~expected.doubtful
    assert expected.doubtful.double().mean() <= 0.05
    assert (found.triangle_id[image].cpu() == expected.triangle_id)[sure].all()
    for name in FIELDS:
        value, wanted = getattr(found, name)[image].detach().cpu().double(), getattr(expected, name).detach()
        assert value.shape == wanted.shape and value.isfinite().all()
        error = (value - wanted).abs()[sure] / wanted.abs()[sure].clamp(min=1)
        assert not error.numel() or error.max() <= tolerance, f"{name}: error {error.max():.2e}"


# Against the reference


@on_every_engine
@pytest.mark.parametrize("scene", SCENES, ids=lambda scene: scene.__name__)
def test_scene(scene: Callable[[], Scene], device: str, dtype: torch.dtype) -> None:
    one = cast(scene(), device, dtype)
    found, expected = rasterize(one), reference(one)
    assert_agrees(found, expected, VALUE_TOLERANCE[dtype])
    assert found.triangle_id.dtype == torch.int32 and found.depth.dtype == dtype
    assert torch.equal(found.mask, found.triangle_id >= 0)
    for name in FIELDS:
        assert not getattr(found, name)[~found.mask].any(), "0 where the image is empty"


@on_every_device
@pytest.mark.parametrize("seed", range(4))
def test_faces_through_the_eye(seed: int, device: str) -> None:
    one = cast(scenes.soup_of_both_signs(60, (41, 29), 100 + seed), device)
    found = rasterize(one)
    assert_agrees(found, reference(one), VALUE_TOLERANCE[torch.float32])
    signs = (one.positions[..., 3] > 0)[one.triangles].sum(1)[found.triangle_id[found.mask].long()]
    assert {1, 2, 3} <= set(signs.tolist()), "faces of every kind are seen"


@on_every_device
def test_a_floor_is_cut_by_the_near_and_far_planes(device: str) -> None:
    one = cast(scenes.across_the_near_plane(), device)
    found = rasterize(one)
    assert_agrees(found, reference(one), 3e-5)
    columns = found.mask[0, :, 26].long()
    # y/w is -0.6 where w is 0.5, at row 29, and -0.05 where w is 6, at row 19.
    assert columns.nonzero()[:, 0].tolist() == list(range(19, 30))
    assert found.depth[found.mask].min() < -0.8 and found.depth[found.mask].max() > 0.9


@on_every_device
@pytest.mark.parametrize("resolution", [(37, 53), (1, 70), (53, 16), (8192, 3), (5, 8192)], ids=str)
def test_resolution(resolution: tuple[int, int], device: str) -> None:
    one = cast(scenes.soup(12, (37, 53)), device)._replace(resolution=resolution)
    # A vertex rounds to 6e-8 of the side, and derivatives are by a whole pixel.
    assert_agrees(rasterize(one), reference(one), 1e-7 * max(1000, *resolution))


def test_conventions() -> None:
    """A triangle in the upper left corner of a wide image: row 0 is on top, x/w = -1 to 1 is the width."""
    positions = torch.tensor([[-1.0, 1.0, 0.5, 1.0], [-0.25, 1.0, 0.5, 1.0], [-1.0, 0.0, 0.5, 1.0]])
    found = sr.rasterize(positions, torch.tensor([[0, 1, 2]]), (4, 8))
    assert found.mask[0].tolist() == [[True, True, *[False] * 6], [True, *[False] * 7], *[[False] * 8] * 2]
    # The centre of pixel (0, 0) is a sixth of the way to vertex 1, three pixels off, a quarter to vertex 2, two off.
    assert found.barycentrics[0, 0, 0].tolist() == pytest.approx([7 / 12, 1 / 6])
    assert found.barycentric_derivatives[0, 0, 0].tolist() == pytest.approx([-1 / 3, -1 / 2, 1 / 3, 0])
    assert found.depth[0, 0, 0] == 0.5 and found.inverse_w[0, 0, 0] == 1


@on_every_engine
def test_derivatives_are_differences_between_pixels(device: str, dtype: torch.dtype) -> None:
    """Moving the picture to the left is moving the pixel to the right."""
    one = cast(scenes.strong_perspective(), device, dtype)
    step = 1e-3
    height, width = one.resolution

    def moved(x: float, y: float) -> sr.GeometryBuffer:
        shift = one.positions.new_tensor([-2 * x / width, 2 * y / height, 0, 0]) * one.positions[:, 3:]
        return rasterize(one._replace(positions=one.positions + shift))

    here = rasterize(one)
    right, left, below, above = moved(step, 0), moved(-step, 0), moved(0, step), moved(0, -step)
    steady = here.mask
    for other in (right, left, below, above):
        steady = steady & (other.triangle_id == here.triangle_id)
    assert steady.sum() > 50
    by_x = (right.barycentrics - left.barycentrics) / (2 * step)
    by_y = (below.barycentrics - above.barycentrics) / (2 * step)
    expected = torch.stack([by_x[..., 0], by_y[..., 0], by_x[..., 1], by_y[..., 1]], dim=-1)
    error = (here.barycentric_derivatives - expected)[steady].abs().max()
    assert error < (1e-3 if dtype == torch.float32 else 1e-6)


# Which triangle a pixel belongs to


def covered_by_each(corners: Tensor, resolution: tuple[int, int]) -> Tensor:
    """[T, H, W] bool: what each triangle [T, 3, 4] covers when it is drawn alone."""
    count = len(corners)
    triangles = torch.arange(3 * count).reshape(-1, 3)
    ranges = torch.stack([torch.arange(count), torch.ones(count, dtype=torch.long)], dim=1)
    return sr.rasterize(corners.reshape(-1, 4), triangles, resolution, ranges=ranges).mask


def quads_with_an_edge_through_a_pixel(count: int, size: int, seed: int = 0) -> Tensor:
    """[count, 4, 2] Corners A, B, C, D in pixels. A C is shared; it passes a pixel's centre within rounding."""
    numbers = generator(seed)

    def uniform(*shape: int) -> Tensor:
        return torch.rand(shape, generator=numbers, dtype=torch.float64)

    pixel = torch.randint(2, size - 2, (count, 2), generator=numbers) + 0.5
    along = torch.nn.functional.normalize(uniform(count, 2) - 0.5, dim=1)
    along[::10] = torch.eye(2, dtype=torch.float64)[torch.arange(len(along[::10])) % 2]  # upright and level
    across = torch.stack([-along[:, 1], along[:, 0]], dim=1)
    reach = 0.5 + 5 * uniform(count, 4, 1)
    a, c = pixel - along * reach[:, 0], pixel + along * reach[:, 1]
    b, d = pixel + across * reach[:, 2] + along * (uniform(count, 1) - 0.5), pixel - across * reach[:, 3]
    return torch.stack([a, b, c, d], dim=1)


def to_clip(points: Tensor, w: Tensor, size: int) -> Tensor:
    """[..., 4] From pixels [..., 2] of a square image."""
    ndc = (2 * points / size - 1) * torch.tensor([1.0, -1.0], dtype=torch.float64)
    return torch.cat([ndc * w, 0.3 * w, w], dim=-1)


@pytest.mark.parametrize("depths", ["equal w", "any w", "w of both signs"])
def test_a_shared_edge_is_watertight(depths: str) -> None:
    """10,000 pairs of triangles: each pixel of a quadrilateral belongs to one of its two triangles, never to both."""
    size, count = 12, 10_000
    points = quads_with_an_edge_through_a_pixel(count, size)
    w = torch.ones(count, 4, 1, dtype=torch.float64)
    if depths != "equal w":
        w = 0.2 + 3 * torch.rand(count, 4, 1, generator=generator(1), dtype=torch.float64)
    if depths == "w of both signs":
        w[:, torch.tensor([1, 3])] *= torch.where(torch.rand(count, 2, 1, generator=generator(2)) < 0.5, -1.0, 1.0)
        w[:, 0] *= torch.where(torch.rand(count, 1, generator=generator(3)) < 0.3, -1.0, 1.0)
    corners = to_clip(points, w, size).float()
    exact = corners.double()
    one, other = exact[:, [0, 1, 2]], exact[:, [2, 3, 0]]  # both have A C, in opposite directions
    flipped = torch.rand(count, generator=generator(4)) < 0.5
    drawn = torch.where(flipped[:, None, None], corners[:, [2, 3, 0]].flip(1), corners[:, [2, 3, 0]])
    covered = covered_by_each(torch.stack([corners[:, [0, 1, 2]], drawn], dim=1).flatten(0, 1), (size, size))
    covered = covered.unflatten(0, (count, 2))

    # The sides on which a pixel lies, by float64: of the shared edge it may be on either.
    x = 2 * (torch.arange(size, dtype=torch.float64) + 0.5) / size - 1
    pixels = torch.stack([x.expand(size, size), -x[:, None].expand(size, size), torch.ones(size, size)], dim=-1)

    def sides(face: Tensor) -> tuple[Tensor, Tensor]:
        """Edge functions (of the shared edge last), positive inside, and w at the pixels."""
        v0, v1, v2 = face[..., [0, 1, 3]].unbind(1)
        area = torch.linalg.det(torch.stack([v0, v1, v2], dim=1))
        edges = torch.stack([v0.cross(v1, dim=1), v1.cross(v2, dim=1), v2.cross(v0, dim=1)], dim=1)
        edges = edges * area.sign()[:, None, None] / edges.norm(dim=2, keepdim=True)
        return torch.einsum("nek,yxk->neyx", edges, pixels.double()), area

    sides_one, area_one = sides(one)
    sides_other, area_other = sides(other)
    away = 1e-4
    opposite = (area_one * area_other > 0)[:, None, None]
    # Inside but for the shared edge, with w > 0: where that of one triangle is, that of the other must be too.
    inside = (sides_one[:, :2] > away).all(1) & (sides_other[:, :2] > away).all(1) & opposite
    times = covered.sum(1)
    near = sides_one[:, 2].abs() < 1e-6
    assert (inside & near).sum() > (1000 if depths == "w of both signs" else 8000), "the hard pixels are among them"
    assert (times[inside] == 1).all()
    assert not (times[opposite.expand_as(times)] > 1).any()


def test_the_corner_of_a_fan_belongs_to_one_triangle() -> None:
    """Triangles around a vertex that is exactly at a pixel centre."""
    for spokes in range(3, 9):
        angles = torch.arange(spokes) * (2 * torch.pi / spokes) + torch.tensor([0.0, 0.3, torch.pi / 2])[:, None]
        for ring in angles:
            points = torch.stack([4.5 + 3 * ring.cos(), 4.5 + 3 * ring.sin()], dim=1).double()
            points = torch.cat([torch.full((1, 2), 4.5, dtype=torch.float64), points])
            clip = to_clip(points, torch.full((len(points), 1), 2.0, dtype=torch.float64), 9).float()
            around = torch.arange(spokes) + 1
            faces = torch.stack([torch.zeros(spokes, dtype=torch.long), around, around.roll(1)], dim=1)
            assert covered_by_each(clip[faces], (9, 9))[:, 4, 4].sum() == 1


@on_every_device
def test_top_left_rule(device: str) -> None:
    """A square of two triangles from the centre of pixel (1, 1) to that of (4, 4) has its left and top edges."""
    points = torch.tensor([[1.5, 1.5], [4.5, 1.5], [4.5, 4.5], [1.5, 4.5]], dtype=torch.float64)
    clip = to_clip(points, torch.ones(4, 1, dtype=torch.float64), 8)
    for faces in ([[0, 1, 2], [0, 2, 3]], [[2, 1, 0], [0, 2, 3]], [[1, 2, 3], [1, 3, 0]]):
        found = sr.rasterize(clip.float().to(device), torch.tensor(faces, device=device), (8, 8))
        expected = torch.zeros(8, 8, dtype=torch.bool)
        expected[1:4, 1:4] = True
        assert torch.equal(found.mask[0].cpu(), expected)


@on_every_device
def test_equal_depths_go_to_the_lower_index(device: str) -> None:
    """Seven copies of a sphere, shuffled: of each triangle, the first copy is seen, whatever the threads do."""
    one = cast(scenes.sphere(2), device)
    copies = one.triangles.repeat(7, 1)
    order = torch.randperm(len(copies), generator=generator(0)).to(device)
    first = torch.full((len(one.triangles),), len(copies), device=device)
    first.scatter_reduce_(0, order % len(one.triangles), torch.arange(len(copies), device=device), "amin")
    alone = rasterize(one).triangle_id.long()
    expected = torch.where(alone >= 0, first[alone], -1)
    threads = torch.get_num_threads()
    try:
        for count in (1, 4, 4, 4):
            torch.set_num_threads(count)
            found = rasterize(one._replace(triangles=copies[order]))
            assert torch.equal(found.triangle_id.long(), expected)
    finally:
        torch.set_num_threads(threads)


@on_every_engine
def test_what_is_no_triangle_is_dropped(device: str, dtype: torch.dtype) -> None:
    good = scenes.pixel_inside()
    bad = good.positions.repeat(7, 1)
    for k, value in enumerate([torch.nan, torch.inf, -torch.inf, 1e30]):
        bad[3 * k + k % 3, k] = value
    bad[12:15] = bad[12]  # a point
    bad[16] = bad[15]  # a line
    bad[20] = 0.25 * bad[18] + 0.75 * bad[19]  # three in line
    positions = torch.cat([bad, good.positions])
    one = Scene(positions, torch.arange(24).reshape(-1, 3), scenes.colours(24), good.resolution)
    one = cast(one, device, dtype)
    one.positions.requires_grad_()
    found = rasterize(one)
    assert set(found.triangle_id.unique().tolist()) == {-1, 7}
    assert torch.equal(found.triangle_id[found.mask], torch.full_like(found.triangle_id[found.mask], 7))
    outputs = [getattr(found, name) for name in FIELDS]
    (gradient,) = torch.autograd.grad(outputs, one.positions, [torch.ones_like(x) for x in outputs])
    assert gradient.isfinite().all() and not gradient[:21].any() and gradient[21:].any()


def test_vertices_in_line_are_no_triangle() -> None:
    """Rounded, they have a small area, and pixel centres lie on it."""
    numbers = generator(0)
    pixel = torch.randint(2, 10, (10_000, 1, 2), generator=numbers) + 0.5
    along = torch.nn.functional.normalize(torch.rand(10_000, 1, 2, generator=numbers, dtype=torch.float64) - 0.5, dim=2)
    places = 6 * torch.rand(10_000, 3, 1, generator=numbers, dtype=torch.float64) - 3
    for w in (torch.ones_like(places), 1 + 3 * torch.rand(10_000, 3, 1, generator=numbers, dtype=torch.float64)):
        assert not covered_by_each(to_clip(pixel + along * places, w, 12).float(), (12, 12)).any()


@pytest.mark.parametrize("faces", [[[0, 0, 0]], [[0, 1, 1]], [[2, 1, 2]]], ids=str)
def test_repeated_vertices(faces: list) -> None:
    one = cast(scenes.pixel_on_a_vertex())
    assert not sr.rasterize(one.positions, torch.tensor(faces), one.resolution).mask.any()


# Several images


@on_every_device
def test_a_batch_is_its_images(device: str) -> None:
    one = cast(scenes.sphere(), device)
    other = one.positions * one.positions.new_tensor([1.3, 0.8, 1, 1])
    both = sr.rasterize(torch.stack([one.positions, other]), one.triangles, one.resolution)
    for n, positions in enumerate((one.positions, other)):
        alone = rasterize(one._replace(positions=positions))
        for name in ("triangle_id", *FIELDS):
            assert torch.equal(getattr(both, name)[n], getattr(alone, name)[0])


@on_every_device
@pytest.mark.parametrize("dtype", [torch.int32, torch.int64], ids=str)
def test_ranges(dtype: torch.dtype, device: str) -> None:
    """Parts of one list, one of them empty, some overlapping; positions shared, and of each image."""
    one = cast(scenes.soup(40), device)
    ranges = torch.tensor([[0, 7], [5, 30], [12, 0], [39, 1]], dtype=dtype, device=device)
    shared = rasterize(one, ranges=ranges)
    each = sr.rasterize(one.positions.expand(4, -1, -1), one.triangles, one.resolution, ranges=ranges)
    for n, (first, count) in enumerate(ranges.tolist()):
        alone = rasterize(one._replace(triangles=one.triangles[first : first + count]))
        expected = torch.where(alone.mask, alone.triangle_id + first, -1)[0]
        assert torch.equal(shared.triangle_id[n], expected) and torch.equal(each.triangle_id[n], expected)
        for name in FIELDS:
            assert torch.equal(getattr(shared, name)[n], getattr(alone, name)[0])
    assert shared.positions.shape == (1, 120, 4) and shared.mask[1].any()


@in_both_precisions
def test_with_lists_and_without(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    """Few triangles are in no list. To the last bit it makes no difference, nor do some that are to be dropped."""
    one = cast(scenes.soup_of_both_signs(20), "cpu", dtype)
    positions = torch.cat([one.positions, torch.full((1, 4), torch.nan, dtype=dtype)])
    last = len(positions) - 1
    dropped = torch.tensor([[0, 1, 1], [3, 4, last], [5, 5, 5]], dtype=one.triangles.dtype)
    triangles = torch.cat([dropped, one.triangles, dropped])
    ranges = torch.tensor([[0, len(triangles)], [4, 11], [7, 0]])
    found = []
    for pairs in (0, 10**6):
        monkeypatch.setattr(sys.modules["slangrast.rasterize"], "_FEW_PAIRS", pairs)
        front = sr.rasterize(positions, triangles, one.resolution, ranges=ranges)
        found.append([getattr(layer, name) for layer in (front, sr.peel(front)) for name in ("triangle_id", *FIELDS)])
    assert all(torch.equal(listed, unlisted) for listed, unlisted in zip(*found, strict=True))
    assert found[0][0][:2].amax((1, 2)).gt(0).all() and found[0][5].max() > 0


# Layers


@on_every_device
def test_layers(device: str) -> None:
    one = cast(scenes.soup(25, (19, 23)), device)
    found, expected = rasterize(one), reference(one)
    for _ in range(3):
        assert_agrees(found, expected, VALUE_TOLERANCE[torch.float32])
        assert found.mask.any()
        found, expected = sr.peel(found), reference(one, behind=expected)


@on_every_device
def test_peeling_shows_every_triangle_of_a_pixel_once(device: str) -> None:
    """Copies at equal depths too, in the order of their indices; then nothing is left."""
    one = cast(scenes.soup(8, (19, 23)), device)
    one = one._replace(triangles=one.triangles.repeat(2, 1))
    alone = torch.stack([rasterize(one._replace(triangles=face[None])).mask[0] for face in one.triangles])
    seen = torch.zeros_like(alone)
    layer = rasterize(one)
    last = None
    while layer.mask.any():
        rows, columns = layer.mask[0].nonzero().unbind(1)
        ids = layer.triangle_id[0, rows, columns].long()
        assert not seen[ids, rows, columns].any()
        seen[ids, rows, columns] = True
        if last is not None:
            tie = layer.depth == last.depth
            assert (layer.mask <= last.mask).all() and (layer.depth >= last.depth)[layer.mask].all()
            assert (layer.triangle_id > last.triangle_id)[tie & layer.mask].all()
        last, layer = layer, sr.peel(layer)
    assert torch.equal(seen, alone)
    assert not sr.peel(layer).mask.any()


# What is given


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_half_precision_is_computed_in_float32(dtype: torch.dtype) -> None:
    one = cast(scenes.pixel_inside(), "cpu", dtype)
    positions = one.positions.requires_grad_()
    found = rasterize(one)
    same = rasterize(one._replace(positions=positions.detach().float()))
    assert found.barycentrics.dtype == torch.float32 and torch.equal(found.barycentrics, same.barycentrics)
    (gradient,) = torch.autograd.grad(found.barycentrics.sum(), positions)
    assert gradient.dtype == dtype and gradient.any()


@in_both_precisions
def test_any_strides(dtype: torch.dtype) -> None:
    one = cast(scenes.soup(10), "cpu", dtype)
    plain = rasterize(one)
    wide = torch.zeros(2, 4, 60, dtype=dtype)
    wide[0, :, ::2] = one.positions.T
    strided = sr.rasterize(wide[0, :, ::2].T, one.triangles.T.contiguous().T, one.resolution)
    repeated = sr.rasterize(one.positions[None].expand(3, -1, -1), one.triangles, one.resolution)
    for name in ("triangle_id", *FIELDS):
        assert torch.equal(getattr(plain, name), getattr(strided, name))
        assert torch.equal(
            getattr(plain, name).expand(3, *[-1] * (getattr(plain, name).ndim - 1)), getattr(repeated, name)
        )


def test_derivatives_asked_for_without_gradients_first() -> None:
    one = cast(scenes.pixel_inside())
    one.positions.requires_grad_()
    found = rasterize(one)
    with torch.no_grad():
        assert not found.barycentric_derivatives.requires_grad
    assert found.barycentric_derivatives.requires_grad
    assert found.barycentric_derivatives is found.barycentric_derivatives
    assert [field.name for field in dataclasses.fields(found) if not field.name.startswith("_")] == [
        "triangle_id", "barycentrics", "depth", "inverse_w", "positions", "triangles", "ranges", "resolution"
    ]  # fmt: skip


def test_the_device_that_torch_prefers_does_not_matter() -> None:
    """With few triangles, which go into no lists, and with many."""
    sys.modules["slangrast.rasterize"]._no_lists.cache_clear()
    for one in (cast(scenes.pixel_inside()), cast(scenes.soup(400))):
        with torch.device("meta"):
            found = rasterize(one)
        assert torch.equal(found.triangle_id, rasterize(one).triangle_id)


TRIANGLE = {"positions": torch.zeros(3, 4), "triangles": torch.tensor([[0, 1, 2]]), "resolution": (4, 4)}
ERRORS = [
    ({"resolution": (8193, 4)}, "resolution must be at most 8192 a side, got 8193 x 4"),
    ({"resolution": (4, 0)}, "resolution must be (height, width)"),
    ({"positions": torch.zeros(5, 3)}, "positions must be [N, V, 4] or [V, 4] float, got [5, 3]"),
    ({"triangles": torch.tensor([[0, 1, 3]])}, "triangles must hold indices of the 3 vertices"),
    ({"ranges": [[0, 1]]}, "ranges must be a tensor [N, 2] of int32 or int64, got list"),
    ({"ranges": torch.tensor([0, 1])}, "ranges must be [N, 2] int32 or int64, got [2] int64"),
    ({"ranges": torch.tensor([[0.0, 1.0]])}, "ranges must be [N, 2] int32 or int64, got [1, 2] float32"),
    ({"ranges": torch.tensor([[0, 2]])}, "first + count <= 1, the number of triangles, got [[0, 2]]"),
    ({"ranges": torch.tensor([[-1, 1]])}, "first and count >= 0"),
    ({"ranges": torch.tensor([[2**63 - 1, 2**63 - 1]])}, "first + count <= 1"),  # whose sum is -2
    (
        {"positions": torch.zeros(2, 3, 4), "ranges": torch.tensor([[0, 1]] * 3)},
        "ranges must be [2, 2] like the 2 images of positions, got [3, 2]",
    ),
]


@pytest.mark.parametrize(("change", "message"), ERRORS)
def test_errors(change: dict, message: str) -> None:
    with pytest.raises((TypeError, ValueError), match=re.escape(message)) as caught:
        sr.rasterize(**{**TRIANGLE, **change})
    assert str(caught.value).startswith("rasterize: ")


def test_peel_wants_a_geometry_buffer() -> None:
    with pytest.raises(TypeError, match="peel: geometry must be a GeometryBuffer, got Tensor"):
        sr.peel(torch.zeros(1))
