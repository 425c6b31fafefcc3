"""Colours of `texture` and levels of `mip_stack`: against the reference, against torch, and by what must hold."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import slangrast as sr
from tests.comparison import FORWARD_TOLERANCE, in_both_precisions, on_every_device, on_every_engine
from tests.references.texture import mip_levels
from tests.texture_cases import (
    SIZES,
    WRAPS,
    cast,
    in_every_filter,
    in_every_wrap,
    largest_error,
    look_up,
    lookup,
    numbers,
)


def uv_of(*points: tuple[float, ...], dtype: torch.dtype = torch.float64) -> Tensor:
    """[1, 1, P, 2 or 3]"""
    return torch.tensor(points, dtype=dtype)[None, None]


def level_numbers(size: int, faces: int = 1, dtype: torch.dtype = torch.float64) -> sr.MipStack:
    """A stack whose texels hold the number of their level: a lookup returns the level of detail, clamped."""
    shape = (1, 6, size, size, 1) if faces == 6 else (1, size, size, 1)
    stack = sr.mip_stack(torch.zeros(shape, dtype=dtype))
    texels = [torch.full_like(stack.level(k), k).flatten(1, -2) for k in range(len(stack))]
    return sr.MipStack(torch.cat(texels, dim=1), stack.sizes, stack.faces, dtype)


# Against the reference


@on_every_engine
@in_every_wrap
@in_every_filter
def test_lookup(filter: str, wrap: str, device: str, dtype: torch.dtype) -> None:
    arguments = cast(lookup(filter, wrap), device, dtype)
    found, expected = look_up(arguments)
    assert found.dtype == dtype and found.device == arguments["uv"].device
    assert largest_error(found, expected) <= FORWARD_TOLERANCE[dtype]


@in_both_precisions
@in_every_wrap
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_sizes(size: tuple[int, int], wrap: str, dtype: torch.dtype) -> None:
    for filter in ("linear", "linear_mipmap_linear"):
        found, expected = look_up(cast(lookup(filter, wrap, size), "cpu", dtype))
        assert largest_error(found, expected) <= FORWARD_TOLERANCE[dtype]


@in_every_wrap
@pytest.mark.parametrize("images", [(1, 3), (3, 1), (2, 2)], ids=str)
def test_one_image_or_one_uv_serves_all(images: tuple[int, int], wrap: str) -> None:
    found, expected = look_up(lookup("linear_mipmap_linear", wrap, images=images))
    assert len(found) == max(images)
    assert largest_error(found, expected) <= 1e-12


@on_every_device
@pytest.mark.parametrize("channels", [0, 1, 4, 19])
def test_channels(channels: int, device: str) -> None:
    found, expected = look_up(cast(lookup("linear_mipmap_linear", "repeat", channels=channels), device, torch.float32))
    assert found.shape == (1, 11, 13, channels)
    assert channels == 0 or largest_error(found, expected) <= 1e-5


# Against torch


@in_both_precisions
@pytest.mark.parametrize(("wrap", "padding"), [("clamp", "border"), ("zero", "zeros")])
def test_grid_sample(wrap: str, padding: str, dtype: torch.dtype) -> None:
    arguments = cast(lookup("linear", wrap), "cpu", dtype)
    grid = (2 * arguments["uv"] - 1) * torch.tensor([1.0, -1.0], dtype=dtype)  # y down
    image = arguments["image"].permute(0, 3, 1, 2)
    expected = F.grid_sample(image, grid, padding_mode=padding, align_corners=False).permute(0, 2, 3, 1)
    assert largest_error(sr.texture(**arguments), expected) <= FORWARD_TOLERANCE[dtype]


@in_every_filter
def test_repeat_is_the_image_again(filter: str) -> None:
    arguments = lookup(filter, "repeat")
    moved = {**arguments, "uv": arguments["uv"] + torch.tensor([3.0, -2.0], dtype=torch.float64)}
    assert largest_error(sr.texture(**moved), sr.texture(**arguments)) <= 1e-12


@in_both_precisions
def test_levels_of_even_sizes_are_average_pools(dtype: torch.dtype) -> None:
    image = numbers(1, 2, 16, 8, 3).to(dtype)
    stack = sr.mip_stack(image)
    assert stack.sizes == ((16, 8), (8, 4), (4, 2), (2, 1), (1, 1)) and len(stack) == 5
    assert torch.equal(stack.level(0), image)
    for level in (1, 2, 3):
        pooled = F.avg_pool2d(stack.level(level - 1).permute(0, 3, 1, 2), 2).permute(0, 2, 3, 1)
        assert largest_error(stack.level(level), pooled) <= 1e-6


@on_every_engine
@pytest.mark.parametrize("shape", [(2, 5, 7, 3), (1, 1, 9, 2), (13, 3, 1), (2, 6, 7, 7, 2)], ids=str)
def test_levels_of_odd_sizes(shape: tuple[int, ...], device: str, dtype: torch.dtype) -> None:
    image = numbers(2, *shape).to(device, dtype)
    stack = sr.mip_stack(image)
    batched = (image if image.dim() > 3 else image[None]).cpu().double()
    expected = mip_levels(batched)
    assert len(stack) == len(expected)
    for index, level in enumerate(expected):
        found = stack.level(index)
        assert found.dtype == dtype and tuple(found.shape[-3:-1]) == stack.sizes[index]
        assert largest_error(found, level) <= FORWARD_TOLERANCE[dtype]
        mean = batched.mean(dim=(-3, -2))
        assert largest_error(found.mean(dim=(-3, -2)), mean) <= FORWARD_TOLERANCE[dtype]


# Conventions


@in_every_filter
def test_v_points_up(filter: str) -> None:
    """The centre of the texel in row y and column x is at u = (x + 0.5) / Wt, v = 1 - (y + 0.5) / Ht."""
    image = torch.zeros(3, 4, 1, dtype=torch.float64)
    image[0, 1] = 1.0
    bias = {"mip_bias": 0.0} if "mipmap" in filter else {}
    rows, columns = torch.arange(3, dtype=torch.float64), torch.arange(4, dtype=torch.float64)
    v, u = torch.meshgrid(1 - (rows + 0.5) / 3, (columns + 0.5) / 4, indexing="ij")
    uv = torch.stack([u, v], dim=-1)[None]
    assert largest_error(sr.texture(image, uv, filter=filter, **bias)[0], image) <= 1e-12


@pytest.mark.parametrize(
    ("corner", "texel"), [((0.0, 0.0), 2), ((1.0, 0.0), 3), ((0.0, 1.0), 0), ((1.0, 1.0), 1)], ids=str
)
@pytest.mark.parametrize("wrap", ["clamp", "zero"])
def test_corners(corner: tuple[float, float], texel: int, wrap: str) -> None:
    """Row 0 is on top. A border belongs to the texels inside."""
    image = torch.tensor([[[1.0], [2.0]], [[3.0], [4.0]]], dtype=torch.float64)
    found = sr.texture(image, uv_of(corner), filter="nearest", wrap=wrap)
    assert found.item() == texel + 1


def test_beyond_the_borders() -> None:
    image = torch.tensor([[[1.0], [2.0]]], dtype=torch.float64)
    uv = uv_of((-0.1, 0.5), (1.1, 0.5), (0.5, 7.0), (-0.25, 0.5), (1.26, 0.5))

    def colours(filter: str, wrap: str) -> list[float]:
        return [round(x, 9) for x in sr.texture(image, uv, filter=filter, wrap=wrap).flatten().tolist()]

    assert colours("nearest", "repeat") == [2, 1, 2, 2, 1]
    assert colours("nearest", "clamp") == [1, 2, 2, 1, 2]
    assert colours("nearest", "zero") == [0, 0, 0, 0, 0]
    assert colours("linear", "repeat") == [1.7, 1.3, 1.5, 2, 1.02]
    assert colours("linear", "clamp") == [1, 2, 1.5, 1, 2]
    assert colours("linear", "zero") == [0.3, 0.6, 0, 0, 0]


def test_an_image_without_a_batch() -> None:
    arguments = lookup("linear", "repeat")
    with_batch = sr.texture(**arguments)
    assert torch.equal(sr.texture(**{**arguments, "image": arguments["image"][0]}), with_batch)


# The level of detail


STEPS = [  # du/dX, du/dY, dv/dX, dv/dY in texels, and the level
    ([1.0, 0.0, 0.0, 1.0], 0.0),
    ([2.0, 0.0, 0.0, 1.0], 1.0),
    ([1.0, 0.0, 0.0, 8.0], 3.0),
    ([0.0, 3.0, 0.0, -4.0], math.log2(5)),  # along Y: (3, -4)
    ([3.0, 0.0, -4.0, 0.0], math.log2(5)),  # along X
    ([3.0, -4.0, 0.0, 0.0], 2.0),
    ([0.1, 0.0, 0.0, 0.1], 0.0),
    ([0.0, 0.0, 0.0, 0.0], 0.0),
    ([1e30, 0.0, 0.0, 0.0], 6.0),
]


@in_both_precisions
@pytest.mark.parametrize("bias", [None, 0.75, -1.5])
def test_detail_is_the_logarithm_of_the_longer_step(bias: float | None, dtype: torch.dtype) -> None:
    steps = torch.tensor([step for step, _ in STEPS], dtype=dtype)[None, None] / 64
    arguments = {"uv_derivatives": steps, "mip_bias": bias, "filter": "linear_mipmap_linear"}
    found = sr.texture(level_numbers(64, dtype=dtype), torch.full((1, 1, len(STEPS), 2), 0.3, dtype=dtype), **arguments)
    steep = [level if 0 < level < 6 else math.log2(0.1) if step[0] == 0.1 else level for step, level in STEPS]
    expected = [min(max(level + (bias or 0), 0), 6) for level in steep]
    expected[-2:] = [0, 6]  # no step, and one that overflows: no bias helps
    torch.testing.assert_close(found.flatten(), torch.tensor(expected, dtype=dtype), rtol=1e-6, atol=1e-6)


def test_steps_count_in_texels_of_each_axis() -> None:
    """A texture of 4 x 32: the same du crosses eight times the texels that dv does."""
    stack = sr.mip_stack(torch.zeros(4, 32, 1, dtype=torch.float64))
    texels = torch.cat([torch.full_like(stack.level(k), k).flatten(1, 2) for k in range(len(stack))], dim=1)
    numbered = sr.MipStack(texels, stack.sizes, 1, torch.float64)
    steps = uv_of((1 / 8, 0.0, 0.0, 0.0), (0.0, 0.0, 0.0, 1 / 2))
    found = sr.texture(numbered, uv_of((0.5, 0.5), (0.5, 0.5)), uv_derivatives=steps, filter="linear_mipmap_linear")
    torch.testing.assert_close(found.flatten(), torch.tensor([2.0, 1.0], dtype=torch.float64))


@pytest.mark.parametrize(("filter", "rounded"), [("linear_mipmap_linear", False), ("linear_mipmap_nearest", True)])
def test_bias_alone_chooses_the_level(filter: str, rounded: bool) -> None:
    bias = torch.tensor([[[-3.0, 0.0, 0.3, 0.7, 2.0, 2.6, 4.0, 9.0]]], dtype=torch.float64)
    uv = torch.full((1, 1, 8, 2), 0.4, dtype=torch.float64)
    found = sr.texture(level_numbers(16), uv, mip_bias=bias, filter=filter).flatten()
    expected = bias.flatten().clamp(0, 4)
    torch.testing.assert_close(found, expected.round() if rounded else expected)


def test_one_bias_for_all() -> None:
    arguments = lookup("linear_mipmap_linear", "repeat", images=(2, 2))
    found = sr.texture(**{**arguments, "mip_bias": 0.4})
    for bias in (torch.tensor(0.4, dtype=torch.float64), torch.full((1, 11, 13), 0.4, dtype=torch.float64)):
        assert torch.equal(sr.texture(**{**arguments, "mip_bias": bias}), found)


def test_a_checkerboard_turns_grey() -> None:
    """By half on the way to the first level, and for good from there on."""
    y, x = torch.meshgrid(torch.arange(32), torch.arange(32), indexing="ij")
    image = ((x + y) % 2).double()[..., None]
    centre = uv_of((1.5 / 32, 1 - 0.5 / 32))  # of a white texel
    for bias, expected in [(0.0, 1.0), (0.25, 0.875), (0.5, 0.75), (1.0, 0.5), (1.7, 0.5), (5.0, 0.5)]:
        found = sr.texture(image, centre, mip_bias=bias, filter="linear_mipmap_linear")
        assert found.item() == pytest.approx(expected, abs=1e-12)


def test_derivatives_by_rows_and_flat() -> None:
    for wrap in WRAPS:
        arguments = lookup("linear_mipmap_linear", wrap)
        by_rows = arguments["uv_derivatives"].unflatten(3, (-1, 2))
        assert torch.equal(sr.texture(**{**arguments, "uv_derivatives": by_rows}), sr.texture(**arguments))


def test_a_rendered_square_shows_the_texture_upright_at_its_own_resolution() -> None:
    """A square that fills 16 x 16 pixels shows level 2 of a texture of 64 x 64, through rasterize and interpolate."""
    corners = torch.tensor([[0.0, 0.0], [1.0, 0.0], [1.0, 1.0], [0.0, 1.0]])
    positions = torch.cat([2 * corners - 1, torch.zeros(4, 1), torch.ones(4, 1)], dim=1)
    geometry = sr.rasterize(positions, torch.tensor([[0, 1, 2], [0, 2, 3]]), (16, 16))
    uv, steps = sr.interpolate(geometry, corners, derivatives=True)
    stack = sr.mip_stack(numbers(11, 64, 64, 3).float())
    found = sr.texture(stack, uv, uv_derivatives=steps, filter="linear_mipmap_linear")
    assert largest_error(found, stack.level(2)) <= 1e-5


def test_fewer_levels() -> None:
    image = numbers(3, 8, 8, 1)
    stack = sr.mip_stack(image, levels=2)
    assert stack.sizes == ((8, 8), (4, 4))
    uv = uv_of((0.3, 0.6))
    coarsest = sr.texture(stack, uv, mip_bias=9.0, filter="linear_mipmap_linear")
    assert torch.equal(coarsest, sr.texture(stack.level(1), uv))
    assert len(sr.mip_stack(image, levels=1)) == 1


@in_every_wrap
@in_every_filter
def test_a_stack_made_once(filter: str, wrap: str) -> None:
    arguments = lookup(filter, wrap, images=(2, 2))
    stack = sr.mip_stack(arguments["image"])
    assert torch.equal(sr.texture(**{**arguments, "image": stack}), sr.texture(**arguments))


# Cubes


def edge_points(count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Directions [P, 3] to points of the twelve edges, and the step across them from one face to the other."""
    along = 2 * numbers(seed, 12, count) - 1
    points, steps = [], []
    for index, (axis, signs) in enumerate((a, s) for a in range(3) for s in ((1, 1), (1, -1), (-1, 1), (-1, -1))):
        others = [k for k in range(3) if k != axis]
        point = torch.zeros(count, 3, dtype=torch.float64)
        point[:, axis] = along[index]
        point[:, others] = torch.tensor(signs, dtype=torch.float64)
        step = torch.zeros(count, 3, dtype=torch.float64)
        step[:, others[0]], step[:, others[1]] = signs[0], -signs[1]
        points.append(point)
        steps.append(step)
    return torch.cat(points), torch.cat(steps)


