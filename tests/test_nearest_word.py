"""The functions of nearest_word.slang: the nearest fragment stays, of equal ones that of the lower number."""

from __future__ import annotations

import pytest
import torch

import slangrast as sr
from slangrast.rasterize import _NO_SMALL
from tests.probes import SHADERS, generator

ENGINES = [("cpu", None), ("cpu", "simt"), pytest.param("cuda", None, marks=pytest.mark.cuda)]
SMALLEST = 2.0**-149


@pytest.mark.parametrize(("device", "engine"), ENGINES, ids=["cpu", "simt", "cuda"])
def test_the_nearest_and_then_the_lowest_stays(device: str, engine: str | None) -> None:
    blocks, threads = 64, 32
    numbers = generator(0)
    few = torch.tensor([-1.0, -0.5, -SMALLEST, -0.0, 0.0, SMALLEST, 0.5, 1.0])
    depths = few[torch.randint(0, 8, (blocks, threads), generator=numbers)]
    depths[::2] = 2 * torch.rand(blocks // 2, threads, generator=numbers) - 1
    depths[1::4] = few[torch.randint(3, 5, (blocks // 4, threads), generator=numbers)]  # zeros of both signs alone
    ids = torch.randint(0, 2**31 - 1, (blocks, threads), generator=numbers, dtype=torch.int32)
    ids[:, :2] = torch.tensor([0, 2**31 - 1], dtype=torch.int32)
    words = torch.full((1, 1, blocks), _NO_SMALL)
    given = [tensor.flatten().to(device) for tensor in (depths, ids)]
    words, found_depths, found_ids = words.to(device), torch.empty_like(given[0]), torch.empty_like(given[1])
    module = sr.load_module(SHADERS / "probe_warps.slang", device=device, engine=engine)
    launch = module.probe_nearest(
        depths=given[0], ids=given[1], words=words, out_depths=found_depths, out_ids=found_ids
    )
    launch.launchRaw(blockSize=(threads, 1, 1), gridSize=(blocks, 1, 1))

    assert torch.equal(found_depths, given[0]) and torch.equal(found_ids, given[1])
    nearest = depths.amin(1, keepdim=True)
    lowest = torch.where(depths == nearest, ids, 2**31 - 1).amin(1)
    high = torch.where(nearest[:, 0] == 0, 0.0, nearest[:, 0]).view(torch.int32).long()
    high = torch.where(high >= 0, high, high ^ 0x7FFFFFFF)
    assert torch.equal(words.flatten().cpu(), (high << 32) + lowest)


def test_nothing_is_beyond_every_fragment() -> None:
    """What a pixel starts from: no triangle, farther than the far plane."""
    low, high = torch.tensor([_NO_SMALL]).view(torch.int32)
    assert low == -1 and high.view(torch.float32) == 2
