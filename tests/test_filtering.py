"""The functions of filtering.slang, each alone: positions, weights, projections, levels of detail, neighbours."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from tests.comparison import in_both_precisions, on_every_engine
from tests.probes import assert_agrees, generator, probe
from tests.references.texture import direction_to, face_of, halving, hat, point_on_face, step_on_face
from tests.texture_cases import numbers

ROWS = 300
REPEAT, CLAMP, ZERO = 0, 1, 2


def directions_and_steps(count: int, steps: int) -> Tensor:
    """[count, 3 + 3 steps] Directions at least a tenth long, and steps of about their length."""
    rows = torch.randn(2 * count, 3 + 3 * steps, generator=generator(3), dtype=torch.float64)
    return rows[rows[:, :3].norm(dim=1) > 0.1][:count]


def with_constants(rows: Tensor, *constants: float) -> Tensor:
    return torch.cat([torch.tensor(constants, dtype=torch.float64).expand(len(rows), -1), rows], dim=1)


@on_every_engine
@pytest.mark.parametrize("wrap", [REPEAT, CLAMP, ZERO], ids=["repeat", "clamp", "zero"])
def test_texel_position(wrap: int, device: str, dtype: torch.dtype) -> None:
    def reference(rows: Tensor) -> Tensor:
        size, _, coordinate = rows.unbind(dim=1)
        if wrap == REPEAT:
            return (coordinate.remainder(1) * size - 0.5)[:, None]
        reach = 0.0 if wrap == CLAMP else 1.0
        return (coordinate * size - 0.5).clamp(-reach + 0 * size, size - 1 + reach)[:, None]

    coordinates = 3 * numbers(1, ROWS, 1) - 1
    for size in (1, 7):
        rows = with_constants(coordinates, size, wrap)
        assert_agrees("filtering", "texel_position", reference, rows, device, dtype, constants=2)


@on_every_engine
@pytest.mark.parametrize("missing", [-1, 0, 1, 2, 3])
def test_tap_weights(missing: int, device: str, dtype: torch.dtype) -> None:
    def reference(rows: Tensor) -> Tensor:
        across, down = rows[:, 1:].unbind(dim=1)
        taps = [hat(across - x) * hat(down - y) for y in (0, 1) for x in (0, 1)]
        if missing >= 0:
            share = taps[missing] / 3
            taps = [torch.zeros_like(share) if k == missing else tap + share for k, tap in enumerate(taps)]
        return torch.stack(taps, dim=1)

    rows = with_constants(0.01 + 0.98 * numbers(2, ROWS, 2), missing)
    torch.testing.assert_close(reference(rows).sum(dim=1), torch.ones(ROWS, dtype=torch.float64))
    assert_agrees("filtering", "tap_weights", reference, rows, device, dtype, constants=1)


def on_a_cube(function: Callable[..., Tensor]) -> Callable[[Tensor], Tensor]:
    def of_rows(rows: Tensor) -> Tensor:
        parts = rows[:, 1:].split(3, dim=1)
        return function(*parts, face_of(parts[0].detach()))

    return of_rows


@on_every_engine
def test_surface_point(device: str, dtype: torch.dtype) -> None:
    on_cube = with_constants(directions_and_steps(ROWS, 0), 1)
    assert_agrees("filtering", "surface_point", on_a_cube(point_on_face), on_cube, device, dtype, constants=1)

    def flat(rows: Tensor) -> Tensor:
        return torch.stack([rows[:, 1], 1 - rows[:, 2]], dim=1)

    on_image = with_constants(directions_and_steps(ROWS, 0), 0)
    found = probe("filtering", "surface_point", on_image.to(device, dtype), 2)
    torch.testing.assert_close(found.cpu().double(), flat(on_image), rtol=1e-6, atol=1e-6)


@on_every_engine
def test_surface_step(device: str, dtype: torch.dtype) -> None:
    rows = with_constants(directions_and_steps(ROWS, 1), 1)
    assert_agrees("filtering", "surface_step", on_a_cube(step_on_face), rows, device, dtype, constants=1)


def test_a_surface_step_is_the_differential_of_a_surface_point() -> None:
    for cube in (0, 1):
        rows = with_constants(directions_and_steps(ROWS, 1), cube)
        moved = [torch.cat([rows[:, :1], rows[:, 1:4] + s * rows[:, 4:]], dim=1) for s in (1e-6, -1e-6)]
        change = probe("filtering", "surface_point", moved[0], 2) - probe("filtering", "surface_point", moved[1], 2)
        same_face = face_of(moved[0][:, 1:]) == face_of(moved[1][:, 1:])
        found = probe("filtering", "surface_step", rows, 2)
        torch.testing.assert_close(found[same_face], change[same_face] / 2e-6, rtol=1e-5, atol=1e-6)


@on_every_engine
@pytest.mark.parametrize("cube", [0, 1])
def test_level_of_detail(cube: int, device: str, dtype: torch.dtype) -> None:
    def reference(rows: Tensor) -> Tensor:
        size, (uv, *steps) = rows[:, 1:3], rows[:, 3:].split(3, dim=1)
        if cube:
            steps = [step_on_face(uv, step, face_of(uv.detach())) for step in steps]
        return torch.maximum(*((step[:, :2] * size).norm(dim=1) for step in steps)).log2()[:, None]

    rows = with_constants(directions_and_steps(ROWS, 2), cube, 16 if cube else 5, 16)
    assert_agrees("filtering", "level_of_detail", reference, rows, device, dtype, constants=3 if cube else 6)


@in_both_precisions
@pytest.mark.parametrize("size", [1, 2, 3, 8, 9, 101])
def test_box_weights(size: int, dtype: torch.dtype) -> None:
    coarse = max(1, size // 2)
    rows = torch.tensor([[i, size] for i in range(coarse)], dtype=dtype)
    found = probe("filtering", "box_weights", rows, 3).double()
    dense = torch.zeros(coarse, size + 2, dtype=torch.float64)
    for i in range(coarse):
        dense[i, 2 * i : 2 * i + 3] += found[i]
    assert not dense[:, size:].any()
    torch.testing.assert_close(dense[:, :size], halving(size), rtol=0, atol=1e-6)


@in_both_precisions
@pytest.mark.parametrize("size", [1, 2, 3, 64, 1024])
def test_neighbours_across_edges(size: int, dtype: torch.dtype) -> None:
    """A texel one beyond a border is one that touches the texel inside it, and each is the other's neighbour."""
    last = size - 1
    places = sorted({0, last // 3, last - last // 3, last})
    inside = [(f, *p) for f in range(6) for k in places for p in ((0, k), (last, k), (k, 0), (k, last))]
    beyond = [(f, *p) for f in range(6) for k in places for p in ((-1, k), (size, k), (k, -1), (k, size))]

    def texels(rows: list) -> list[int]:
        found = probe("filtering", "cube_tap", torch.tensor([[*row, size] for row in rows], dtype=dtype))
        return found.flatten().long().tolist()

    own, other = texels(inside), texels(beyond)
    assert own == [(f * size + y) * size + x for f, x, y in inside]
    assert all(a // size**2 != b // size**2 for a, b in zip(own, other, strict=True))
    pairs = set(zip(own, other, strict=True))
    assert pairs == {(b, a) for a, b in pairs}
    # Their squares share a side on the edge: the centres are half a texel from it, at right angles.
    centres = [centres_of(torch.tensor(texels), size) for texels in (own, other)]
    torch.testing.assert_close((centres[0] - centres[1]).norm(dim=1), torch.full((len(own),), 2**0.5 / size).double())


def centres_of(texels: Tensor, size: int) -> Tensor:
    """[T, 3] On the cube from -1 to 1."""
    face, row, column = texels // size**2, texels // size % size, texels % size
    right, down = ((2 * place + 1) / size - 1 for place in (column.double(), row.double()))
    return torch.stack([direction_to(int(f), x, y) for f, x, y in zip(face, right, down, strict=True)])


@in_both_precisions
def test_beyond_a_corner_there_is_nothing(dtype: torch.dtype) -> None:
    rows = [[f, x, y, 5] for f in range(6) for x in (-1, 5) for y in (-1, 5)]
    assert (probe("filtering", "cube_tap", torch.tensor(rows, dtype=dtype)) == -1).all()
