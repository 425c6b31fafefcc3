"""The functions of screen.slang, each alone: where pixels lie, and where projection puts a vertex."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from tests.comparison import in_both_precisions, on_every_engine
from tests.probes import assert_agrees, generator, probe
from tests.references.soft_rasterizer import pixel_centres

SIZES = [(53, 37), (37, 53), (1, 1), (1, 64), (64, 64), (4096, 2161)]  # width, height


def centres(pixels: list[tuple[int, int]], size: tuple[int, int], dtype: torch.dtype = torch.float64) -> Tensor:
    """[P, 2] of pixels (column, row)."""
    return probe("screen", "pixel_center", torch.tensor([[*pixel, *size] for pixel in pixels], dtype=dtype), 2)


@pytest.mark.parametrize("size", SIZES)
@in_both_precisions
def test_half_extent(size: tuple[int, int], dtype: torch.dtype) -> None:
    found = probe("screen", "half_extent", torch.tensor([size], dtype=dtype), 2)
    torch.testing.assert_close(found, torch.tensor([[size[0] / min(size), size[1] / min(size)]], dtype=dtype))


@on_every_engine
def test_every_pixel_centre(device: str, dtype: torch.dtype) -> None:
    for height, width in [(37, 53), (53, 37), (1, 1)]:
        pixels = [[column, row, width, height] for row in range(height) for column in range(width)]
        found = probe("screen", "pixel_center", torch.tensor(pixels, device=device, dtype=dtype), 2)
        expected = pixel_centres((height, width), torch.zeros((), dtype=torch.float64))
        torch.testing.assert_close(found.cpu(), expected.to(dtype), rtol=1e-6, atol=0)


@pytest.mark.parametrize("size", SIZES)
@in_both_precisions
def test_corners_and_centre_of_the_image(size: tuple[int, int], dtype: torch.dtype) -> None:
    """Row 0 is at the top, and half a pixel inside the image's border; y points up."""
    width, height = size
    x, y = (width - 1) / min(size), (height - 1) / min(size)
    found = centres([(0, 0), (width - 1, 0), (0, height - 1), (width - 1, height - 1)], size, dtype)
    torch.testing.assert_close(found, torch.tensor([[-x, y], [x, y], [-x, -y], [x, -y]], dtype=dtype))
    if width % 2 and height % 2:
        assert centres([(width // 2, height // 2)], size, dtype).tolist() == [[0.0, 0.0]]


def test_pixels_are_square() -> None:
    at, right, below = centres([(20, 11), (21, 11), (20, 12)], (53, 37))
    assert (right - at).tolist() == pytest.approx([2 / 37, 0.0])
    assert (below - at).tolist() == pytest.approx([0.0, -2 / 37])


def to_screen(rows: Tensor) -> Tensor:
    half_extent, (x, y, z, w) = rows[:, :2], rows[:, 2:].unbind(dim=1)
    position = torch.stack([x / w, y / w], dim=1) * half_extent
    return torch.cat([position, (z / w)[:, None], 1 / w[:, None]], dim=1)


@on_every_engine
def test_to_screen(device: str, dtype: torch.dtype) -> None:
    rows = torch.randn(200, 6, generator=generator(1), dtype=torch.float64)
    rows[:, :2] = 1 + rows[:, :2].abs()
    rows[:, 5] = 0.2 + 5 * rows[:, 5].abs()
    assert_agrees("screen", "to_screen", to_screen, rows, device, dtype, constants=2)


def test_the_borders_of_clip_space_are_those_of_the_image() -> None:
    half_extent = [53 / 37, 1.0]
    rows = torch.tensor([[*half_extent, 3.0, -3.0, -3.0, 3.0]], dtype=torch.float64)
    right, bottom, near, inverse_w = probe("screen", "to_screen", rows, 4)[0].tolist()
    last = centres([(52, 36)], (53, 37))[0]
    assert (right, bottom) == pytest.approx((last[0].item() + 1 / 37, last[1].item() - 1 / 37))
    assert near == -1 and inverse_w == pytest.approx(1 / 3)
