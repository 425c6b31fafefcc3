"""The functions of tensors.slang: many threads add to one element, or a warp sums up many values at once."""

from __future__ import annotations

import pytest
import torch

import slangrast as sr
from tests.comparison import on_every_engine
from tests.probes import SHADERS, generator, kernel_of


@on_every_engine
@pytest.mark.parametrize("threads", [32, 256])
def test_add_over_warp(threads: int, device: str, dtype: torch.dtype) -> None:
    """Block b adds to element (b mod 2, b mod 3): all threads count once, and what was there stays."""
    blocks = 60
    # Eighths: a sum is exact in any order.
    values = torch.randint(-80, 80, (blocks, threads), generator=generator(1)).to(dtype) / 8
    sums, layers = torch.full((2, 3), 0.5).to(device, dtype), torch.zeros(2, 1, 3).to(device, dtype)
    launch = kernel_of("screen", "add_over_warp", sums)(values=values.to(device), out_sums=sums, out_layers=layers)
    launch.launchRaw(blockSize=(threads, 1, 1), gridSize=(blocks, 1, 1))

    expected = torch.zeros(2, 3, dtype=dtype)
    for block, value in enumerate(values.sum(dim=1)):
        expected[block % 2, block % 3] += value
    assert torch.equal(sums.cpu(), expected + 0.5)
    assert torch.equal(layers.cpu(), 2 * expected[:, None])


@pytest.mark.parametrize("count", [1, 2, 3, 6, 9, 12, 16, 17, 30, 32])
@pytest.mark.parametrize("engine", ["simt", pytest.param("nvrtc", marks=pytest.mark.cuda)])
def test_sums_of_many_values_over_a_warp(engine: str, count: int) -> None:
    """Every value's sum comes to one lane, and no lane adds twice."""
    module = sr.load_module(SHADERS / "probe_screen.slang", engine=engine, defines={"SUMS": count})
    device = "cpu" if engine == "simt" else "cuda"
    values = torch.randint(-80, 80, (5, 32, count), generator=generator(2)) / 8
    sums = torch.zeros(5, count, device=device)
    launch = module.probe_sum_of_lane(values=values.to(device), sums=sums)
    launch.launchRaw(blockSize=(32, 1, 1), gridSize=(5, 1, 1))
    assert torch.equal(sums.cpu(), values.sum(dim=1))