@pytest.mark.parametrize("bias", [0.0, 0.6, 1.5, 3.0])
@pytest.mark.parametrize("size", [1, 4, 5])
def test_colours_are_continuous_across_the_edges_of_a_cube(size: int, bias: float) -> None:
    cube = numbers(4, 1, 6, size, size, 2)
    points, across = edge_points(40, 5)
    hair = 1e-9
    sides = [
        sr.texture(cube, (points + s * across)[None, None], wrap="cube", mip_bias=bias, filter="linear_mipmap_linear")
        for s in (hair, -hair)
    ]
    assert largest_error(*sides) < 1e-6
    if size > 1 and bias == 0:
        nearest = [
            sr.texture(cube, (points + s * across)[None, None], wrap="cube", filter="nearest") for s in (hair, -hair)
        ]
        assert (nearest[0] - nearest[1]).abs().min() > 0  # two faces indeed


def test_at_a_corner_of_a_cube_three_texels_meet() -> None:
    cube = numbers(6, 1, 6, 3, 3, 1)
    corner = torch.tensor([1.0, 1.0, 1.0], dtype=torch.float64)
    around = corner + 1e-9 * (2 * numbers(7, 50, 3) - 1)
    found = sr.texture(cube, around[None, None], wrap="cube")
    three = cube[0, 0, 0, 0] + cube[0, 2, 2, 2] + cube[0, 4, 0, 2]
    assert (found - three / 3).abs().max() < 1e-7


