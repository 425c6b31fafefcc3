"""Attributes at pixels, and their derivatives on the screen: against the reference, and by finite differences."""

from __future__ import annotations

import re

import pytest
import torch
from torch import Tensor

import slangrast as sr
from tests import scenes
from tests.comparison import cast, on_every_device, on_every_engine
from tests.hard_path import GRADIENT_TOLERANCE, VALUE_TOLERANCE, rasterize, reference, relative_error
from tests.references.interpolate import interpolate as interpolate_reference
from tests.scenes import Scene

SCENES = [
    scenes.pixel_inside,
    scenes.strong_perspective,
    scenes.soup,
    scenes.sphere,
    scenes.soup_of_both_signs,
]


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def leaves(one: Scene) -> tuple[Scene, list[Tensor]]:
    one = one._replace(
        positions=one.positions.clone().requires_grad_(), attributes=one.attributes.clone().requires_grad_()
    )
    return one, [one.positions, one.attributes]


@on_every_engine
@pytest.mark.parametrize("scene", SCENES, ids=lambda scene: scene.__name__)
def test_scene(scene, device: str, dtype: torch.dtype) -> None:
    one, ours = leaves(cast(scene(), device, dtype))
    exact, theirs = leaves(cast(one, "cpu", torch.float64))
    found = sr.interpolate(rasterize(one), one.attributes, derivatives=True)
    geometry = reference(exact)
    expected = interpolate_reference(geometry, exact.triangles, exact.attributes)
    assert found[0].shape == (1, *one.resolution, 3) and found[1].shape == (1, *one.resolution, 3, 2)
    sure = ~geometry.doubtful
    assert sure.double().mean() > 0.95
    for value, wanted in zip(found, expected, strict=True):
        assert value.dtype == dtype and value.device.type == device
        assert relative_error(value[0][sure.to(device)], wanted[sure].detach()) <= VALUE_TOLERANCE[dtype]
        assert not value[0][(geometry.triangle_id < 0) & sure].any(), "0 where the image is empty"
        weights = random(*wanted.shape) * sure.reshape(*sure.shape, *[1] * (wanted.ndim - 2))
        a = torch.autograd.grad((value[0] * weights.to(value)).sum(), ours, retain_graph=True)
        b = torch.autograd.grad((wanted * weights).sum(), theirs, retain_graph=True)
        for gradient, wanted_gradient in zip(a, b, strict=True):
            assert relative_error(gradient, wanted_gradient) <= GRADIENT_TOLERANCE[dtype]


def test_finite_differences() -> None:
    one = scenes.three_faces()

    def image(positions: Tensor, attributes: Tensor) -> tuple[Tensor, ...]:
        return sr.interpolate(sr.rasterize(positions, one.triangles, one.resolution), attributes, derivatives=True)

    inputs = one.positions.requires_grad_(), one.attributes.requires_grad_()
    assert torch.autograd.gradcheck(image, inputs, eps=1e-6, atol=1e-6, rtol=1e-5, nondet_tol=1e-10)


def test_a_normal_through_normalisation_and_light() -> None:
    """What follows interpolation in a renderer, and the camera before it."""
    one = scenes.sphere(1, (7, 9))
    light = torch.tensor([0.4, 0.5, 0.77], dtype=torch.float64)
    turn = torch.tensor(0.02, dtype=torch.float64, requires_grad=True)

    def image(turn: Tensor, normals: Tensor) -> Tensor:
        matrix = torch.eye(4, dtype=torch.float64) + turn * torch.tensor(
            [[0, 1, 0, 0], [-1, 0, 0, 0], [0, 0, 0, 0.1], [0, 0, 0, 0.1]], dtype=torch.float64
        )
        geometry = sr.rasterize(one.positions @ matrix.T, one.triangles, one.resolution)
        normal = sr.interpolate(geometry, normals)[geometry.mask]
        return torch.nn.functional.normalize(normal, dim=-1) @ light

    normals = (2 * one.attributes - 1).requires_grad_()
    assert torch.autograd.gradcheck(image, (turn, normals), eps=1e-7, atol=1e-6, rtol=1e-5, nondet_tol=1e-10)


