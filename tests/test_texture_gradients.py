"""Gradients of `texture` and `mip_stack`: against finite differences and the reference, at kinks, for broken input."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

import slangrast as sr
from slangrast import debug
from tests.comparison import GRADIENT_TOLERANCE, in_both_precisions, on_every_engine
from tests.references.texture import texture as texture_reference
from tests.texture_cases import (
    FILTERS,
    SIZES,
    WRAPS,
    cast,
    exact,
    in_every_filter,
    in_every_wrap,
    largest_error,
    lookup,
    numbers,
)

# What a filter is a step function of, or does not depend on at all.
WITHOUT_GRADIENT = {
    "nearest": {"uv"},
    "linear": set(),
    "linear_mipmap_nearest": {"uv_derivatives", "mip_bias"},
    "linear_mipmap_linear": set(),
}
TRILINEAR = "linear_mipmap_linear"


def differentiable(arguments: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Tensor]]:
    leaves = {k: v.detach().clone().requires_grad_() for k, v in arguments.items() if isinstance(v, Tensor)}
    return {**arguments, **leaves}, leaves


def cotangent_of(color: Tensor) -> Tensor:
    return (2 * numbers(23, *color.shape) - 1).to(color)


def gradients(color: Tensor, leaves: dict[str, Tensor]) -> dict[str, Tensor]:
    found = torch.autograd.grad(color, list(leaves.values()), cotangent_of(color), allow_unused=True)
    return {
        name: torch.zeros_like(leaf) if gradient is None else gradient
        for (name, leaf), gradient in zip(leaves.items(), found, strict=True)
    }


def assert_gradients_agree(arguments: dict[str, Any]) -> dict[str, Tensor]:
    """Each gradient by its norm. Returns the gradients."""
    dtype = arguments["uv"].dtype
    ours, our_leaves = differentiable(arguments)
    theirs, their_leaves = differentiable(exact(arguments))
    found = gradients(sr.texture(**ours), our_leaves)
    expected = gradients(texture_reference(**theirs), their_leaves)
    for name, gradient in expected.items():
        assert found[name].shape == gradient.shape and found[name].dtype == dtype
        assert found[name].isfinite().all(), name
        error = (found[name].cpu().double() - gradient).norm().item()
        assert error <= GRADIENT_TOLERANCE[dtype] * gradient.norm().item(), f"{name}: error {error:.2e}"
    return found


# Finite differences


@in_every_wrap
@in_every_filter
def test_finite_differences(filter: str, wrap: str) -> None:
    arguments, leaves = differentiable(lookup(filter, wrap, (3, 4), channels=2, pixels=(3, 4)))
    names = list(leaves)

    def color(*values: Tensor) -> Tensor:
        return sr.texture(**{**arguments, **dict(zip(names, values, strict=True))})

    # Threads add to a texel in any order.
    assert torch.autograd.gradcheck(color, tuple(leaves.values()), eps=1e-7, atol=1e-6, rtol=1e-5, nondet_tol=1e-10)


@pytest.mark.parametrize("shape", [(2, 3, 5, 2), (4, 1, 1), (1, 6, 3, 3, 1)], ids=str)
def test_finite_differences_of_mip_stack(shape: tuple[int, ...]) -> None:
    image = numbers(1, *shape).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: sr.mip_stack(x).texels, (image,), eps=1e-6, atol=1e-8, rtol=1e-6)


# Against the reference


@on_every_engine
@in_every_wrap
@in_every_filter
def test_lookup(filter: str, wrap: str, device: str, dtype: torch.dtype) -> None:
    found = assert_gradients_agree(cast(lookup(filter, wrap), device, dtype))
    assert {name for name, gradient in found.items() if not gradient.any()} == WITHOUT_GRADIENT[filter]


@in_both_precisions
@in_every_wrap
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_sizes(size: tuple[int, int], wrap: str, dtype: torch.dtype) -> None:
    assert_gradients_agree(cast(lookup(TRILINEAR, wrap, size), "cpu", dtype))


@in_every_wrap
@pytest.mark.parametrize("images", [(1, 3), (3, 1), (2, 2)], ids=str)
def test_one_image_or_one_uv_serves_all(images: tuple[int, int], wrap: str) -> None:
    assert_gradients_agree(lookup(TRILINEAR, wrap, images=images))


@pytest.mark.parametrize("channels", [1, 4, 19])
def test_channels(channels: int) -> None:
    assert_gradients_agree(cast(lookup(TRILINEAR, "repeat", channels=channels), "cpu", torch.float32))


def test_many_pixels_on_one_texel() -> None:
    """All add to the same number, from all threads."""
    image = torch.ones(1, 1, 1, 1, dtype=torch.float64, requires_grad=True)
    sr.texture(image, numbers(2, 2, 70, 90, 2)).sum().backward()
    assert image.grad.item() == pytest.approx(2 * 70 * 90, rel=1e-12)


@in_every_filter
@in_every_wrap
def test_warps_add_runs_of_texels(filter: str, wrap: str) -> None:
    """Texels of many pixels, across and beyond the borders, pixels of one level beside pixels of two, and of none."""
    arguments = cast(lookup(filter, wrap, (3, 5), (2, 2), pixels=(5, 85)), "cpu", torch.float32)
    ends = arguments["uv"][:, :, [0, -1]].movedim(2, 0)
    arguments["uv"] = torch.lerp(*ends[..., None, :], torch.linspace(0, 1, 85)[:, None])
    arguments["uv"][0, 1, 50:53] = arguments["uv"][1, 2, 30:40:3] = 0
    ours, leaves = differentiable(arguments)
    expected = gradients(sr.texture(**ours), leaves)
    with debug.checked(simt=True):
        found = gradients(sr.texture(**ours), leaves)
    assert expected["image"].any()
    for name, gradient in found.items():
        assert (gradient - expected[name]).norm() <= 1e-5 * expected[name].norm(), name


def test_bias_without_derivatives_and_derivatives_without_bias() -> None:
    for missing in ("uv_derivatives", "mip_bias"):
        for wrap in WRAPS:
            arguments = lookup(TRILINEAR, wrap)
            del arguments[missing]
            assert_gradients_agree(arguments)


def test_one_bias_for_all() -> None:
    arguments = lookup(TRILINEAR, "clamp", images=(2, 2))
    bias = torch.tensor(0.3, dtype=torch.float64, requires_grad=True)
    found = sr.texture(**{**arguments, "mip_bias": bias})
    (ours,) = torch.autograd.grad(found, bias, cotangent_of(found))
    expected = texture_reference(**{**arguments, "mip_bias": bias})
    (theirs,) = torch.autograd.grad(expected, bias, cotangent_of(found))
    assert ours.item() == pytest.approx(theirs.item(), rel=1e-9)


# How gradients are asked for


@in_every_wrap
@pytest.mark.parametrize("name", ["image", "uv", "uv_derivatives", "mip_bias"])
def test_gradient_for_one_input_alone(name: str, wrap: str) -> None:
    arguments, leaves = differentiable(lookup(TRILINEAR, wrap))
    expected = gradients(sr.texture(**arguments), leaves)[name]
    for other, leaf in leaves.items():
        leaf.requires_grad_(other == name)
    image = arguments["image"].detach().clone()
    color = sr.texture(**arguments)
    (found,) = torch.autograd.grad(color, leaves[name], cotangent_of(color))
    assert largest_error(found, expected) <= 1e-12 * expected.abs().max()
    assert torch.equal(arguments["image"], image)


def test_no_graph_where_no_input_requires_a_gradient() -> None:
    arguments = lookup(TRILINEAR, "repeat")
    assert not sr.texture(**arguments).requires_grad
    arguments, _ = differentiable(arguments)
    with torch.no_grad():
        assert not sr.texture(**arguments).requires_grad


def test_a_stack_used_twice_and_its_levels() -> None:
    arguments, leaves = differentiable(lookup(TRILINEAR, "repeat"))
    image = leaves["image"]
    stack = sr.mip_stack(image)
    both = sr.texture(**{**arguments, "image": stack}).square().sum() + stack.level(1).sum()
    (found,) = torch.autograd.grad(both + sr.texture(stack, arguments["uv"]).sum(), image)
    terms = sr.texture(**arguments).square().sum() + sr.mip_stack(image).level(1).sum()
    (expected,) = torch.autograd.grad(terms + sr.texture(image, arguments["uv"]).sum(), image)
    assert largest_error(found, expected) <= 1e-12 * expected.abs().max()


def test_expanded_cotangents() -> None:
    """The gradient of a sum is a number expanded to the image's shape."""
    arguments, leaves = differentiable(lookup(TRILINEAR, "cube"))
    color = sr.texture(**arguments)
    found = torch.autograd.grad(color.sum(), leaves.values(), retain_graph=True)
    expected = torch.autograd.grad(color, leaves.values(), torch.ones_like(color))
    assert all(largest_error(a, b) < 1e-9 for a, b in zip(found, expected, strict=True))


