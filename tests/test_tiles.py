"""How images are shared out where threads come in warps: tiles of two sizes, lists that several threads share."""

from __future__ import annotations

import importlib

import pytest
import torch

import slangrast as sr
from slangrast import debug
from slangrast.op_modules import ONE_THREAD_A_TILE, Tiling, tiling_for
from tests import scenes
from tests.comparison import TAME, single

OPTIONS = {
    "softmax": {},
    "winners": {"aggregation": "hard", "silhouette": "max"},
    "sums": {"aggregation": "additive", "silhouette": "sum"},
}


def step(scene: scenes.Scene, **options: object) -> list[torch.Tensor]:
    """Images, and the gradients of a weighted sum of them for everything that has one."""
    leaves = {name: torch.tensor(value).requires_grad_() for name, value in TAME.items() if name in ("sigma", "gamma")}
    positions, attributes = (x.clone().requires_grad_() for x in (scene.positions, scene.attributes))
    background = torch.full((*scene.resolution, attributes.shape[-1]), 0.3).requires_grad_()
    given = {**TAME, **leaves, "background": background, **options}
    image = sr.soft_rasterize(positions, scene.triangles, attributes, scene.resolution, **given)
    weights = torch.Generator().manual_seed(3)
    sum((part * torch.rand(part.shape, generator=weights)).sum() for part in image).backward()
    return [*image, *(leaf.grad for leaf in (positions, attributes, background, *leaves.values()))]


@pytest.mark.parametrize("name", OPTIONS)
@pytest.mark.parametrize("tiling", [Tiling(8, 1, 1), Tiling(8, 4, 4), Tiling(16, 1, 4), Tiling(16, 2, 3)])
def test_every_tiling_gives_the_same_images_and_gradients(
    tiling: Tiling, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On warps of 32 lanes, as on a GPU: lists of many faces, and tiles beyond the image."""
    soup = single(scenes.soup(60, (21, 35)))
    expected = step(soup, **OPTIONS[name])
    op = importlib.import_module("slangrast.soft_rasterizer")
    monkeypatch.setattr(op, "tiling_for", lambda like, resolution: tiling)
    with debug.checked(simt=True):
        found = step(soup, **OPTIONS[name])
    for got, wanted in zip(found, expected, strict=True):
        torch.testing.assert_close(got, wanted, rtol=1e-3, atol=1e-5 * max(1.0, wanted.abs().max().item()))


@pytest.mark.parametrize("channels", [0, 1, 10, 11, 16])
@pytest.mark.parametrize("depth", ["view", "ndc"])
def test_warps_sum_up_any_number_of_values(channels: int, depth: str) -> None:
    """A silhouette alone, few attributes, as many as fit into one sum, and more."""
    soup = single(scenes.soup(60, (21, 35)))
    attributes = torch.rand(len(soup.positions), channels, generator=torch.Generator().manual_seed(4))

    def gradients() -> list[torch.Tensor]:
        leaves = [soup.positions.clone().requires_grad_(), attributes.clone().requires_grad_()]
        if channels:
            image = sr.soft_rasterize(leaves[0], soup.triangles, leaves[1], soup.resolution, depth=depth, **TAME).color
        else:
            options = {key: value for key, value in TAME.items() if key not in ("gamma", "epsilon")}
            image = sr.soft_silhouette(leaves[0], soup.triangles, soup.resolution, depth=depth, **options)
        weights = torch.rand(image.shape, generator=torch.Generator().manual_seed(5))
        return list(torch.autograd.grad((image * weights).sum(), leaves[: 1 + bool(channels)]))

    expected = gradients()
    with debug.checked(simt=True):
        found = gradients()
    for got, wanted in zip(found, expected, strict=True):
        torch.testing.assert_close(got, wanted, rtol=1e-3, atol=1e-5 * max(1.0, wanted.abs().max().item()))


def test_small_images_have_small_tiles_where_threads_come_in_warps() -> None:
    like = torch.zeros(1)
    assert tiling_for(like, (64, 64)) == ONE_THREAD_A_TILE
    with debug.checked(simt=True):
        assert tiling_for(like, (128, 20)).tile == 8 and tiling_for(like, (20, 129)).tile == 16
        assert tiling_for(like, (128, 20)).tiles((128, 20)) == 16 * 3
        for side in (64, 256):  # 256 threads of 255 registers, the most that one can have, fit on a multiprocessor
            tiling = tiling_for(like, (side, side))
            assert tiling.tile**2 * tiling.splits <= 256