@pytest.mark.parametrize(
    ("direction", "face", "row", "column"),
    [  # a little right of and above the centre of each face, as it is seen from outside
        ((1.0, 0.4, -0.4), 0, 0, 1),
        ((-1.0, 0.4, 0.4), 1, 0, 1),
        ((0.4, 1.0, -0.4), 2, 0, 1),
        ((0.4, -1.0, 0.4), 3, 0, 1),
        ((0.4, 0.4, 1.0), 4, 0, 1),
        ((-0.4, 0.4, -1.0), 5, 0, 1),
    ],
)
@pytest.mark.parametrize("length", [1.0, 1e-9, 1e15])
def test_faces_of_a_cube(direction: tuple[float, ...], face: int, row: int, column: int, length: float) -> None:
    cube = numbers(8, 1, 6, 2, 2, 1)
    found = sr.texture(cube, length * uv_of(direction), wrap="cube", filter="nearest")
    assert found.item() == cube[0, face, row, column, 0].item()


def test_detail_of_a_cube() -> None:
    """At the centre of a face of 32 x 32 texels, one texel is 1/16 of the distance to the face, along it."""
    direction = 3.0 * uv_of((0.0, 0.0, 1.0), (0.0, 1.0, 0.0))
    steps = torch.zeros(1, 1, 2, 3, 2, dtype=torch.float64)
    steps[0, 0, :, 0, 0] = 3.0 / 16 * 4  # four texels along X
    steps[0, 0, 0, 2, 1] = steps[0, 0, 1, 1, 1] = 5.0  # outwards: not a step on the face
    found = sr.texture(
        level_numbers(32, faces=6), direction, uv_derivatives=steps, filter="linear_mipmap_linear", wrap="cube"
    )
    torch.testing.assert_close(found.flatten(), torch.full((2,), 2.0, dtype=torch.float64))


