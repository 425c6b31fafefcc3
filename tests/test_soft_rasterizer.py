"""The soft image against its reference, by scene and by formula; its conventions; every parameter."""

from __future__ import annotations

import inspect
import math

import pytest
import torch

import slangrast as sr
from tests import scenes
from tests.combinations import COMBINATIONS, SOFT_COVERAGES, label
from tests.comparison import (
    BACKGROUND,
    FORWARD_TOLERANCE,
    TAME,
    assert_images_agree,
    assert_same,
    cast,
    in_two_images,
    largest_error,
    on_every_device,
    on_every_engine,
    reference_of,
    single,
)

every_combination = pytest.mark.parametrize("options", COMBINATIONS, ids=label)


# Against the reference


@on_every_engine
@pytest.mark.parametrize("scene", scenes.BRANCHES, ids=lambda scene: scene.__name__)
def test_scene(scene, device: str, dtype: torch.dtype) -> None:
    # A sliver's barycentrics, so its colours and depths, are ill-conditioned by its proportions, a thousand.
    tolerance = 1e-3 if scene is scenes.sliver and dtype == torch.float32 else None
    assert_images_agree(cast(scene(), device, dtype), {**TAME, "background": 0.25}, tolerance)


@on_every_engine
@every_combination
def test_combination(options: dict, device: str, dtype: torch.dtype) -> None:
    assert_images_agree(cast(scenes.soup(), device, dtype), {**TAME, **options, "background": 0.25})


@on_every_engine
@pytest.mark.parametrize("formulas", SOFT_COVERAGES, ids=label)
def test_slivers_reach_as_far_as_the_cutoff_says(formulas: dict, device: str, dtype: torch.dtype) -> None:
    """Long thin faces, whose radius of influence is far from round: none of it may be lost in binning."""
    soup = scenes.soup(12, (61, 75), seed=3)
    thin = soup.positions.reshape(12, 3, 4).clone()
    thin[:, 2] = thin[:, 0] + 0.3 * (thin[:, 1] - thin[:, 0]) + 0.02 * (thin[:, 2] - thin[:, 0])
    one = cast(soup._replace(positions=thin.reshape(36, 4)), device, dtype)
    options = {**TAME, **formulas, "gamma": 1.0}
    tolerance = None if dtype == torch.float64 else 1e-3  # ill-conditioned as slivers are
    assert_images_agree(one, options, tolerance)


@on_every_engine
@pytest.mark.parametrize("sigma", [1e-7, 1e-4, 1.0])
def test_sigma_from_sharp_to_very_soft(sigma: float, device: str, dtype: torch.dtype) -> None:
    one = cast(scenes.soup(25), device, dtype)
    # d^2 / sigma: an error of 1e-7 in d counts sqrt(10 / sigma) times where it counts at all.
    tolerance = FORWARD_TOLERANCE[dtype] * max(1.0, 1e-2 / math.sqrt(sigma))
    assert_images_agree(one, {**TAME, "sigma": sigma}, tolerance)


@on_every_engine
@pytest.mark.parametrize("gamma", [1e-3, 1.0, 100.0])
def test_gamma(gamma: float, device: str, dtype: torch.dtype) -> None:
    one = cast(scenes.soup(25), device, dtype)
    tolerance = FORWARD_TOLERANCE[dtype] * max(1.0, 0.1 / gamma)  # an error of depth is divided by gamma
    assert_images_agree(one, {**TAME, "gamma": gamma}, tolerance)


@pytest.mark.parametrize("aggregation", ["softmax", "additive"])
def test_the_smallest_gamma(aggregation: str) -> None:
    options = {**TAME, "gamma": 1e-8, "aggregation": aggregation}
    assert_images_agree(cast(scenes.soup(25), dtype=torch.float64), options, 1e-6)
    image = sr.soft_rasterize(*single(scenes.soup(25)), **options)
    assert all(part.isfinite().all() for part in image)
    assert image.color.min() >= -1e-6 and image.color.max() <= 1 + 1e-6