def test_backward_twice_over_a_retained_graph() -> None:
    arguments, leaves = differentiable(lookup(TRILINEAR, "repeat"))
    loss = sr.texture(**arguments).square().sum()
    loss.backward(retain_graph=True)
    once = {name: leaf.grad.clone() for name, leaf in leaves.items()}
    loss.backward()
    assert all(largest_error(leaf.grad, 2 * once[name]) < 1e-9 for name, leaf in leaves.items())


def test_gradients_of_expanded_and_permuted_inputs() -> None:
    arguments, leaves = differentiable(lookup(TRILINEAR, "repeat", images=(1, 1)))
    expected = torch.autograd.grad(2 * sr.texture(**arguments).square().sum(), leaves.values())
    strided = {name: leaf.transpose(1, 2).contiguous().transpose(1, 2) for name, leaf in leaves.items()}
    expanded = {name: value.expand(2, *value.shape[1:]) for name, value in strided.items()}
    found = torch.autograd.grad(sr.texture(**{**arguments, **expanded}).square().sum(), leaves.values())
    assert all(largest_error(a, b) < 1e-9 for a, b in zip(found, expected, strict=True))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_inputs_get_half_gradients(dtype: torch.dtype) -> None:
    arguments, leaves = differentiable(cast(lookup(TRILINEAR, "repeat"), "cpu", dtype))
    wide, wide_leaves = differentiable(cast(arguments, "cpu", torch.float32))
    sr.texture(**arguments).sum().backward()
    sr.texture(**wide).sum().backward()
    for name, leaf in leaves.items():
        assert leaf.grad.dtype == dtype
        expected = wide_leaves[name].grad
        assert (leaf.grad.float() - expected).norm() < 1e-2 * expected.norm(), name