@on_every_device
@pytest.mark.parametrize("channels", [0, 1, 2, 4, 5, 13])
def test_channels(channels: int, device: str) -> None:
    one = cast(scenes.soup(20, (19, 23)), device)
    one, ours = leaves(one._replace(attributes=random(60, channels).to(device, torch.float32)))
    exact, theirs = leaves(cast(one, "cpu", torch.float64))
    found = sr.interpolate(rasterize(one), one.attributes)
    expected, _ = interpolate_reference(reference(exact), exact.triangles, exact.attributes)
    assert found.shape == (1, 19, 23, channels)
    weights = random(*expected.shape)
    a = torch.autograd.grad((found[0] * weights.to(found)).sum(), ours)
    b = torch.autograd.grad((expected * weights).sum(), theirs)
    assert relative_error(found[0], expected.detach()) <= 1e-5
    for gradient, wanted in zip(a, b, strict=True):
        assert relative_error(gradient, wanted) <= 1e-4


def test_no_faces() -> None:
    one, ours = leaves(cast(scenes.no_faces()))
    found = sr.interpolate(rasterize(one), one.attributes, derivatives=True)
    assert [value.shape for value in found] == [(1, 5, 7, 3), (1, 5, 7, 3, 2)] and not any(map(torch.any, found))
    for gradient in torch.autograd.grad(found[0].sum() + found[1].sum(), ours):
        assert not gradient.any()


@on_every_device
def test_chosen_derivatives(device: str) -> None:
    one = cast(scenes.sphere(), device)
    geometry = rasterize(one)
    values, every = sr.interpolate(geometry, one.attributes, derivatives=True)
    for chosen in ((0, 1), [2], (1, 1), ()):
        again, some = sr.interpolate(geometry, one.attributes, derivatives=chosen)
        assert torch.equal(again, values) and torch.equal(some, every[..., list(chosen), :])
    assert torch.equal(sr.interpolate(geometry, one.attributes, derivatives=False), values)


def test_derivatives_are_differences_between_pixels() -> None:
    """A plane of one depth: a linear attribute changes by the same from pixel to pixel, x to the right and y down."""
    positions = torch.tensor([[-1.0, -1, 0, 1], [1, -1, 0, 1], [1, 1, 0, 1], [-1, 1, 0, 1]])
    triangles = torch.tensor([[0, 1, 2], [0, 2, 3]])
    geometry = sr.rasterize(positions, triangles, (5, 8))
    values, slopes = sr.interpolate(geometry, positions[:, :2], derivatives=True)
    assert geometry.mask.all()
    torch.testing.assert_close(slopes[..., 0], torch.tensor([2 / 8, 0.0]).expand_as(values))
    torch.testing.assert_close(slopes[..., 1], torch.tensor([0.0, -2 / 5]).expand_as(values))
    torch.testing.assert_close(values[:, :, 1:] - values[:, :, :-1], slopes[:, :, 1:, :, 0])
    torch.testing.assert_close(values[:, 1:] - values[:, :-1], slopes[:, 1:, :, :, 1])


@on_every_device
@pytest.mark.parametrize("positions_of_each", [False, True])
@pytest.mark.parametrize("attributes_of_each", [False, True])
def test_batches(positions_of_each: bool, attributes_of_each: bool, device: str) -> None:
    one = cast(scenes.soup(20, (19, 23)), device)
    ranges = torch.tensor([[0, 20], [3, 12], [10, 10]], device=device)
    positions = one.positions
    if positions_of_each:
        positions = torch.stack([positions * scale for scale in (1.0, 1.1, 1.2)])
    attributes = random(3, 60, 2).float().to(device) if attributes_of_each else one.attributes
    positions, attributes = positions.clone().requires_grad_(), attributes.clone().requires_grad_()
    geometry = sr.rasterize(positions, one.triangles, one.resolution, ranges=ranges)
    found = sr.interpolate(geometry, attributes)
    weights = random(*found.shape).to(found)
    gradients = torch.autograd.grad((found * weights).sum(), [positions, attributes])
    alone = []
    for n in range(3):
        mine = positions[n] if positions_of_each else positions
        single = sr.rasterize(mine, one.triangles, one.resolution, ranges=ranges[n : n + 1])
        alone.append(sr.interpolate(single, attributes[n] if attributes_of_each else attributes))
    alone = torch.cat(alone)
    assert torch.equal(found, alone)
    expected = torch.autograd.grad((alone * weights).sum(), [positions, attributes])
    for gradient, wanted in zip(gradients, expected, strict=True):
        assert relative_error(gradient, wanted.cpu().double()) <= 1e-5