@on_every_engine
@pytest.mark.parametrize("cutoff", [1e-30, 1e-8, 1e-2, 0.4])
def test_cutoff(cutoff: float, device: str, dtype: torch.dtype) -> None:
    assert_images_agree(cast(scenes.soup(25), device, dtype), {**TAME, "cutoff": cutoff})


@on_every_engine
def test_twenty_thousand_faces(device: str, dtype: torch.dtype) -> None:
    one = cast(scenes.twenty_thousand_faces(), device, dtype)
    options = {**TAME, "sigma": 1e-4}
    image = sr.soft_rasterize(*one, **options)
    pixels = torch.arange(5, 64 * 48, 61)
    expected = reference_of(one, options, pixels=pixels)
    for name, found, wanted in zip(image._fields, image, expected, strict=True):
        assert found.isfinite().all(), name
        error = largest_error(found.flatten(1, 2)[:, pixels.to(device)], wanted)
        # Hundreds of faces in a pixel: now and then one of them is at the cutoff, within rounding.
        assert error <= (1e-4 if dtype == torch.float32 else 1e-9), f"{name}: error {error:.2e}"


@on_every_engine
@pytest.mark.parametrize("resolution", [(1, 1), (1, 64), (64, 1), (3, 200), (37, 53), (53, 37), (33, 129)])
def test_resolution(resolution: tuple[int, int], device: str, dtype: torch.dtype) -> None:
    size = 0.4 * max(resolution) / min(resolution)
    soup = scenes.soup(20, resolution, size=size, seed=5)
    assert_images_agree(cast(soup, device, dtype), TAME, few=0.1)


@on_every_device
@pytest.mark.parametrize("channels", [0, 1, 2, 3, 4, 7, 13, 40])
def test_channels(channels: int, device: str) -> None:
    soup = scenes.soup(15, (19, 23))
    soup = soup._replace(attributes=scenes.colours(45, channels))
    background = scenes.colours(1, channels)[0].float().to(device)
    assert_images_agree(cast(soup, device), {**TAME, "background": background})


@on_every_engine
@pytest.mark.parametrize(
    "shape", ["number", "tuple", "[]", "[C]", "[N, C]", "[H, W, C]", "[1, H, W, C]", "[N, H, W, C]"]
)
def test_background(shape: str, device: str, dtype: torch.dtype) -> None:
    sizes = {"N": 2, "H": 37, "W": 53, "C": 3, "1": 1}
    if shape == "number":
        background = 0.7
    elif shape == "tuple":
        background = (0.2, 0.5, 0.9)
    else:
        sides = [sizes[side] for side in shape.strip("[]").split(", ") if side]
        background = torch.rand(sides, dtype=dtype, device=device)
    batch = in_two_images(cast(scenes.sphere(), device, dtype))
    assert_images_agree(batch, {**TAME, "background": background})


@on_every_engine
def test_softness_for_each_image(device: str, dtype: torch.dtype) -> None:
    batch = in_two_images(cast(scenes.sphere(), device, dtype))
    each = {"sigma": [1e-3, 1e-1], "gamma": [0.1, 2.0], "epsilon": [0.5, -0.5]}
    each = {name: torch.tensor(value, dtype=dtype, device=device) for name, value in each.items()}
    assert_images_agree(batch, {**TAME, **each})


# Conventions


@pytest.mark.parametrize(
    ("x", "y", "row", "column"),
    [(-1.5, 0.5, 0, 0), (1.5, 0.5, 0, 3), (-0.5, -0.5, 1, 1)],  # pixel centres of a 2 x 4 image
)
def test_row_0_is_the_top_and_the_shorter_side_spans_two(x: float, y: float, row: int, column: int) -> None:
    one = single(scenes.small_face(x, y, (2, 4)))
    silhouette = sr.soft_silhouette(one.positions, one.triangles, (2, 4), far=10.0)
    assert (silhouette[0] > 0.5).nonzero().tolist() == [[row, column]]


