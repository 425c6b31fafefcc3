"""Binning: every face that reaches a tile is in its list, once, in order, and few others are."""

from __future__ import annotations

import itertools

import pytest
import torch

import slangrast as sr
from slangrast import binning
from slangrast.binning import Bins, bin_faces, find_extents
from slangrast.formulas import COVERAGES
from slangrast.op_modules import TILE
from tests.comparison import on_every_device
from tests.references import coverage as reference
from tests.references.soft_rasterizer import pixel_centres

CUTOFF = 1e-3


def soup(images: int, faces: int) -> tuple[torch.Tensor, torch.Tensor]:
    """[images, 3 * faces, 4] screen vertices of faces of all sizes, some of them off screen, and [faces, 3] int32."""
    numbers = torch.Generator().manual_seed(2)
    centre = 2.4 * torch.rand(images, faces, 1, 2, generator=numbers) - 1.2
    size = 10 ** (-1.5 * torch.rand(images, faces, 1, 1, generator=numbers))
    corners = centre + size * torch.randn(images, faces, 3, 2, generator=numbers)
    screen = torch.cat([corners, torch.zeros(images, faces, 3, 1), torch.ones(images, faces, 3, 1)], dim=3)
    return screen.reshape(images, 3 * faces, 4), torch.arange(3 * faces, dtype=torch.int32).reshape(faces, 3)


def binned(
    name: str, screen: torch.Tensor, triangles: torch.Tensor, size: tuple[int, int], sigmas: list[float]
) -> Bins:
    patch = TILE if screen.is_cpu else 1  # as `op_module`
    defines = {"COVERAGE": COVERAGES[name].struct, "FALLOFF": "Logistic", "TILE": TILE, "PATCH": patch}
    module = sr.load_module("bin", device=screen.device.type, defines=defines)
    parameters = torch.tensor([[sigma, 1.0, 0.0] for sigma in sigmas], device=screen.device)
    extents = find_extents(sr.load_module("extents", device=screen.device.type), parameters, {}, CUTOFF)
    return bin_faces(module, screen, triangles, parameters, {}, extents, size, False)


def lists_of(bins: Bins) -> list[list[int]]:
    offsets, faces = bins.tile_offsets.tolist(), bins.tile_faces.tolist()
    return [faces[begin:end] for begin, end in itertools.pairwise(offsets)]


@on_every_device
@pytest.mark.parametrize("name", list(COVERAGES))
@pytest.mark.parametrize("size", [(1, 1), (37, 53), (90, 130)])  # the last: faces of 1 to 54 tiles
def test_lists_hold_every_face_that_reaches_the_tile(name: str, size: tuple[int, int], device: str) -> None:
    sigmas = [1e-3, 2e-2]
    screen, triangles = soup(images=2, faces=60)
    lists = lists_of(binned(name, screen.to(device), triangles.to(device), size, sigmas))
    height, width = size
    down, across = -(-height // TILE), -(-width // TILE)
    assert len(lists) == 2 * down * across
    needed = listed = 0
    for image, sigma in enumerate(sigmas):
        corners = screen[image].double()[triangles.long()][..., :2]
        points = pixel_centres(size, corners)
        found = reference.log_coverage(name, points, corners, torch.tensor(sigma).double()).exp() >= CUTOFF
        found = found.reshape(height, width, -1)
        for row in range(down):
            for column in range(across):
                part = found[row * TILE : (row + 1) * TILE, column * TILE : (column + 1) * TILE]
                reached = part.flatten(0, 1).any(dim=0).nonzero().flatten().tolist()
                got = lists[(image * down + row) * across + column]
                assert got == sorted(set(got))
                assert set(reached) <= set(got)
                needed, listed = needed + len(reached), listed + len(got)
    assert needed > 0 and listed <= 1.6 * needed + 20


def test_chunks_of_faces_make_the_same_lists(monkeypatch: pytest.MonkeyPatch) -> None:
    """However many threads share the faces, and whether the last has any left. With more images they share images."""
    monkeypatch.setattr(binning, "kernel_threads", lambda: 5)
    for images, faces in ((1, 1), (2, 59), (4, 60), (5, 60)):
        screen, triangles = soup(images, faces)
        results = []
        for least in (10**6, 1, 7):
            monkeypatch.setattr(binning, "_LEAST_CHUNK", least)
            results.append(lists_of(binned("squared_distance", screen, triangles, (37, 53), [1e-3] * images)))
        assert sum(map(len, results[0])) > 0 and results[0] == results[1] == results[2]


@on_every_device
def test_no_faces_make_empty_lists(device: str) -> None:
    screen = torch.zeros(1, 3, 4, device=device)
    bins = binned("squared_distance", screen, torch.zeros(0, 3, dtype=torch.int32, device=device), (20, 40), [1e-4])
    assert len(bins.tile_faces) == 0 and bins.tile_offsets.tolist() == [0] * 7


@on_every_device
def test_the_radius_follows_sigma_and_the_cutoff(device: str) -> None:
    """A small face in one corner reaches more tiles the softer it is."""
    screen = torch.tensor([[[-0.9, 0.9, 0, 1], [-0.85, 0.9, 0, 1], [-0.9, 0.95, 0, 1]]], device=device)
    triangles = torch.tensor([[0, 1, 2]], dtype=torch.int32, device=device)
    sizes = [binned("squared_distance", screen, triangles, (64, 64), [s]).tile_offsets for s in (1e-6, 3e-2, 10)]
    counts = [int(offsets[-1]) for offsets in sizes]
    assert counts[0] == 1 and counts[0] < counts[1] < counts[2] == 16
