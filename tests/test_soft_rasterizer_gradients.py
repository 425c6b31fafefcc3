"""Gradients of the soft image: against finite differences and the reference, at kinks, for broken input."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

import slangrast as sr
from tests import scenes
from tests.combinations import COMBINATIONS, SOFT_COVERAGES, label
from tests.comparison import (
    BACKGROUND,
    GRADIENT_TOLERANCE,
    TAME,
    assert_gradients_agree,
    cast,
    cotangents,
    differentiable,
    gradients,
    in_two_images,
    on_every_device,
    on_every_engine,
)
from tests.references.soft_rasterizer import soft_rasterize as soft_rasterize_reference

every_combination = pytest.mark.parametrize("options", COMBINATIONS, ids=label)
KINKS = (scenes.pixel_on_a_vertex, scenes.pixel_on_an_edge)
# Softer, and with no cutoff to speak of, so that finite differences cross none.
SOFT = {"sigma": 0.05, "gamma": 0.1, "epsilon": 0.3, "near": scenes.NEAR, "far": scenes.FAR, "cutoff": 1e-30}


def relative_error(found: Tensor, expected: Tensor) -> float:
    return ((found - expected).norm() / expected.norm()).item()


def everywhere(image: sr.SoftImage) -> Tensor:
    return torch.ones(image.depth.shape, dtype=torch.bool)


# Finite differences


@every_combination
def test_finite_differences(options: dict) -> None:
    one, _, leaves = differentiable(scenes.three_faces(), SOFT)

    def image(positions, attributes, sigma, gamma, epsilon, background):
        arguments = {**SOFT, "sigma": sigma, "gamma": gamma, "epsilon": epsilon, "background": background}
        return tuple(sr.soft_rasterize(positions, one.triangles, attributes, one.resolution, **arguments, **options))

    # Sums of face weights may be added in any order.
    assert torch.autograd.gradcheck(image, tuple(leaves.values()), eps=1e-6, atol=1e-6, rtol=1e-5, nondet_tol=1e-10)


def test_float32_beside_a_face_seen_from_its_edge() -> None:
    """Where 1/w is extrapolated below zero, and rounding errors must not be divided by next to nothing."""
    vertices = torch.tensor([[-0.05, 0.015, 2.0], [0.05, 0.015, 3.0], [0.0, 0.016, 2.2]], dtype=torch.float64)
    colors = torch.tensor([[1.0, 0.2, 0.1], [0.3, 0.9, 0.4], [0.5, 0.6, 0.7]], dtype=torch.float64)

    def loss(vertices: Tensor) -> Tensor:
        x, y, w = vertices.unbind(1)
        clip = torch.stack([x * w, y * w, 0 * w, w], dim=1)
        image = sr.soft_rasterize(clip, torch.tensor([[0, 1, 2]]), colors.to(vertices), (1, 1), sigma=1e-4)
        return (image.color * torch.tensor([1.0, 2.0, -1.5]).to(vertices)).sum()

    assert torch.autograd.gradcheck(loss, (vertices.clone().requires_grad_(),), eps=1e-8, atol=1e-5, rtol=1e-5)
    found, expected = (
        torch.autograd.functional.jacobian(loss, vertices.to(dtype)).double()
        for dtype in (torch.float32, torch.float64)
    )
    assert (found - expected).abs().max() < 1e-4 and expected.abs().max() > 0.01


@pytest.mark.parametrize("silhouette", ["probabilistic", "max"])
def test_finite_differences_of_soft_silhouette(silhouette: str) -> None:
    one = scenes.three_faces()
    sigma = torch.tensor(0.05, dtype=torch.float64, requires_grad=True)

    def image(positions, sigma):
        options = {
            "sigma": sigma,
            "near": scenes.NEAR,
            "far": scenes.FAR,
            "cutoff": 1e-30,
            "silhouette": silhouette,
        }
        return sr.soft_silhouette(positions, one.triangles, one.resolution, **options)

    inputs = (one.positions.requires_grad_(), sigma)
    assert torch.autograd.gradcheck(image, inputs, eps=1e-6, atol=1e-6, rtol=1e-5, nondet_tol=1e-10)


# Against the reference


@on_every_engine
@every_combination
def test_combination(options: dict, device: str, dtype: torch.dtype) -> None:
    found = assert_gradients_agree(cast(scenes.soup(30), device, dtype), {**TAME, **options})
    never = {"sigma"} if options["coverage"] == "hard" else set()
    if options["aggregation"] == "hard":
        never |= {"gamma", "epsilon"}
    assert {name for name, gradient in found.items() if not gradient.any()} == never


@on_every_engine
@pytest.mark.parametrize("scene", scenes.BRANCHES, ids=lambda scene: scene.__name__)
def test_scene(scene, device: str, dtype: torch.dtype) -> None:
    one = scene()
    # A sliver's barycentrics are ill-conditioned by its proportions, a thousand; their derivatives twice so.
    tolerance = 5e-2 if scene is scenes.sliver and dtype == torch.float32 else None
    assert_gradients_agree(cast(one, device, dtype), TAME, tolerance, few=0.3 if scene in KINKS else 0.1)


@on_every_engine
@pytest.mark.parametrize("sigma", [1e-4, 1.0])
def test_sigma(sigma: float, device: str, dtype: torch.dtype) -> None:
    tolerance = GRADIENT_TOLERANCE[dtype] * max(1.0, 1e-2 / math.sqrt(sigma))
    assert_gradients_agree(cast(scenes.soup(25), device, dtype), {**TAME, "sigma": sigma}, tolerance)


@on_every_device
@pytest.mark.parametrize("channels", [0, 1, 2, 4, 7, 13, 40])
def test_channels(channels: int, device: str) -> None:
    soup = scenes.soup(15, (19, 23))
    soup = soup._replace(attributes=scenes.colours(45, channels))
    assert_gradients_agree(cast(soup, device), {**TAME, "background": scenes.colours(1, channels)[0]})


@on_every_engine
@pytest.mark.parametrize("shape", [(), (3,), (2, 3), (37, 53, 3), (1, 37, 53, 3), (2, 37, 53, 3)], ids=str)
def test_background(shape: tuple, device: str, dtype: torch.dtype) -> None:
    batch = in_two_images(cast(scenes.sphere(), device, dtype))
    assert_gradients_agree(batch, {**TAME, "background": torch.rand(shape)})


@on_every_engine
@pytest.mark.parametrize("attributes_for_each", [True, False])
def test_batch_with_softness_for_each_image(attributes_for_each: bool, device: str, dtype: torch.dtype) -> None:
    one = cast(scenes.sphere(), device, dtype)
    batch = in_two_images(one)
    if attributes_for_each:
        batch = batch._replace(attributes=torch.stack([one.attributes, 1 - one.attributes]))
    each = {"sigma": [1e-3, 1e-1], "gamma": [0.1, 2.0], "epsilon": [0.5, -0.5]}
    each = {name: torch.tensor(value) for name, value in each.items()}
    found = assert_gradients_agree(batch, {**TAME, **each})
    assert found["sigma"].shape == (2,) and found["sigma"].all()


@on_every_engine
def test_twenty_thousand_faces(device: str, dtype: torch.dtype) -> None:
    options = {**TAME, "sigma": 1e-4}
    one, options, leaves = differentiable(cast(scenes.twenty_thousand_faces(), device, dtype), options)
    pixels = torch.arange(40, 64 * 48, 211)
    chosen = torch.zeros(64 * 48, dtype=torch.bool)
    chosen[pixels] = True
    image = sr.soft_rasterize(*one, **options)
    upstream = cotangents(image, chosen.reshape(1, 64, 48))
    found = torch.autograd.grad(tuple(image), list(leaves.values()), upstream)
    exact, exact_options, exact_leaves = differentiable(
        cast(scenes.twenty_thousand_faces(), "cpu", dtype)._replace(), {**TAME, "sigma": 1e-4}
    )
    exact_leaves = {name: leaf.detach().double().requires_grad_() for name, leaf in exact_leaves.items()}
    exact = exact._replace(positions=exact_leaves["positions"], attributes=exact_leaves["attributes"])
    exact_options = {
        **exact_options,
        **{name: exact_leaves[name] for name in ("sigma", "gamma", "epsilon", "background")},
    }
    expected_image = soft_rasterize_reference(*exact, **exact_options, pixels=pixels)
    upstream = [part.cpu().double().flatten(1, 2)[:, pixels] for part in upstream]
    expected = torch.autograd.grad(tuple(expected_image), list(exact_leaves.values()), upstream)
    for name, a, b in zip(leaves, found, expected, strict=True):
        assert a.isfinite().all(), name
        # Hundreds of faces in a pixel: now and then one is at the cutoff or at a kink, within rounding.
        assert relative_error(a.cpu().double(), b) <= (1e-2 if dtype == torch.float32 else 1e-9), name


@on_every_engine
@pytest.mark.parametrize("output", [0, 1, 2], ids=["color", "silhouette", "depth"])
def test_gradient_of_one_output_alone(output: int, device: str, dtype: torch.dtype) -> None:
    """The others pass no cotangent at all."""
    one, options, leaves = differentiable(cast(scenes.three_faces(), device, dtype), SOFT)
    exact, exact_options, exact_leaves = differentiable(cast(scenes.three_faces(), "cpu", torch.float64), SOFT)
    found = sr.soft_rasterize(*one, **options)[output]
    expected = soft_rasterize_reference(*exact, **exact_options)[output]
    upstream = torch.randn(expected.shape, dtype=torch.float64)
    found.backward(upstream.to(found))
    expected.backward(upstream)
    for name, leaf in exact_leaves.items():
        ours = leaves[name].grad
        if leaf.grad is None or not leaf.grad.any():
            assert ours is None or not ours.any(), name
        else:
            assert relative_error(ours.cpu().double(), leaf.grad) <= GRADIENT_TOLERANCE[dtype], name


# How gradients are asked for


@pytest.mark.parametrize("name", ["positions", "attributes", "sigma", "gamma", "epsilon", "background"])
def test_gradient_for_one_input_alone(name: str) -> None:
    one, options, leaves = differentiable(cast(scenes.soup(10)), TAME)
    image = sr.soft_rasterize(*one, **options)
    expected = gradients(image, leaves, everywhere(image))[name]
    for other, leaf in leaves.items():
        leaf.requires_grad_(other == name)
    image = sr.soft_rasterize(*one, **options)
    found = gradients(image, {name: leaves[name]}, everywhere(image))[name]
    assert relative_error(found, expected) < 1e-5


def test_no_graph_where_no_input_requires_a_gradient() -> None:
    soup = cast(scenes.soup(10))
    assert not any(part.requires_grad for part in sr.soft_rasterize(*soup, **TAME))
    one, options, _ = differentiable(soup, TAME)
    with torch.no_grad():
        assert not any(part.requires_grad for part in sr.soft_rasterize(*one, **options))


def test_expanded_cotangents() -> None:
    """The gradient of a sum is a number expanded to the image's shape."""
    one, options, leaves = differentiable(cast(scenes.soup(10)), TAME)
    image = sr.soft_rasterize(*one, **options)
    found = torch.autograd.grad(sum(part.sum() for part in image), leaves.values(), retain_graph=True)
    expected = torch.autograd.grad(tuple(image), leaves.values(), [torch.ones_like(part) for part in image])
    assert all(relative_error(a, b) < 1e-5 for a, b in zip(found, expected, strict=True))


