"""The function of tensors.slang: many threads add to one element."""

from __future__ import annotations

import pytest
import torch

from tests.comparison import on_every_engine
from tests.probes import generator, kernel_of


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
