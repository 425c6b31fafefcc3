"""The functions of warp_runs.slang: neighbours in a warp that add to one element add once."""

from __future__ import annotations

import pytest
import torch

import slangrast as sr
from tests.probes import SHADERS, generator

ENGINES = [("cpu", None), ("cpu", "simt"), pytest.param("cuda", None, marks=pytest.mark.cuda)]
LENGTHS = [1, 2, 3, 7, 31, 32, 33, 200]  # of runs, before they are cut into warps


@pytest.mark.parametrize(("device", "engine"), ENGINES, ids=["cpu", "simt", "cuda"])
@pytest.mark.parametrize("length", LENGTHS)
def test_runs_are_added_once(length: int, device: str, engine: str | None) -> None:
    warps, block = 24, 96
    count = 32 * warps
    numbers = generator(length)

    def in_runs(least: int, end: int) -> torch.Tensor:
        values = torch.randint(least, end, (count,), generator=numbers, dtype=torch.int32)
        return values[torch.arange(count) // length].to(device)

    keys, sets = in_runs(-1, 3), in_runs(0, 2)
    # Eighths: a sum is exact in any order.
    values = (torch.randint(-80, 80, (count, 3), generator=numbers).float() / 8).to(device)
    sums, adds = torch.full((2, 3, 3), 0.5).to(device), torch.empty(count, dtype=torch.int32).to(device)
    module = sr.load_module(SHADERS / "probe_warps.slang", device=device, engine=engine)
    launch = module.probe_runs(keys=keys, sets=sets, values=values, sums=sums, out_adds=adds)
    launch.launchRaw(blockSize=(block, 1, 1), gridSize=(count // block, 1, 1))

    has_key = keys >= 0
    expected = torch.zeros(6, 3).to(device).index_add_(0, (3 * sets + keys)[has_key], values[has_key])
    assert torch.equal(sums, expected.reshape(2, 3, 3) + 0.5)
    lanes = module.warp_size
    pairs = torch.stack([keys, sets], dim=1).reshape(-1, lanes, 2)
    begins = torch.ones(count // lanes, lanes, dtype=torch.bool, device=device)
    begins[:, 1:] = (pairs[:, 1:] != pairs[:, :-1]).any(-1)
    assert torch.equal(adds.bool(), begins.flatten() & has_key)