def test_backward_twice_over_a_retained_graph() -> None:
    one, options, leaves = differentiable(cast(scenes.soup(10)), TAME)
    loss = sr.soft_rasterize(*one, **options).color.square().sum()
    loss.backward(retain_graph=True)
    once = leaves["positions"].grad.clone()
    loss.backward()
    assert relative_error(leaves["positions"].grad, 2 * once) < 1e-5


def test_gradients_of_expanded_and_permuted_inputs() -> None:
    soup = cast(scenes.soup(10))
    positions = soup.positions.clone().requires_grad_()
    attributes = soup.attributes.T.contiguous().requires_grad_()
    image = sr.soft_rasterize(
        positions.expand(2, -1, -1), soup.triangles, attributes.T.expand(2, -1, -1), soup.resolution, **TAME
    )
    found = torch.autograd.grad(image.color.square().sum(), [positions, attributes])
    image = sr.soft_rasterize(positions, soup.triangles, attributes.T, soup.resolution, **TAME)
    expected = torch.autograd.grad(2 * image.color.square().sum(), [positions, attributes])
    assert all(relative_error(a, b) < 1e-5 for a, b in zip(found, expected, strict=True))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_inputs_get_half_gradients(dtype: torch.dtype) -> None:
    half = cast(scenes.soup(10), dtype=dtype)
    positions, attributes = half.positions.requires_grad_(), half.attributes.requires_grad_()
    sr.soft_rasterize(*half, **TAME).color.sum().backward()
    assert positions.grad.dtype == attributes.grad.dtype == dtype
    single = cast(half)
    wide = single._replace(
        positions=single.positions.detach().requires_grad_(),
        attributes=single.attributes.detach().requires_grad_(),
    )
    sr.soft_rasterize(*wide, **TAME).color.sum().backward()
    assert relative_error(positions.grad.float(), wide.positions.grad) < 1e-2
    assert relative_error(attributes.grad.float(), wide.attributes.grad) < 1e-2


