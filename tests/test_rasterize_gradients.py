"""Gradients of the geometry buffer: against finite differences, and against the reference."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

import slangrast as sr
from tests import scenes
from tests.comparison import cast, on_every_device, on_every_engine
from tests.hard_path import FIELDS, GRADIENT_TOLERANCE, before_and_around_the_eye, rasterize, reference
from tests.scenes import Scene

SCENES = [
    scenes.pixel_inside,
    scenes.clockwise,
    scenes.off_screen,
    scenes.behind_the_eye,
    scenes.covers_everything,
    scenes.strong_perspective,
    scenes.soup,
    scenes.sphere,
    scenes.soup_of_both_signs,
    scenes.across_the_near_plane,
]


def gradient(outputs: list[Tensor], positions: Tensor, pixels: Tensor) -> Tensor:
    """Of random sums of outputs [H, W, ...] or [1, H, W, ...]."""
    flat = [output if output.shape[:2] == pixels.shape else output[0] for output in outputs]
    numbers = torch.Generator().manual_seed(3)
    total = positions.new_zeros(())
    for output in flat:
        weights = torch.randn(output.shape, generator=numbers, dtype=torch.float64).to(output)
        total = total + (output * weights)[pixels.to(output.device)].sum()
    return torch.autograd.grad(total, positions, retain_graph=True)[0]


@on_every_engine
@pytest.mark.parametrize("scene", SCENES, ids=lambda scene: scene.__name__)
def test_scene(scene: Callable[[], Scene], device: str, dtype: torch.dtype) -> None:
    one = cast(scene(), device, dtype)
    exact = cast(one, "cpu", torch.float64)
    one.positions.requires_grad_()
    exact.positions.requires_grad_()
    found, expected = rasterize(one), reference(exact)
    sure = ~expected.doubtful
    for names in (*((name,) for name in FIELDS), FIELDS):
        ours = gradient([getattr(found, name) for name in names], one.positions, sure)
        theirs = gradient([getattr(expected, name) for name in names], exact.positions, sure)
        assert ours.dtype == dtype and ours.shape == one.positions.shape and ours.isfinite().all()
        error = (ours.cpu().double() - theirs).norm() / theirs.norm()
        assert error <= GRADIENT_TOLERANCE[dtype], f"{names}: error {error:.2e}"
        assert (theirs[:, 2].abs().max() > 0) == ("depth" in names), "z moves the depth alone"


@before_and_around_the_eye
def test_finite_differences(scene: Callable[[], Scene]) -> None:
    """Every output by every coordinate, of faces before the eye and around it."""
    one = scene()

    def image(positions: Tensor) -> tuple[Tensor, ...]:
        found = sr.rasterize(positions, one.triangles, one.resolution)
        return tuple(getattr(found, name) for name in FIELDS)

    assert sum(output.count_nonzero() for output in image(one.positions)) > 50
    positions = one.positions.requires_grad_()
    assert torch.autograd.gradcheck(image, (positions,), eps=1e-7, atol=1e-5, rtol=1e-5, nondet_tol=1e-10)


@on_every_device
def test_gradients_add_up_over_images(device: str) -> None:
    """Positions that all images share receive the sum; those of each image their own part."""
    one = cast(scenes.soup(20), device)
    ranges = torch.tensor([[0, 12], [6, 14], [0, 20]], device=device)
    shared = one.positions.clone().requires_grad_()
    each = one.positions.expand(3, -1, -1).clone().requires_grad_()
    weights = torch.randn(3, 37, 53, 2, generator=torch.Generator().manual_seed(0)).to(device)
    for positions in (shared, each):
        found = sr.rasterize(positions, one.triangles, one.resolution, ranges=ranges)
        (found.barycentrics * weights).sum().backward()
    assert each.grad.flatten(1).any(1).all()
    torch.testing.assert_close(shared.grad, each.grad.sum(0), rtol=1e-4, atol=1e-3 * each.grad.abs().max().item())


@on_every_device
def test_layers_behind(device: str) -> None:
    one = cast(scenes.soup(25, (19, 23)), device)
    exact = cast(one, "cpu", torch.float64)
    one.positions.requires_grad_()
    exact.positions.requires_grad_()
    first = reference(exact)
    found, expected = sr.peel(rasterize(one)), reference(exact, behind=first)
    sure = ~expected.doubtful
    ours = gradient([getattr(found, name) for name in FIELDS], one.positions, sure)
    theirs = gradient([getattr(expected, name) for name in FIELDS], exact.positions, sure)
    assert (ours.cpu().double() - theirs).norm() <= 1e-4 * theirs.norm()


def test_runs_of_pixels_and_threads_change_nothing_but_rounding() -> None:
    """A wide image of small and large faces: rows end within runs, and several threads add to one vertex."""
    one = cast(scenes.soup(60, (37, 133), 0.3), "cpu", torch.float64)
    one.positions.requires_grad_()
    threads = torch.get_num_threads()
    found = []
    try:
        for count in (1, 4):
            torch.set_num_threads(count)
            found.append(torch.autograd.grad(rasterize(one).depth.sum(), one.positions)[0])
    finally:
        torch.set_num_threads(threads)
    exact = reference(one)
    (expected,) = torch.autograd.grad(exact.depth.sum(), one.positions)
    assert not exact.doubtful.any()
    for each in found:
        torch.testing.assert_close(each, expected, rtol=1e-9, atol=1e-9)


def test_no_second_derivative() -> None:
    one = cast(scenes.pixel_inside())
    one.positions.requires_grad_()
    found = rasterize(one)
    for name in FIELDS:
        loss = getattr(found, name).square().sum()
        with pytest.raises(RuntimeError, match="once_differentiable"):
            (first,) = torch.autograd.grad(loss, one.positions, create_graph=True)
            first.sum().backward()