def test_counter_clockwise_faces_front() -> None:
    one = single(scenes.small_face(0.0, 0.0, (9, 9)))
    options = {**TAME, "cull_backfaces": True}
    assert sr.soft_rasterize(*one, **options).silhouette.max() > 0
    assert sr.soft_rasterize(*one._replace(triangles=one.triangles.flip(1)), **options).silhouette.max() == 0


def test_culling_is_dropping_the_back_faces() -> None:
    sphere = single(scenes.sphere())
    front = sphere.positions.double()[sphere.triangles]
    points = front[..., :2] / front[..., 3:]
    a, b = points[:, 1] - points[:, 0], points[:, 2] - points[:, 0]
    front = a[:, 0] * b[:, 1] - a[:, 1] * b[:, 0] > 0
    assert 0.2 < front.double().mean() < 0.8
    kept = sphere._replace(triangles=sphere.triangles[front])
    culled = sr.soft_rasterize(*sphere, **TAME, cull_backfaces=True)
    assert_same(culled, sr.soft_rasterize(*kept, **TAME), 1e-6)
    assert not torch.allclose(culled.silhouette, sr.soft_rasterize(*sphere, **TAME).silhouette)


def test_an_empty_image_is_the_background() -> None:
    one = single(scenes.no_faces())
    image = sr.soft_rasterize(*one, background=torch.tensor(BACKGROUND), far=7.0)
    assert torch.equal(image.color, torch.tensor(BACKGROUND).expand(1, 5, 7, 3))
    assert (image.silhouette == 0).all() and (image.depth == 7).all()
    assert (sr.soft_rasterize(*one).color == 0).all()
    assert sr.soft_rasterize(*one).depth.unique().tolist() == [100]


def test_no_vertices() -> None:
    image = sr.soft_rasterize(torch.zeros(0, 4), torch.zeros(0, 3, dtype=torch.int32), torch.zeros(0, 3), (4, 5))
    assert image.color.shape == (1, 4, 5, 3) and (image.silhouette == 0).all()


@pytest.mark.parametrize("perspective_correct", [True, False])
def test_depths_and_attributes_of_a_tilted_plane(perspective_correct: bool) -> None:
    """View-space coordinates as attributes: perspective-correct ones are the ray's point."""
    one = scenes.covers_everything()
    view = one.positions.clone()
    attributes = torch.stack([view[:, 0] * 11 / 7, view[:, 1], view[:, 3]], dim=1)
    image = sr.soft_rasterize(
        *single(one._replace(attributes=attributes)),
        **{**TAME, "gamma": 1e-3},
        perspective_correct=perspective_correct,
    )
    x, y, z = image.color.unbind(-1)
    columns, rows = torch.arange(11), torch.arange(7)[:, None]
    expected = (2 * columns + 1 - 11) / 7 * z, (7 - 2 * rows - 1) / 7 * z, image.depth
    agree = [torch.allclose(a, b, rtol=1e-4, atol=1e-4) for a, b in zip((x, y, z), expected, strict=True)]
    assert agree == [perspective_correct] * 3


# Parameters


def test_defaults() -> None:
    parameters = inspect.signature(sr.soft_rasterize).parameters
    documented = {
        "sigma": 1e-4,
        "gamma": 1e-4,
        "epsilon": 1e-3,
        "background": None,
        "near": 1.0,
        "far": 100.0,
        "depth": "view",
        "coverage": "squared_distance",
        "falloff": "logistic",
        "aggregation": "softmax",
        "silhouette": "probabilistic",
        "perspective_correct": True,
        "cull_backfaces": False,
        "cutoff": 1e-4,
    }
    assert {name: parameters[name].default for name in documented} == documented
    assert list(parameters)[:4] == ["positions", "triangles", "attributes", "resolution"]
    shared = set(documented) - {"gamma", "epsilon", "background", "aggregation", "perspective_correct"}
    silhouette = inspect.signature(sr.soft_silhouette).parameters
    assert {name: silhouette[name].default for name in shared} == {name: documented[name] for name in shared}