@pytest.mark.parametrize("what", ["uv", "image"])
def test_double_backward_is_refused(what: str) -> None:
    arguments, leaves = differentiable(lookup(TRILINEAR, "repeat"))
    loss = sr.texture(**arguments).square().sum()
    with pytest.raises(RuntimeError, match="once_differentiable"):
        (first,) = torch.autograd.grad(loss, [leaves[what]], create_graph=True)
        first.square().sum().backward()


def test_checked_access() -> None:
    with sr.debug.checked():
        for wrap in WRAPS:
            for filter in FILTERS:
                assert_gradients_agree(lookup(filter, wrap, pixels=(3, 5)))


# Kinks


def gradient_at(arguments: dict[str, Any], name: str, value: Tensor) -> Tensor:
    leaf = value.clone().requires_grad_()
    (found,) = torch.autograd.grad(sr.texture(**{**arguments, name: leaf}).sum(), leaf)
    return found


def assert_one_sided(arguments: dict[str, Any], name: str, value: Tensor, step: Tensor) -> Tensor:
    """The gradient is that of the point moved by a hair to one side or the other, which are not the same."""
    found = gradient_at(arguments, name, value)
    sides = [gradient_at(arguments, name, value + s * step) for s in (1e-9, -1e-9)]
    assert found.isfinite().all()
    assert (sides[0] - sides[1]).abs().max() > 1e-3
    assert min((found - side).abs().max().item() for side in sides) < 1e-5
    return found