def test_double_backward_is_refused() -> None:
    one, options, leaves = differentiable(cast(scenes.three_faces()), SOFT)
    loss = sr.soft_rasterize(*one, **options).color.square().sum()
    with pytest.raises(RuntimeError, match="once_differentiable"):
        (first,) = torch.autograd.grad(loss, [leaves["positions"]], create_graph=True)
        first.square().sum().backward()


# Kinks and broken input


@on_every_engine
@pytest.mark.parametrize("formulas", SOFT_COVERAGES, ids=label)
@pytest.mark.parametrize("scene", KINKS, ids=lambda scene: scene.__name__)
def test_gradients_at_kinks_are_finite_and_between_the_sides(
    scene, formulas: dict, device: str, dtype: torch.dtype
) -> None:
    """A pixel on an edge line: of its two one-sided derivatives it may take either, or anything between.

    A silhouette has only the kink of its coverage; moving the face by a little either way gives both sides.
    """
    options = {"sigma": 1e-2, "near": scenes.NEAR, "far": scenes.FAR, **formulas}
    one = scene()
    pixel = (slice(None), 4, 4)

    def gradient(render, shift: float, device: str, dtype: torch.dtype) -> Tensor:
        positions = one.positions.clone()
        positions[:, 0] += shift * positions[:, 3]
        positions = positions.to(device, dtype).requires_grad_()
        attributes = one.attributes.to(positions)
        image = render(positions, one.triangles.to(device), attributes, one.resolution, **options)
        image.silhouette[pixel].sum().backward()
        return positions.grad.cpu().double()

    left, right = (gradient(soft_rasterize_reference, s, "cpu", torch.float64) for s in (-1e-7, 1e-7))
    found = gradient(sr.soft_rasterize, 0.0, device, dtype)
    assert found.isfinite().all()
    # Rounding moves the pixel by some epsilon, and the gradient of d^2 / sigma with it.
    slack = 1e-4 * max(left.abs().max(), right.abs().max()) + torch.finfo(dtype).eps / options["sigma"]
    low, high = (
        torch.minimum(torch.minimum(left, right), torch.zeros(())),
        torch.maximum(left, right).clamp(min=0),
    )
    assert (found >= low - slack).all() and (found <= high + slack).all()


