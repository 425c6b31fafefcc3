"""1 / x with derivatives of its own: backwards and forwards, for small and large x of either sign."""

from __future__ import annotations

import torch

from tests.comparison import on_every_engine
from tests.probes import assert_agrees, generator, kernel_of


def rows() -> torch.Tensor:
    sizes = 10 ** (6 * torch.rand(200, 1, generator=generator(0), dtype=torch.float64) - 3)
    return sizes * (torch.rand(200, 1, generator=generator(1)) - 0.5).sign()


@on_every_engine
def test_reciprocal(device: str, dtype: torch.dtype) -> None:
    small = rows().sign() * (0.5 + rows().abs() % 2)  # where differences see the slope
    assert_agrees("reciprocal", "reciprocal", lambda x: 1 / x, small, device, dtype)


@on_every_engine
def test_forwards(device: str, dtype: torch.dtype) -> None:
    x = rows().to(device, dtype)
    tangent = torch.linspace(-2, 2, 200, dtype=torch.float64)[:, None].to(x)
    value, slope = torch.empty_like(x), torch.empty_like(x)
    kernel = kernel_of("reciprocal", "reciprocal", x)
    kernel.fwd(inputs=(x, tangent), outputs=(value, slope)).launchRaw(blockSize=(256, 1, 1), gridSize=(1, 1, 1))
    tolerance = 1e-6 if dtype == torch.float32 else 1e-14
    torch.testing.assert_close(value, 1 / x, rtol=tolerance, atol=0)
    torch.testing.assert_close(slope, -tangent / x**2, rtol=2 * tolerance, atol=0)