# Odd numbers


@in_both_precisions
@in_every_wrap
@in_every_filter
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_has_no_colour(value: float, filter: str, wrap: str, dtype: torch.dtype) -> None:
    """And leaves all other pixels alone."""
    arguments = cast(lookup(filter, wrap), "cpu", dtype)
    clean = sr.texture(**arguments)
    for key in {"uv", "uv_derivatives", "mip_bias"} & set(arguments):
        broken = arguments[key].clone()
        broken[0, 3, 4] = value if broken.dim() == 3 else torch.tensor([*broken[0, 3, 4][:-1], value])
        found = sr.texture(**{**arguments, key: broken})
        assert found[0, 3, 4].isnan().all(), key
        found[0, 3, 4] = clean[0, 3, 4]
        assert torch.equal(found, clean), key


@in_both_precisions
@in_every_wrap
@in_every_filter
def test_a_point_far_away_is_looked_up_within_the_texture(filter: str, wrap: str, dtype: torch.dtype) -> None:
    arguments = cast(lookup(filter, wrap), "cpu", dtype)
    largest, smallest = torch.finfo(dtype).max, torch.finfo(dtype).tiny
    for value in (1e6, -1e6, 3e9, -3e9, 1e20, largest, -largest, -smallest, -1e-9):
        far = arguments["uv"].clone()
        far[..., 0] = value
        found = sr.texture(**{**arguments, "uv": far})
        assert found.isfinite().all() and found.min() >= 0 and found.max() <= 1


