"""The functions of homogeneous.slang, each alone: the signs of edge functions, points on faces, what is searched."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from tests.comparison import on_every_device, on_every_engine
from tests.probes import assert_agrees, generator, kernel_of, probe
from tests.references import rasterize as reference

WIDTH, HEIGHT = 53, 37


def pixels_on_faces(count: int, seed: int = 0) -> Tensor:
    """[count, 14] A point of the screen, in pixels from its centre, and a face through it, of w of both signs."""
    numbers = generator(seed)
    faces = torch.randn(30 * count, 3, 4, generator=numbers, dtype=torch.float64)
    multiples = 0.1 + torch.rand(len(faces), 3, 1, generator=numbers, dtype=torch.float64)
    point = (multiples * faces).sum(1)
    volume = torch.linalg.det(torch.nn.functional.normalize(faces[..., [0, 1, 3]], dim=-1)).abs()
    ndc = point[:, :2] / point[:, 3:]
    chosen = ((volume > 0.2) & (point[:, 3] > 0.3) & (ndc.abs() < 1).all(1)).nonzero()[:count, 0]
    assert len(chosen) == count
    return torch.cat([ndc * torch.tensor([WIDTH / 2, -HEIGHT / 2]), faces.flatten(1)], dim=1)[chosen]


def split(rows: Tensor) -> tuple[Tensor, Tensor]:
    """Points in normalised device coordinates, and faces [R, 3, 4]."""
    return rows[:, :2].detach() / torch.tensor([WIDTH / 2, -HEIGHT / 2]), rows[:, 2:].reshape(-1, 3, 4)


def surface_point(rows: Tensor) -> Tensor:
    points, faces = split(rows)
    multiples = reference.coefficients(faces, points)
    weights = reference.barycentrics(faces, points)
    return torch.cat(
        [weights[:, :2], (multiples * faces[..., 2]).sum(1, keepdim=True), multiples.sum(1, keepdim=True)], 1
    )


def barycentric_slopes(rows: Tensor) -> Tensor:
    """Torch's own derivative of the weights by the point."""
    points, faces = split(rows)
    points.requires_grad_()
    slopes = []
    for weight in reference.barycentrics(faces, points).unbind(1)[:2]:
        (slope,) = torch.autograd.grad(weight.sum(), points, create_graph=True)
        slopes += [slope[:, 0] * (2 / WIDTH), -slope[:, 1] * (2 / HEIGHT)]
    return torch.stack(slopes, dim=1)


@on_every_engine
def test_surface_point(device: str, dtype: torch.dtype) -> None:
    assert_agrees("homogeneous", "surface_point", surface_point, pixels_on_faces(300), device, dtype, constants=2)


@on_every_engine
def test_barycentric_slopes(device: str, dtype: torch.dtype) -> None:
    rows = pixels_on_faces(300)
    assert_agrees("homogeneous", "barycentric_slopes", barycentric_slopes, rows, device, dtype, constants=2)


@on_every_device
def test_the_sign_of_an_edge_function_is_exact(device: str) -> None:
    """Products of floats are exact in double: also where they agree in all but their last bits."""
    numbers = generator(0)
    a, b, t = torch.randn(3, 100_000, generator=numbers)
    rows = torch.stack([a, b, (a * t), (b * t)], dim=1)
    rows[::3, 2:] = torch.nextafter(rows[::3, 2:], torch.tensor(torch.inf))
    rows[::7, 2:] = 2 * rows[::7, :2]  # exactly 0
    exact = rows.double()
    expected = exact[:, 0] * exact[:, 3] - exact[:, 1] * exact[:, 2]
    found = probe("homogeneous", "exact_cross", rows.to(device))[:, 0].cpu()
    assert torch.equal(found.sign().double(), expected.sign())
    torch.testing.assert_close(found.double(), expected, rtol=2.4e-7, atol=0)
    swapped = probe("homogeneous", "exact_cross", rows[:, [2, 3, 0, 1]].to(device))[:, 0].cpu()
    assert torch.equal(swapped.sign(), -found.sign())
    plain = rows[:, 0] * rows[:, 3] - rows[:, 1] * rows[:, 2]
    assert (plain.sign() != expected.sign()).double().mean() > 0.05, "the plain formula would not do"


@on_every_device
@pytest.mark.parametrize("spread", [1.0, 1e3, 1e6])
@pytest.mark.parametrize("size", [(53, 37), (8192, 5000)], ids=str)
def test_no_pixel_is_left_out_of_the_search(size: tuple[int, int], spread: float, device: str) -> None:
    """A face that covers a pixel has it in its box and may touch its tile, however small, thin or far away it is."""
    count = 100_000
    numbers = generator(int(spread) + size[0])
    scale = torch.tensor(size, dtype=torch.float64)
    pixel = (torch.rand(count, 2, generator=numbers, dtype=torch.float64) * scale).floor()
    ndc = (2 * (pixel + 0.5) / scale - 1) * torch.tensor([1.0, -1.0])
    # Three points around the pixel, up to `spread` pixels off each; the third so that the pixel is inside.
    reach = spread ** torch.rand(count, 3, 1, generator=numbers, dtype=torch.float64)
    offsets = reach * torch.randn(count, 3, 2, generator=numbers, dtype=torch.float64)
    share = torch.rand(count, 2, 1, generator=numbers, dtype=torch.float64)
    share[::2, 0] *= 1e-6  # or nearly on an edge
    offsets[1::4, 0] *= 1e-5  # or nearly on a vertex
    offsets[:, 2] = -(share * offsets[:, :2]).sum(1) * reach[:, 2]
    w = 10 ** (2 * torch.rand(count, 3, 1, generator=numbers, dtype=torch.float64) - 1)
    corners = torch.cat([ndc[:, None] + 2 * offsets / scale, torch.zeros_like(w), torch.ones_like(w)], dim=2) * w
    rows = torch.cat([pixel, scale.expand(count, 2), corners.flatten(1)], dim=1).float().to(device)
    outputs = torch.empty(count, 3, device=device)
    kernel = kernel_of("homogeneous", "search", rows)
    kernel(inputs=rows, outputs=outputs).launchRaw(blockSize=(64, 1, 1), gridSize=(-(-count // 64), 1, 1))
    visible, in_box, touches = outputs.cpu().bool().unbind(1)
    assert visible.double().mean() > 0.5
    missed = visible & ~touches
    # Nothing is missed but what has no area, as far as a float can tell.
    sides = offsets.roll(-1, 1) - offsets
    double_area = (sides[:, 0, 0] * sides[:, 1, 1] - sides[:, 0, 1] * sides[:, 1, 0]).abs()
    length = sides.norm(dim=2).amax(1)
    assert (double_area < 3e-7 * length * (length + max(size)))[missed].all()
    assert torch.equal(missed, visible & ~in_box)
