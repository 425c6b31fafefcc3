"""What must hold for the soft image of any scene, and in what forms its inputs may come."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

import slangrast as sr
from tests import scenes
from tests.combinations import COMBINATIONS, label
from tests.comparison import (
    TAME,
    assert_same,
    cast,
    largest_error,
    on_every_device,
    single,
)
from tests.scenes import Scene

every_combination = pytest.mark.parametrize("options", COMBINATIONS, ids=label)


# Inputs


def test_batches_equal_single_images() -> None:
    soup = single(scenes.soup(25))
    shifts = torch.tensor([[0.0, 0.0, 0.0, 0.0], [0.3, -0.2, 0.0, 0.0], [-0.5, 0.4, 0.1, 0.3]])
    positions = soup.positions + shifts[:, None]
    attributes = torch.rand(3, 75, 3)
    sigma, background = torch.tensor([1e-2, 1e-3, 1e-4]), torch.rand(3, 37, 53, 3)
    whole = sr.soft_rasterize(
        positions,
        soup.triangles,
        attributes,
        soup.resolution,
        **{**TAME, "sigma": sigma, "background": background},
    )
    for n in range(3):
        options = {**TAME, "sigma": sigma[n].item(), "background": background[n : n + 1]}
        alone = sr.soft_rasterize(positions[n], soup.triangles, attributes[n], soup.resolution, **options)
        assert_same(sr.SoftImage(*(part[n : n + 1] for part in whole)), alone, 1e-6)


def test_steps_repeat_bit_for_bit() -> None:
    """Threads take tiles and parts of images as they come; what is added up in which order does not follow them."""
    soup = single(scenes.soup(300))
    threads = torch.get_num_threads()

    def step() -> list[Tensor]:
        positions = soup.positions.expand(2, -1, -1).clone().requires_grad_()
        attributes = soup.attributes.clone().requires_grad_()
        sigma = torch.tensor(1e-2, requires_grad=True)
        image = sr.soft_rasterize(positions, soup.triangles, attributes, soup.resolution, **{**TAME, "sigma": sigma})
        (image.color.square().sum() + image.silhouette.sum()).backward()
        return [image.color, image.silhouette, positions.grad, attributes.grad, sigma.grad]

    try:
        torch.set_num_threads(3)
        first = step()
        for _ in range(10):
            for one, other in zip(step(), first, strict=True):
                assert torch.equal(one, other)
        torch.set_num_threads(1)
        for one, other in zip(step(), first, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)
    finally:
        torch.set_num_threads(threads)


def test_one_mesh_in_several_colours() -> None:
    soup = single(scenes.soup(25))
    attributes = torch.stack([soup.attributes, 1 - soup.attributes])
    both = sr.soft_rasterize(*soup._replace(attributes=attributes), **TAME)
    for n in range(2):
        alone = sr.soft_rasterize(*soup._replace(attributes=attributes[n]), **TAME)
        assert_same(sr.SoftImage(*(part[n : n + 1] for part in both)), alone, 1e-6)


def test_unbatched_inputs_are_a_batch_of_one() -> None:
    soup = single(scenes.soup(25))
    image = sr.soft_rasterize(*soup, **TAME)
    assert image.color.shape == (1, 37, 53, 3)
    assert image.silhouette.shape == image.depth.shape == (1, 37, 53)
    batch = soup._replace(positions=soup.positions[None], attributes=soup.attributes[None])
    assert_same(image, sr.soft_rasterize(*batch, **TAME), 1e-6)


def strided(x: Tensor) -> Tensor:
    """The same values, every second element of a larger tensor with its axes reversed."""
    wide = torch.full([2 * size for size in reversed(x.shape)], math.nan, dtype=x.dtype)
    view = wide[tuple(slice(None, None, 2) for _ in x.shape)].permute(*reversed(range(x.ndim)))
    view.copy_(x)
    assert not view.is_contiguous()
    return view


def test_strided_and_expanded_inputs() -> None:
    soup = single(scenes.soup(25))
    background = torch.rand(2, 37, 53, 3)
    positions = torch.stack([soup.positions] * 2)
    expected = sr.soft_rasterize(
        positions, soup.triangles, soup.attributes, soup.resolution, **TAME, background=background
    )
    expanded = sr.soft_rasterize(
        soup.positions.expand(2, -1, -1),
        soup.triangles,
        soup.attributes.expand(2, -1, -1),
        soup.resolution,
        **TAME,
        background=background,
    )
    triangles = soup.triangles.T.contiguous().T
    scattered = sr.soft_rasterize(
        strided(positions),
        triangles,
        strided(soup.attributes),
        soup.resolution,
        **TAME,
        background=strided(background),
    )
    assert_same(expected, expanded, 1e-6)
    assert_same(expected, scattered, 1e-6)


def test_int32_triangles() -> None:
    soup = single(scenes.soup(25))
    narrow = soup._replace(triangles=soup.triangles.int())
    assert_same(sr.soft_rasterize(*soup, **TAME), sr.soft_rasterize(*narrow, **TAME), 1e-6)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_inputs_are_computed_in_single_precision(dtype: torch.dtype) -> None:
    half = cast(scenes.soup(25), dtype=dtype)
    expected = sr.soft_rasterize(*cast(half), **TAME)
    found = sr.soft_rasterize(*half, **TAME)
    assert {part.dtype for part in found} == {dtype}
    assert_same(found, sr.SoftImage(*(part.to(dtype) for part in expected)), 1e-6)


def test_the_same_input_gives_the_same_image() -> None:
    soup = single(scenes.soup(60))
    first, second = sr.soft_rasterize(*soup, **TAME), sr.soft_rasterize(*soup, **TAME)
    assert_same(first, second, 1e-6)


# Properties


def moved(one: Scene, columns: int, rows: int) -> Scene:
    """`one` by whole pixels to the right and down."""
    height, width = one.resolution
    shift = torch.tensor([2 * columns / width, -2 * rows / height], dtype=one.positions.dtype)
    positions = one.positions.clone()
    positions[:, :2] += shift * positions[:, 3:]
    return one._replace(positions=positions)


@every_combination
def test_translation_by_whole_pixels(options: dict) -> None:
    one = scenes.sphere(1, (29, 41))
    before = sr.soft_rasterize(*one, **TAME, **options)
    after = sr.soft_rasterize(*moved(one, 3, -2), **TAME, **options)
    for a, b in zip(before, after, strict=True):
        assert largest_error(a[:, 2:, :-3], b[:, :-2, 3:]) <= 1e-9


@every_combination
def test_the_order_of_faces_and_of_their_vertices_does_not_matter(options: dict) -> None:
    soup = scenes.soup(25)
    order = torch.randperm(25)
    triangles = soup.triangles[order].roll(1, dims=1)
    triangles[::2] = triangles[::2].flip(1)
    before = sr.soft_rasterize(*soup, **TAME, **options)
    after = sr.soft_rasterize(*soup._replace(triangles=triangles), **TAME, **options)
    assert_same(before, after, 1e-9)


@pytest.mark.parametrize("aggregation", ["softmax", "additive", "hard"])
def test_colours_stay_in_the_hull_of_the_inputs(aggregation: str) -> None:
    soup = single(scenes.soup(60))
    attributes = 0.3 + 0.2 * soup.attributes
    image = sr.soft_rasterize(*soup._replace(attributes=attributes), **TAME, aggregation=aggregation, background=0.4)
    assert image.color.min() >= 0.3 - 1e-6 and image.color.max() <= 0.5 + 1e-6
    assert image.silhouette.min() >= 0 and image.silhouette.max() <= 1
    assert image.depth.min() >= 2 - 1e-5 and image.depth.max() <= scenes.FAR + 1e-5


@pytest.mark.parametrize("coverage", ["squared_distance", "distance", "barycentric", "edge_product"])
def test_coverage_falls_with_distance(coverage: str) -> None:
    """Along the row through a face's middle, from its inside to the right."""
    one = single(scenes.scene([[-3.0, -0.5], [0.3, 0.0], [-3.0, 0.5]], 4.0, [[0, 1, 2]], (201, 201)))
    options = {"sigma": 0.1, "far": 10.0, "coverage": coverage, "cutoff": 1e-12}
    row = sr.soft_silhouette(one.positions, one.triangles, one.resolution, **options)[0, 100, 98:]
    assert (row.diff() <= 0).all() and row[0] > 0.5 and row[-1] < 0.5
    assert (row.diff()[:4] < 0).all()


