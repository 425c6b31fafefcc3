"""Kernel against reference: the same numbers into `slangrast.soft_rasterize` and its float64 torch twin."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import slangrast as sr
from tests import scenes
from tests.references.kinks import kinked_pixels
from tests.references.soft_rasterizer import soft_rasterize as soft_rasterize_reference
from tests.scenes import Scene

# So soft that float32 inputs, rounded at 6e-8, fix the image to 1e-5: an error of depth is divided by gamma.
TAME = {"sigma": 1e-2, "gamma": 0.1, "epsilon": 0.3, "near": scenes.NEAR, "far": scenes.FAR}
BACKGROUND = [0.2, 0.5, 0.9]
SOFTNESS = ("sigma", "gamma", "epsilon", "background")

FORWARD_TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-9}
GRADIENT_TOLERANCE = {torch.float32: 1e-4, torch.float64: 1e-9}
ROUNDING = {torch.float32: 1e-5, torch.float64: 1e-9}  # how near to a kink the two may differ

on_every_device = pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.cuda)])
in_both_precisions = pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])
on_every_engine = pytest.mark.parametrize(
    ("device", "dtype"),
    [
        pytest.param("cpu", torch.float32, id="cpu-float32"),
        pytest.param("cpu", torch.float64, id="cpu-float64"),
        pytest.param("cuda", torch.float32, id="cuda-float32", marks=pytest.mark.cuda),
    ],
)


def cast(one: Scene, device: str = "cpu", dtype: torch.dtype = torch.float32) -> Scene:
    triangles = one.triangles.to(device)
    return Scene(one.positions.to(device, dtype), triangles, one.attributes.to(device, dtype), one.resolution)


def single(scene: Scene) -> Scene:
    """As most users have it."""
    return cast(scene, "cpu", torch.float32)


def in_two_images(one: Scene) -> Scene:
    """`one` beside a copy of it that is wider, lower and farther away."""
    other = one.positions * one.positions.new_tensor([1.2, 0.9, 1.0, 1.1])
    return one._replace(positions=torch.stack([one.positions, other]))


def double(options: dict) -> dict:
    """Tensors among the options as the reference takes them; on the CPU, because it judges every device."""
    return {
        name: value.detach().cpu().double().requires_grad_(value.requires_grad) if isinstance(value, Tensor) else value
        for name, value in options.items()
    }


def reference_of(one: Scene, options: dict, **more) -> sr.SoftImage:
    exact = cast(one, "cpu", torch.float64)
    return soft_rasterize_reference(*exact, **double(options), **more)


def kinks_of(one: Scene, options: dict, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    jumps, bends = kinked_pixels(
        one.positions.detach().cpu().double(),
        one.triangles.cpu(),
        one.resolution,
        ROUNDING[dtype],
        **double(options),
    )
    return jumps, bends


def largest_error(found: Tensor, expected: Tensor, pixels: Tensor | None = None) -> float:
    """The largest error at `pixels` [N, H, W], over the largest value expected (at least 1)."""
    assert found.shape == expected.shape
    assert found.isfinite().all()
    if expected.numel() == 0:
        return 0.0
    error = (found.detach().cpu().double() - expected.detach()).abs()
    if pixels is not None:
        error = error[pixels]
    return error.amax().item() / max(1.0, expected.abs().max().item()) if error.numel() else 0.0


def assert_same(a: sr.SoftImage, b: sr.SoftImage, tolerance: float) -> None:
    for name, x, y in zip(a._fields, a, b, strict=True):
        assert largest_error(x, y) <= tolerance, name


def assert_images_agree(one: Scene, options: dict, tolerance: float | None = None, few: float = 0.03) -> None:
    """`one` as cast by the caller. All but a share `few` of the pixels must be away from jumps."""
    dtype = one.positions.dtype
    jumps, _ = kinks_of(one, options, dtype)
    assert jumps.double().mean() <= few
    found, expected = sr.soft_rasterize(*one, **options), reference_of(one, options)
    for name, a, b in zip(expected._fields, found, expected, strict=True):
        assert a.dtype == dtype and a.device == one.positions.device
        error = largest_error(a, b, ~jumps)
        assert error <= (tolerance or FORWARD_TOLERANCE[dtype]), f"{name}: error {error:.2e}"


def differentiable(one: Scene, options: dict) -> tuple[Scene, dict, dict[str, Tensor]]:
    """Leaves that require gradients: positions, attributes, the three of softness, and background."""
    positions, attributes = (x.detach().clone().requires_grad_() for x in (one.positions, one.attributes))
    leaves = {"positions": positions, "attributes": attributes}
    options = {"background": BACKGROUND, **options}
    for name in SOFTNESS:
        value = torch.as_tensor(options[name], dtype=positions.dtype, device=positions.device).detach().clone()
        options[name] = leaves[name] = value.requires_grad_()
    return one._replace(positions=positions, attributes=attributes), options, leaves


def cotangents(image: sr.SoftImage, pixels: Tensor) -> list[Tensor]:
    """The same random numbers for every precision and device; 0 but at `pixels`."""
    generator = torch.Generator().manual_seed(11)
    parts = [torch.randn(part.shape, generator=generator, dtype=torch.float64) for part in image]
    parts = [part * pixels.reshape(pixels.shape + (1,) * (part.ndim - 3)) for part in parts]
    # Depths are about ten times as large as colours.
    return [part.to(out) for part, out in zip([parts[0], parts[1], parts[2] / 10], image, strict=True)]


def gradients(image: sr.SoftImage, leaves: dict[str, Tensor], pixels: Tensor) -> dict[str, Tensor]:
    upstream = cotangents(image, pixels)
    # A silhouette of hard coverage, or the depth of nothing, depends on no leaf at all.
    live = [k for k, part in enumerate(image) if part.requires_grad]
    found = torch.autograd.grad(
        [image[k] for k in live],
        list(leaves.values()),
        [upstream[k] for k in live],
        allow_unused=True,
    )
    return {
        name: torch.zeros_like(leaf) if gradient is None else gradient
        for (name, leaf), gradient in zip(leaves.items(), found, strict=True)
    }


def assert_gradients_agree(
    one: Scene, options: dict, tolerance: float | None = None, few: float = 0.1
) -> dict[str, Tensor]:
    """Each gradient under random cotangents away from kinks, by its norm. Returns the gradients."""
    dtype = one.positions.dtype
    _, bends = kinks_of(one, options, dtype)
    assert bends.double().mean() <= few
    ours, our_options, our_leaves = differentiable(one, options)
    theirs, their_options, their_leaves = differentiable(
        cast(one, "cpu", torch.float64), {**options, **{k: our_options[k] for k in SOFTNESS}}
    )
    found = gradients(sr.soft_rasterize(*ours, **our_options), our_leaves, ~bends)
    expected = gradients(soft_rasterize_reference(*theirs, **their_options), their_leaves, ~bends)
    for name, gradient in expected.items():
        assert found[name].shape == gradient.shape and found[name].dtype == dtype
        assert found[name].isfinite().all(), name
        error = (found[name].cpu().double() - gradient).norm().item()
        allowed = (tolerance or GRADIENT_TOLERANCE[dtype]) * gradient.norm().item()
        if dtype == torch.float32 and gradient.numel() <= len(one.positions):
            allowed *= 10  # one number, the sum of thousands of either sign, most of which cancel
        assert error <= allowed, f"{name}: error {error:.2e}, allowed {allowed:.2e}"
    return found