def test_near_and_far_leave_ndc_depths_alone() -> None:
    """But for the depth of the background, which is `far`."""
    soup = single(scenes.soup(25))
    before = sr.soft_rasterize(*soup, **TAME, depth="ndc")
    after = sr.soft_rasterize(*soup, **{**TAME, "near": 4.0, "far": 5.0}, depth="ndc")
    assert torch.equal(before.color, after.color) and torch.equal(before.silhouette, after.silhouette)
    empty = before.silhouette == 0
    assert empty.any() and (before.depth[empty] == 10).all() and (after.depth[empty] == 5).all()


@pytest.mark.parametrize(
    ("changed", "color", "silhouette", "depth"),
    [
        ({"sigma": 5e-3}, True, True, True),
        ({"gamma": 0.2}, True, False, True),
        ({"epsilon": 0.9}, True, False, True),
        ({"background": 0.5}, True, False, False),
        ({"near": 0.5}, True, False, True),
        ({"near": 3.0}, True, True, True),
        ({"far": 20.0}, True, False, True),
        ({"far": 5.0}, True, True, True),
        ({"depth": "ndc"}, True, False, True),
        ({"coverage": "distance"}, True, True, True),
        ({"coverage": "barycentric"}, True, True, True),
        ({"coverage": "edge_product"}, True, True, True),
        ({"coverage": "hard"}, True, True, True),
        ({"aggregation": "additive"}, True, False, True),
        ({"aggregation": "hard"}, True, False, True),
        ({"silhouette": "max"}, False, True, False),
        ({"silhouette": "sum"}, False, True, False),
        ({"perspective_correct": False}, True, False, False),
        ({"cull_backfaces": True}, True, True, True),
        ({"cutoff": 0.3}, True, True, True),
    ],
    ids=lambda value: "-".join(map(str, [*value, *value.values()])) if isinstance(value, dict) else "",
)
def test_every_parameter_changes_what_it_should(changed: dict, color: bool, silhouette: bool, depth: bool) -> None:
    soup = single(scenes.soup(25))
    before, after = sr.soft_rasterize(*soup, **TAME), sr.soft_rasterize(*soup, **{**TAME, **changed})
    moved = [largest_error(a, b) > 1e-3 for a, b in zip(before, after, strict=True)]
    assert moved == [color, silhouette, depth]


@pytest.mark.parametrize("options", COMBINATIONS[:15:4], ids=label)
def test_soft_silhouette_is_the_silhouette_of_soft_rasterize(options: dict) -> None:
    soup = single(scenes.soup(25))
    whole = sr.soft_rasterize(*soup, **TAME, **options).silhouette
    names = ("coverage", "silhouette", "depth")
    shared = {
        **{name: TAME[name] for name in ("sigma", "near", "far")},
        **{name: options[name] for name in names},
    }
    alone = sr.soft_silhouette(soup.positions, soup.triangles, soup.resolution, **shared)
    assert alone.shape == (1, 37, 53)
    assert largest_error(alone, whole) <= 1e-6


@pytest.mark.parametrize(
    "changed",
    [
        {"sigma": 1e-3},
        {"near": 3.0},
        {"far": 5.0},
        {"depth": "ndc"},
        {"coverage": "hard"},
        {"silhouette": "max"},
        {"cull_backfaces": True},
        {"cutoff": 0.3},
    ],
    ids=lambda changed: "-".join(map(str, [*changed, *changed.values()])),
)
def test_every_parameter_of_soft_silhouette(changed: dict) -> None:
    soup = single(scenes.soup(25))
    soup.positions[:, 2] *= 1.5  # so that NDC depths leave the range where view depths do not
    options = {"sigma": 1e-2, "near": 1.0, "far": 10.0}
    before = sr.soft_silhouette(soup.positions, soup.triangles, soup.resolution, **options)
    after = sr.soft_silhouette(soup.positions, soup.triangles, soup.resolution, **{**options, **changed})
    assert largest_error(before, after) > 1e-3