def test_faces_that_cannot_be_seen_leave_no_trace() -> None:
    good = single(scenes.shared_edge())
    broken = torch.tensor(
        [
            [math.nan, 0, 0, 3],
            [0, math.inf, 0, 3],
            [0, 0, math.nan, 3],
            [0, 0, 0, math.nan],
            [0.1, 0.2, 3, -1],
            [0.1, 0.2, 3, 0],
            [0, 0, 0, math.inf],
            [3e38, 0, 0, 1e-3],
            [0, 0, 3e38, 1e-3],
        ]
    )
    triangles = torch.tensor([[0, 1, 4 + k] for k in range(len(broken))])
    faces = torch.cat([triangles[:4], good.triangles[:1], triangles[4:], good.triangles[1:]])
    both = Scene(
        torch.cat([good.positions, broken]),
        faces,
        torch.cat([good.attributes, torch.ones(len(broken), 3)]),
        good.resolution,
    )
    assert_same(sr.soft_rasterize(*both, **TAME), sr.soft_rasterize(*good, **TAME), 1e-6)


@pytest.mark.parametrize("order", [[0, 1], [1, 0]])
def test_of_equal_depths_the_hard_image_shows_the_first_face(order: list[int]) -> None:
    """NDC depth 0 at every vertex is 0 exactly at every pixel."""
    one = single(scenes.equal_depths())
    one.positions[:, 2] = 0
    attributes = torch.eye(3).repeat_interleave(3, dim=0)[:6]
    triangles = torch.tensor([[0, 1, 2], [3, 5, 4]])[order]
    image = sr.soft_rasterize(
        one.positions,
        triangles,
        attributes,
        one.resolution,
        depth="ndc",
        coverage="distance",
        aggregation="hard",
        perspective_correct=False,
        far=10.0,
        sigma=1e-3,
    )
    assert image.color[0, 4, 4].tolist() == pytest.approx(attributes[triangles[0, 0]].tolist())