@pytest.mark.parametrize(("wrap", "u"), [("repeat", 0.625), ("clamp", 0.125), ("clamp", 0.875), ("zero", -0.125)])
def test_at_a_texel_centre(wrap: str, u: float) -> None:
    """Of four texels: on a centre within, on the first and the last where clamping begins, and where zero begins."""
    point = torch.tensor([[[[u, 0.4]]]], dtype=torch.float64)
    arguments = {"image": numbers(5, 1, 3, 4, 1), "wrap": wrap}
    assert_one_sided(arguments, "uv", point, torch.tensor([1.0, 0.0], dtype=torch.float64))


def test_on_the_edge_of_a_cube() -> None:
    uv = torch.tensor([[[[1.0, 1.0, 0.3]]]], dtype=torch.float64)
    arguments = {"image": numbers(6, 1, 6, 4, 4, 1), "wrap": "cube"}
    assert_one_sided(arguments, "uv", uv, torch.tensor([1.0, -1.0, 0.5], dtype=torch.float64))


@pytest.mark.parametrize("size", [1, 4])
def test_at_the_corner_of_a_cube(size: int) -> None:
    arguments = {"image": numbers(6, 1, 6, size, size, 1), "wrap": "cube"}
    corner = torch.ones(1, 1, 1, 3, dtype=torch.float64)
    found = gradient_at(arguments, "uv", corner)
    around = [gradient_at(arguments, "uv", corner + 1e-9 * (2 * numbers(k, 3) - 1)) for k in range(20)]
    assert found.isfinite().all()
    assert min((found - gradient).abs().max().item() for gradient in around) < 1e-6


@pytest.mark.parametrize("level", [0.0, 1.0, 2.0, 3.0])
def test_on_a_level(level: float) -> None:
    """A bias that begins at a whole number is not stuck there, nor at the first or the last level."""
    bias = torch.full((1, 1, 1), level, dtype=torch.float64)
    arguments = {"image": numbers(7, 1, 8, 8, 1), "uv": numbers(8, 1, 1, 1, 2), "filter": TRILINEAR}
    assert assert_one_sided(arguments, "mip_bias", bias, torch.ones(1, dtype=torch.float64)).any()


def test_where_both_steps_are_as_long() -> None:
    """A surface that faces the camera: either may stand for both."""
    steps = torch.tensor([[[[0.3, 0.0, 0.0, 0.3]]]], dtype=torch.float64)
    arguments = {"image": numbers(9, 1, 8, 8, 1), "uv": numbers(10, 1, 1, 1, 2), "filter": TRILINEAR}
    found = gradient_at(arguments, "uv_derivatives", steps).flatten()
    sides = [gradient_at(arguments, "uv_derivatives", steps * s).flatten() for s in (
        torch.tensor([1 + 1e-9, 1, 1, 1]).double(), torch.tensor([1, 1, 1, 1 + 1e-9]).double())]  # fmt: skip
    assert found.isfinite().all()
    # A convex mixture of the two, each of which has one entry.
    share = found[0] / sides[0][0]
    assert 0 <= share <= 1
    torch.testing.assert_close(found, share * sides[0] + (1 - share) * sides[1], rtol=1e-6, atol=1e-9)