@pytest.mark.parametrize("formulas", SOFT_COVERAGES, ids=label)
@pytest.mark.parametrize("shift", [1e-3, 1e-4, 1e-5, 1e-6, -1e-6, -1e-5, -1e-4, -1e-3])
def test_gradients_close_to_an_edge(shift: float, formulas: dict) -> None:
    """However near the edge, on either side: a distance has a slope of 1."""
    one = scenes.pixel_on_an_edge()
    one.positions[:, 0] += shift * one.positions[:, 3]
    assert_gradients_agree(one, {**TAME, **formulas})


@on_every_engine
@every_combination
def test_broken_faces_leave_finite_gradients(options: dict, device: str, dtype: torch.dtype) -> None:
    good = scenes.shared_edge()
    huge, tiny = torch.finfo(dtype).max, torch.finfo(dtype).tiny / 4
    broken = torch.tensor(
        [
            [math.nan, 0, 0, 3],
            [0, math.inf, 0, 3],
            [0, 0, 0, math.nan],
            [0, 0, 3, -1],
            [0, 0, 3, 0],
            [huge, 0, 0, 1e-3],  # finite, until divided by w
            [0, 0, huge, 1e-3],
            [3, 2, 3, tiny],
        ],
        dtype=torch.float64,
    )
    count = len(broken)
    at_broken = [torch.tensor([[0, 4 + k, 1]]) for k in range(count)]
    without_area = torch.tensor([[0, 0, 1], [2, 2, 2]])
    both = good._replace(
        positions=torch.cat([good.positions, broken]),
        triangles=torch.cat([good.triangles, *at_broken, without_area]),
        attributes=torch.cat([good.attributes, torch.ones(count, 3, dtype=torch.float64)]),
    )

    def gradients_of(one) -> tuple[Tensor, Tensor]:
        one, arguments, leaves = differentiable(cast(one, device, dtype), TAME)
        image = sr.soft_rasterize(*one, **arguments, **options)
        found = gradients(image, leaves, everywhere(image))
        return found["positions"], found["attributes"]

    for found, expected in zip(gradients_of(both), gradients_of(good), strict=True):
        assert found.isfinite().all()
        assert (found[4:] == 0).all()
        assert relative_error(found[:4], expected) < 1e-5