def test_the_hard_image_shows_the_nearest_face() -> None:
    near, far = (single(scenes.small_face(0.0, 0.0, (9, 9), size)) for size in (0.3, 0.85))
    positions = torch.cat([far.positions * 2, near.positions])  # twice as far away
    attributes = torch.tensor([[0.0, 1.0, 0.0]] * 3 + [[1.0, 0.0, 0.0]] * 3)
    image = sr.soft_rasterize(
        positions,
        torch.arange(6).reshape(2, 3),
        attributes,
        (9, 9),
        aggregation="hard",
        background=0.5,
        far=10.0,
    )
    for row, color, depth in ((4, [1, 0, 0], 4), (7, [0, 1, 0], 8), (0, [0.5, 0.5, 0.5], 10)):
        assert image.color[0, row, 4].tolist() == pytest.approx(color)
        assert image.depth[0, row, 4].item() == pytest.approx(depth)


def test_a_sharp_image_is_the_hard_image() -> None:
    sphere = cast(scenes.sphere(2), dtype=torch.float64)
    sharp = {**TAME, "sigma": 1e-9, "gamma": 1e-5, "epsilon": -1.0, "cutoff": 0.4}
    soft = sr.soft_rasterize(*sphere, **sharp)
    hard = sr.soft_rasterize(*sphere, **sharp, coverage="barycentric", aggregation="hard", silhouette="max")
    inside = soft.silhouette > 1 - 1e-6
    assert 0.2 < inside.double().mean() < 0.8
    assert (soft.color - hard.color)[inside].abs().max() < 1e-3
    assert (soft.depth - hard.depth)[inside].abs().max() < 1e-3


@pytest.mark.cuda
@every_combination
def test_cpu_and_cuda_agree(options: dict) -> None:
    soup = scenes.soup(40)
    on_cpu = sr.soft_rasterize(*cast(soup, "cpu"), **TAME, **options)
    on_cuda = sr.soft_rasterize(*cast(soup, "cuda"), **TAME, **options)
    for name, a, b in zip(on_cpu._fields, on_cpu, on_cuda, strict=True):
        error = (a - b.cpu()).abs() / max(1.0, a.abs().max().item())
        # But for the few pixels where a fragment is at a threshold, within rounding.
        assert (error > 1e-5).double().mean() < 5e-3, name


@on_every_device
def test_the_image_is_on_the_device_of_its_inputs(device: str) -> None:
    image = sr.soft_rasterize(*cast(scenes.soup(5), device), **TAME)
    assert {part.device.type for part in image} == {device}