@on_every_device
def test_one_rasterize_for_many(device: str) -> None:
    """Attributes vary while the geometry stays, and the other way round; halves come back as halves."""
    one = cast(scenes.sphere(), device)
    with torch.no_grad():
        fixed = rasterize(one)
    attributes = one.attributes.clone().requires_grad_()
    sr.interpolate(fixed, attributes).sum().backward()
    seen = torch.zeros(len(attributes), dtype=torch.bool, device=device)
    seen[one.triangles[fixed.triangle_id[fixed.mask].long()].flatten()] = True
    assert torch.equal(attributes.grad.any(1), seen)
    moving = one._replace(positions=one.positions.clone().requires_grad_())
    sr.interpolate(rasterize(moving), one.attributes).square().sum().backward()
    assert moving.positions.grad.any()
    for dtype in (torch.float16, torch.bfloat16):
        half = one.attributes.to(dtype).requires_grad_()
        found = sr.interpolate(fixed, half)
        assert found.dtype == dtype
        assert torch.autograd.grad(found.sum(), half)[0].dtype == dtype


@on_every_device
def test_layers(device: str) -> None:
    """Two squares, one behind the other, each with its own colour."""
    corners = torch.tensor([[-1.0, -1], [1, -1], [1, 1], [-1, 1]], device=device)
    positions = torch.cat([torch.cat([corners, torch.full_like(corners, 1.0)], 1)] * 2)
    positions[:4, 2], positions[4:, 2] = 0.5, -0.5
    triangles = torch.tensor([[0, 1, 2], [0, 2, 3], [4, 5, 6], [4, 6, 7]], device=device)
    colours = torch.tensor([[0.25], [0.75]], device=device).repeat_interleave(4, dim=0)
    front = sr.rasterize(positions, triangles, (5, 7))
    back = sr.peel(front)
    torch.testing.assert_close(sr.interpolate(front, colours), torch.full((1, 5, 7, 1), 0.75, device=device))
    torch.testing.assert_close(sr.interpolate(back, colours), torch.full((1, 5, 7, 1), 0.25, device=device))
    assert not sr.interpolate(sr.peel(back), colours).any()


def test_in_warps() -> None:
    """With every access checked, the code that a GPU runs: lanes of a warp, one pixel each, sums over warps."""

    def everything() -> list[Tensor]:
        one, inputs = leaves(cast(scenes.soup(20, (19, 23))))
        ranges = torch.tensor([[0, 20], [5, 15]])
        geometry = sr.rasterize(one.positions, one.triangles, one.resolution, ranges=ranges)
        values, slopes = sr.interpolate(geometry, one.attributes, derivatives=True)
        loss = (values * random(*values.shape).float()).sum() + slopes.square().sum() + geometry.depth.sum()
        return [geometry.triangle_id, geometry.depth, values, *torch.autograd.grad(loss, inputs)]

    plain = everything()
    with sr.debug.checked(simt=True):
        found = everything()
    assert torch.equal(found[0], plain[0]) and torch.equal(found[1], plain[1]), "to the last bit"
    for value, expected in zip(found, plain, strict=True):
        assert relative_error(value, expected.detach().double()) <= 1e-6


def test_no_second_derivative() -> None:
    one, (_, attributes) = leaves(cast(scenes.pixel_inside()))
    loss = sr.interpolate(rasterize(one), attributes).square().sum()
    with pytest.raises(RuntimeError, match="once_differentiable"):
        (first,) = torch.autograd.grad(loss, attributes, create_graph=True)
        first.sum().backward()


ERRORS = [
    ({"geometry": torch.zeros(1)}, "geometry must be a GeometryBuffer, as rasterize returns, got Tensor"),
    ({"attributes": torch.zeros(4, 3)}, "attributes must be [N, V, C] or [V, C] float with V = 3, got [4, 3] float32"),
    ({"attributes": torch.zeros(2, 3, 3)}, "attributes must be for 1 or 1 images like geometry, got 2"),
    ({"attributes": torch.zeros(3, 3, dtype=torch.float64)}, "attributes must be float32 like positions"),
    ({"derivatives": "uv"}, "derivatives must be True, False or indices of channels, got 'uv'"),
    ({"derivatives": (0, 3)}, "derivatives must be channels from 0 to 2 of the attributes, got (0, 3)"),
]


@pytest.mark.parametrize(("change", "message"), ERRORS)
def test_errors(change: dict, message: str) -> None:
    one = cast(scenes.pixel_inside())
    with pytest.raises((TypeError, ValueError), match=re.escape(message)) as caught:
        sr.interpolate(**{"geometry": rasterize(one), "attributes": one.attributes, **change})
    assert str(caught.value).startswith("interpolate: ")
