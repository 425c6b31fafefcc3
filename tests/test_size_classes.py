"""Small triangles, drawn by a thread each, and large ones from lists of tiles: together what lists alone draw.

That is the way of warps: here of the engine `simt`, against the CPU engine, which lists all triangles.
"""

from __future__ import annotations

import sys
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

import slangrast as sr
from slangrast import debug
from tests import scenes
from tests.scenes import Scene

ALL_LISTED, BOTH, ALL_SMALL = 0, 30, 8192**2
FIELDS = ("triangle_id", "depth", "barycentrics", "inverse_w")


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def shuffled(*parts: Scene) -> Scene:
    """The triangles of several scenes of one resolution, in a random order."""
    starts = [sum(len(part.positions) for part in parts[:k]) for k in range(len(parts))]
    triangles = torch.cat([part.triangles + start for part, start in zip(parts, starts, strict=True)])
    positions, attributes = (torch.cat([part[k] for part in parts]) for k in (0, 2))
    order = torch.randperm(len(triangles), generator=generator(0))
    return Scene(positions, triangles[order], attributes, parts[0].resolution)


def mixed() -> Scene:
    """Boxes from less than a pixel to the whole image."""
    sizes = [(12, 1.0, 1), (40, 0.2, 2), (300, 0.05, 3), (200, 0.01, 4)]
    return shuffled(*(scenes.soup(count, size=size, seed=seed) for count, size, seed in sizes))


def slivers() -> Scene:
    """A hundredth as high as long, upright, level and oblique, of every length."""
    one = scenes.soup(200, size=0.3, seed=5)
    corners = one.positions.reshape(-1, 3, 4).clone()
    lengths = torch.rand(len(corners), 1, generator=generator(1), dtype=torch.float64)
    first, second = corners[:, 0], corners[:, 0].lerp(corners[:, 1], lengths)
    corners[:, 1] = second
    corners[:, 2] = first.lerp(second, 0.4).lerp(corners[:, 2], 0.01)
    corners[::5, 1, 0] = corners[::5, 0, 0] * corners[::5, 1, 3] / corners[::5, 0, 3]
    corners[1::5, 1, 1] = corners[1::5, 0, 1] * corners[1::5, 1, 3] / corners[1::5, 0, 3]
    return one._replace(positions=corners.reshape(-1, 4))


def around_the_eye() -> Scene:
    """w of both signs: some reach through infinity, and their small parts are in sight."""
    return shuffled(scenes.soup_of_both_signs(30), scenes.soup(100, size=0.05, seed=6))


def equal_depths() -> Scene:
    """At three depths, one of them 0 with both signs: ties within and between both classes."""
    one = mixed()
    positions = one.positions.reshape(-1, 3, 4).clone()
    positions = positions / positions[..., 3:]
    levels = torch.tensor([0.5, 0.0, -0.0, -0.25], dtype=torch.float64)
    positions[..., 2] = levels[torch.randint(0, 4, (len(positions), 1), generator=generator(2))]
    return one._replace(positions=positions.reshape(-1, 4))


def many_tiles() -> Scene:
    """Triangles of over 32 tiles, some over 16 across, for which the threads of a warp make the lists together."""
    resolution = (85, 290)
    return shuffled(scenes.soup(6, resolution, 9.0, 7), scenes.soup(70, resolution, 0.2, 8))


SCENES = [mixed, slivers, around_the_eye, equal_depths, many_tiles, scenes.one_pixel]


def layers_of(one: Scene, count: int = 3, **options) -> list[sr.GeometryBuffer]:
    layers = [sr.rasterize(one.positions, one.triangles, one.resolution, **options)]
    while len(layers) < count:
        layers.append(sr.peel(layers[-1]))
    return layers


def assert_equal(found: list[sr.GeometryBuffer], expected: list[sr.GeometryBuffer]) -> None:
    for one, other in zip(found, expected, strict=True):
        for name in FIELDS:
            values, wanted = getattr(one, name).cpu(), getattr(other, name).cpu()
            if name in ("triangle_id", "depth"):
                assert torch.equal(values, wanted), name
            else:
                torch.testing.assert_close(values, wanted, rtol=1e-6, atol=1e-7)


def gradients(one: Scene, positions: Tensor, attributes: Tensor, **options) -> list[Tensor]:
    """Of everything that reaches back, through all layers."""
    layers = layers_of(one._replace(positions=positions), 2, **options)
    values = [getattr(layer, name) for layer in layers for name in (*FIELDS[1:], "barycentric_derivatives")]
    values += sr.interpolate(layers[0], attributes, derivatives=True)
    numbers = generator(3)
    weights = [torch.randn(value.shape, generator=numbers) / (1 + value.detach().cpu().abs()) for value in values]
    total = sum((value * weight.to(value)).sum() for value, weight in zip(values, weights, strict=True))
    return list(torch.autograd.grad(total, [positions, attributes]))


def assert_gradients_agree(one: Scene, positions: Tensor, attributes: Tensor, **options) -> None:
    leaves = [positions.requires_grad_(), attributes.requires_grad_()]
    expected = gradients(one, *leaves, **options)
    with debug.checked(simt=True):
        found = gradients(one, *leaves, **options)
    for ours, theirs in zip(found, expected, strict=True):
        assert (ours - theirs).norm() <= 1e-5 * theirs.norm() > 0