@on_every_engine
@pytest.mark.parametrize("aggregation", ["softmax", "additive"])
@pytest.mark.parametrize("softness", [{"gamma": 1e-8}, {"sigma": 1e-7}, {"sigma": 1e-7, "gamma": 1e-8}], ids=str)
def test_extreme_softness_leaves_finite_gradients(
    softness: dict, aggregation: str, device: str, dtype: torch.dtype
) -> None:
    arguments = {**TAME, **softness, "aggregation": aggregation}
    one, arguments, leaves = differentiable(cast(scenes.soup(25), device, dtype), arguments)
    image = sr.soft_rasterize(*one, **arguments)
    found = gradients(image, leaves, everywhere(image))
    assert all(gradient.isfinite().all() for gradient in found.values())
    assert found["positions"].any() and found["attributes"].any()


def test_unused_vertices_get_no_gradient() -> None:
    one, options, leaves = differentiable(cast(scenes.three_faces()), SOFT)
    image = sr.soft_rasterize(*one._replace(triangles=one.triangles[:1]), **options)
    found = gradients(image, leaves, everywhere(image))
    used = torch.tensor([True, True, True, False, False, False])
    for name in ("positions", "attributes"):
        assert torch.equal(found[name].ne(0).any(dim=1), used)


def test_the_background_shows_through_with_its_weight() -> None:
    """The image is linear in the background: its gradient is the background's weight, 1 where nothing is."""
    one, options, leaves = differentiable(cast(scenes.no_faces()), TAME)
    image = sr.soft_rasterize(*one, **options)
    (found,) = torch.autograd.grad(image.color.sum(), [leaves["background"]])
    assert found.tolist() == [35.0] * len(BACKGROUND)


@pytest.mark.cuda
@every_combination
def test_cpu_and_cuda_agree(options: dict) -> None:
    found = []
    for device in ("cpu", "cuda"):
        one, arguments, leaves = differentiable(cast(scenes.soup(30), device), TAME)
        image = sr.soft_rasterize(*one, **arguments, **options)
        found.append(gradients(image, leaves, everywhere(image)))
    for name, gradient in found[0].items():
        difference = (gradient - found[1][name].cpu()).norm()
        # Kinks included: where a pixel is at one within rounding, the engines may take different sides.
        assert difference <= 1e-2 * gradient.norm(), name