@in_both_precisions
@in_every_filter
def test_a_direction_of_no_length_has_the_colour_zero(filter: str, dtype: torch.dtype) -> None:
    arguments = cast(lookup(filter, "cube"), "cpu", dtype)
    arguments["uv"][0, 2] = 0.0
    found = sr.texture(**arguments)
    assert not found[0, 2].any() and found[0, 3:].all()


def test_checked_access() -> None:
    """Every index within its tensor, and a NaN found where it comes from."""
    with sr.debug.checked():
        for wrap in WRAPS:
            arguments = lookup("linear_mipmap_linear", wrap, pixels=(5, 6))
            arguments["uv"][0, 0, 0] *= 1e12
            found, expected = look_up(arguments)
            assert largest_error(found[:, 1:], expected[:, 1:]) <= 1e-12
        arguments["uv"][0, 1, 1] = math.nan
        with pytest.raises(RuntimeError, match="out_color"):
            sr.texture(**arguments)


# Tensors as they come


@in_every_filter
def test_expanded_permuted_and_sliced_tensors(filter: str) -> None:
    arguments = lookup(filter, "repeat", images=(2, 2))
    expected = sr.texture(**arguments)
    strided = {
        key: torch.cat([value, value], dim=1)[:, : value.shape[1]].transpose(1, 2).contiguous().transpose(1, 2)
        for key, value in arguments.items()
        if isinstance(value, Tensor)
    }
    assert not strided["uv"].is_contiguous()
    assert torch.equal(sr.texture(**{**arguments, **strided}), expected)
    channels_first = arguments["image"].permute(0, 3, 1, 2).contiguous().permute(0, 2, 3, 1)
    assert torch.equal(sr.texture(**{**arguments, "image": channels_first}), expected)
    expanded = {key: value[:1].expand_as(value) for key, value in arguments.items() if isinstance(value, Tensor)}
    assert torch.equal(*sr.texture(**{**arguments, **expanded}))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half(dtype: torch.dtype) -> None:
    arguments = cast(lookup("linear_mipmap_linear", "repeat"), "cpu", dtype)
    found, expected = look_up(arguments)
    assert found.dtype == dtype and sr.mip_stack(arguments["image"]).level(1).dtype == dtype
    assert largest_error(found, expected) < 1e-2
    mixed = sr.texture(**{**arguments, "uv": arguments["uv"].float()})
    assert torch.equal(mixed, found)