@in_both_precisions
@in_every_wrap
def test_steps_of_nothing_and_steps_too_long(wrap: str, dtype: torch.dtype) -> None:
    """Below and above all levels colours are those of the first and the last; there is no derivative, and no NaN."""
    for filter in (TRILINEAR, "linear_mipmap_nearest"):
        given = cast(lookup(filter, wrap), "cpu", dtype)
        without = {key: value for key, value in given.items() if key != "uv_derivatives"}
        for size, level in [(0.0, -99.0), (1e-30, -99.0), (1e25, 99.0), (torch.finfo(dtype).max, 99.0)]:
            steps = size * (2 * numbers(29, *given["uv_derivatives"].shape).to(dtype) - 1)
            arguments, leaves = differentiable({**given, "uv_derivatives": steps})
            color = sr.texture(**arguments)
            assert largest_error(color, sr.texture(**{**without, "mip_bias": level})) <= 1e-6
            found = gradients(color, leaves)
            assert all(gradient.isfinite().all() for gradient in found.values())
            assert not found["uv_derivatives"].any() and not found["mip_bias"].any() and found["image"].any()


# Broken input


@in_both_precisions
@in_every_wrap
@in_every_filter
def test_what_is_not_finite_sends_no_gradient(filter: str, wrap: str, dtype: torch.dtype) -> None:
    """Nor does it spoil that of any other pixel, whatever gradient arrives at it."""
    clean, leaves = differentiable(cast(lookup(filter, wrap), "cpu", dtype))
    upstream = cotangent_of(sr.texture(**clean))
    silent = upstream.clone()
    silent[0, 3, 4] = 0
    expected = torch.autograd.grad(sr.texture(**clean), leaves.values(), silent)
    for key in leaves.keys() - {"image"}:
        for value in (math.nan, math.inf):
            arguments, broken = differentiable(clean)
            with torch.no_grad():
                broken[key][0, 3, 4] = value
            found = torch.autograd.grad(sr.texture(**arguments), broken.values(), upstream)
            for name, ours, theirs in zip(leaves, found, expected, strict=True):
                assert largest_error(ours, theirs) <= 1e-4 * max(1.0, theirs.abs().max().item()), name
                assert name == "image" or not ours[0, 3, 4].any()


@in_both_precisions
def test_a_direction_of_no_length_sends_no_gradient(dtype: torch.dtype) -> None:
    arguments = cast(lookup(TRILINEAR, "cube"), "cpu", dtype)
    for length in (0.0, 1e-25):
        arguments["uv"][0, 2] = length
        given, leaves = differentiable(arguments)
        found = gradients(sr.texture(**given), leaves)
        assert all(gradient.isfinite().all() for gradient in found.values())
        assert not found["uv"][0, 2].any() and found["uv"][0, 3].any()


@in_both_precisions
@pytest.mark.parametrize("length", [1e-15, 1e12])
def test_the_gradient_of_a_direction_is_across_it(length: float, dtype: torch.dtype) -> None:
    """Its length does not matter, so that the gradient has no part along it, and shrinks as the length grows."""
    arguments = cast(lookup("linear", "cube"), "cpu", dtype)
    arguments, leaves = differentiable(arguments)
    unit = gradients(sr.texture(**arguments), leaves)["uv"]
    along = (unit * leaves["uv"]).sum(dim=-1).abs() / (unit.norm(dim=-1) * leaves["uv"].norm(dim=-1))
    assert along.max() < 1e-5
    scaled, scaled_leaves = differentiable({**arguments, "uv": length * leaves["uv"]})
    found = gradients(sr.texture(**scaled), scaled_leaves)["uv"] * length
    # Where rounding takes a point across a texel centre, it has the gradient of the other side.
    close = (found - unit).norm(dim=-1) <= 1e-3 * unit.norm(dim=-1)
    assert close.double().mean() > 0.98