@pytest.fixture(params=[ALL_LISTED, BOTH, ALL_SMALL], ids=["all listed", "both", "all small"])
def small_box(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr(sys.modules["slangrast.rasterize"], "_SMALL_BOX", request.param)
    return request.param


@pytest.mark.parametrize("scene", SCENES, ids=lambda scene: scene.__name__)
def test_layers_are_equal_to_the_bit(scene: Callable[[], Scene], small_box: int) -> None:
    one = scene()
    one = one._replace(positions=one.positions.float())
    expected = layers_of(one)
    with debug.checked(simt=True):
        found = layers_of(one)
    assert_equal(found, expected)
    assert found[0].mask.any() and found[0]._bins.small_box == small_box


def test_scenes_have_both_classes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lists are shorter, but not empty, where small triangles are in none."""
    monkeypatch.setattr(sys.modules["slangrast.rasterize"], "_SMALL_BOX", BOTH)
    for scene in SCENES[:-1]:
        one = scene()
        one = one._replace(positions=one.positions.float())
        (expected,) = layers_of(one, 1)
        with debug.checked(simt=True):
            (found,) = layers_of(one, 1)
        assert 0 < found._bins.counts.sum() < expected._bins.counts.sum(), scene.__name__


def test_ranges(small_box: int) -> None:
    """Images of different triangles, one of none, with positions that all share."""
    one = mixed()
    one = one._replace(positions=one.positions.float())
    faces = len(one.triangles)
    ranges = torch.tensor([[0, faces], [50, 0], [13, 200], [faces - 33, 33]], dtype=torch.int32)
    expected = layers_of(one, ranges=ranges)
    with debug.checked(simt=True):
        assert_equal(layers_of(one, ranges=ranges), expected)


def test_lists_that_have_no_room(small_box: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Their tiles go through all triangles, small ones too."""
    one = mixed()
    one = one._replace(positions=one.positions.float())
    expected = layers_of(one)
    monkeypatch.setattr(sys.modules["slangrast.rasterize"], "room_for", lambda total, scene: int(total) // 3)
    with debug.checked(simt=True):
        assert_equal(layers_of(one), expected)


@pytest.mark.parametrize("peeled_on_simt", [True, False])
def test_layers_of_several_engines(peeled_on_simt: bool) -> None:
    """Whoever peels knows which triangles the lists have."""
    one = mixed()
    one = one._replace(positions=one.positions.float())
    expected = layers_of(one)
    with debug.checked(simt=True):
        first = layers_of(one, 1) if not peeled_on_simt else expected[:1]
        peeled = sr.peel(first[0]) if peeled_on_simt else None
    assert_equal([*first, peeled or sr.peel(first[0])], expected[:2])


def test_few_threads_in_many_slices(monkeypatch: pytest.MonkeyPatch) -> None:
    """However many warps share the tiles of a triangle, each tile has it once."""
    one = many_tiles()
    one = one._replace(positions=one.positions.float())
    op = sys.modules["slangrast.rasterize"]
    counts = []
    for least in (1, 4, 10**6):
        monkeypatch.setattr(op, "_WARPS_AT_LEAST", least)
        with debug.checked(simt=True):
            counts.append(layers_of(one, 1)[0]._bins.counts)
    assert counts[0].sum() > 100 and all(torch.equal(count, counts[0]) for count in counts)


@pytest.mark.parametrize("scene", [mixed, around_the_eye, scenes.one_pixel], ids=lambda scene: scene.__name__)
def test_gradients(scene: Callable[[], Scene]) -> None:
    one = scene()
    assert_gradients_agree(one, one.positions.float(), one.attributes.float())


@pytest.mark.parametrize("shared", [True, False])
def test_gradients_of_a_batch(shared: bool) -> None:
    """Of positions that all images share, or of each image's own; warps reach from image to image in interpolate."""
    one = mixed()
    one = one._replace(resolution=(13, 11))
    positions, attributes = one.positions.float()[None], one.attributes.float()[None]
    if not shared:
        moved = positions * positions.new_tensor([0.8, 1.1, 1.0, 1.0])
        positions = torch.cat([positions, moved, positions.flip(-1).abs()])
        attributes = torch.cat([attributes, attributes.flip(1), 2 * attributes])
        assert_gradients_agree(one, positions, attributes)
        return
    faces = len(one.triangles)
    ranges = torch.tensor([[0, faces], [13, 200], [faces - 99, 99]])
    assert_gradients_agree(one, positions[0], attributes[0], ranges=ranges)


@pytest.mark.cuda
@pytest.mark.parametrize("scene", SCENES, ids=lambda scene: scene.__name__)
def test_cuda_draws_what_the_cpu_draws(scene: Callable[[], Scene], small_box: int) -> None:
    """The same formulas, in which what is fused is written as such: ids are equal, values to rounding."""
    one = scene()
    one = one._replace(positions=one.positions.float())
    there = one._replace(positions=one.positions.cuda(), triangles=one.triangles.cuda())
    for found, expected in zip(layers_of(there), layers_of(one), strict=True):
        assert torch.equal(found.triangle_id.cpu(), expected.triangle_id)
        for name in FIELDS[1:]:
            torch.testing.assert_close(getattr(found, name).cpu(), getattr(expected, name), rtol=1e-5, atol=1e-6)
    leaves = [one.positions.requires_grad_(), one.attributes.float().requires_grad_()]
    copies = [leaf.detach().cuda().requires_grad_() for leaf in leaves]
    for ours, theirs in zip(gradients(there, *copies), gradients(one, *leaves), strict=True):
        assert (ours.cpu() - theirs).norm() <= 1e-4 * theirs.norm()