def test_no_pixels() -> None:
    assert sr.texture(torch.zeros(4, 4, 3), torch.zeros(2, 0, 5, 2)).shape == (2, 0, 5, 3)


# What is refused

IMAGE, UV = torch.zeros(1, 4, 4, 3), torch.zeros(1, 2, 3, 2)
CUBE, DIRECTION = torch.zeros(1, 6, 4, 4, 3), torch.zeros(1, 2, 3, 3)
MIPS = {"filter": "linear_mipmap_linear"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"image": torch.zeros(4, 4)}, "image must be .* got \\[4, 4\\] float32"),
        ({"image": torch.zeros(1, 0, 4, 3)}, "image must be .* with a texel at least, got \\[1, 0, 4, 3\\]"),
        ({"image": IMAGE.int()}, "image must be float32, float64, float16 or bfloat16, got .* int32"),
        ({"image": [[1.0]]}, "image must be a float tensor, got list"),
        ({"image": torch.zeros(1, 5, 4, 4, 3)}, "6 square faces"),
        ({"image": torch.zeros(1, 6, 4, 5, 3)}, "6 square faces"),
        ({"image": CUBE}, "wrap 'repeat', got a cube map of 4 x 4"),
        ({"image": sr.mip_stack(CUBE)}, "wrap 'repeat', got a cube map of 4 x 4"),
        ({"wrap": "cube", "uv": DIRECTION}, "a cube map .* with wrap 'cube', got an image of 4 x 4"),
        ({"image": IMAGE.to("meta")}, "image must be on the CPU or a CUDA device"),
        ({"uv": torch.zeros(2, 3, 2)}, "uv must be \\[N, H, W, 2\\] float with wrap 'repeat', got \\[2, 3, 2\\]"),
        ({"uv": DIRECTION}, "uv must be \\[N, H, W, 2\\]"),
        ({"image": CUBE, "wrap": "cube"}, "uv must be \\[N, H, W, 3\\] float with wrap 'cube'"),
        ({"uv": UV.double()}, "uv must be float32 like image, got .* float64"),
        ({"uv": UV.long()}, "uv must be float32, float64"),
        ({"uv": UV.to("meta")}, "uv must be on cpu like image, got a tensor on meta"),
        ({"image": IMAGE.expand(2, 4, 4, 3), "uv": UV.expand(3, 2, 3, 2)}, "1 or 2 images like image, got 3"),
        ({"filter": "cubic"}, r"filter must be one of \['nearest', .*'linear_mipmap_linear'\], got 'cubic'"),
        ({"filter": 1}, "filter must be one of .*, got 1"),
        ({"wrap": "mirror"}, r"wrap must be one of \['repeat', 'clamp', 'zero', 'cube'\], got 'mirror'"),
        (MIPS, "filter 'linear_mipmap_linear' needs uv_derivatives or mip_bias, got neither"),
        ({"mip_bias": 1.0}, "mip_bias must be None with filter 'linear'"),
        ({"uv_derivatives": torch.zeros(1, 2, 3, 4)}, "uv_derivatives must be None with filter 'linear'"),
        ({**MIPS, "uv_derivatives": torch.zeros(1, 2, 3, 6)}, r"\[1, 2, 3, 4\] or \[1, 2, 3, 2, 2\] float .* 6\]"),
        ({**MIPS, "uv_derivatives": torch.zeros(1, 2, 2, 4)}, "uv_derivatives must be"),
        ({**MIPS, "uv_derivatives": torch.zeros(2, 2, 3, 4)}, "uv_derivatives must be"),
        ({**MIPS, "mip_bias": torch.zeros(1, 3, 3)}, r"mip_bias must be .* \[1, 2, 3\], got \[1, 3, 3\]"),
        ({**MIPS, "mip_bias": torch.zeros(1)}, "mip_bias must be"),
        ({**MIPS, "mip_bias": "1"}, "mip_bias must be a number or a float tensor, got str"),
        ({**MIPS, "mip_bias": True}, "mip_bias must be a number or a float tensor, got bool"),
        ({"image": torch.zeros(1).expand(2**15, 2**15, 1)}, "image must be below 4 GiB .* got 4.0 GiB"),
        ({"uv": torch.zeros(1).expand(1, 2**14, 2**14, 2)}, "uv must be below 4 GiB"),
    ],
)
def test_refused(arguments: dict, message: str) -> None:
    with pytest.raises((ValueError, TypeError), match=f"^texture: .*{message}"):
        sr.texture(**{"image": IMAGE, "uv": UV, **arguments})


@pytest.mark.parametrize(
    ("image", "levels", "message"),
    [
        (IMAGE, 0, r"levels must be in \[1, 3\] for an image of 4 x 4, got 0"),
        (IMAGE, 4, r"levels must be in \[1, 3\]"),
        (IMAGE, 2.0, "levels must be an integer or None, got float"),
        (IMAGE[0, 0], None, "image must be"),
        ("image.png", None, "image must be a float tensor, got str"),
    ],
)
def test_mip_stack_refuses(image: Tensor, levels: int, message: str) -> None:
    with pytest.raises((ValueError, TypeError), match=f"^mip_stack: {message}"):
        sr.mip_stack(image, levels)


def test_no_such_level() -> None:
    with pytest.raises(IndexError, match=r"index must be in \[0, 2\], got 3"):
        sr.mip_stack(IMAGE).level(3)
