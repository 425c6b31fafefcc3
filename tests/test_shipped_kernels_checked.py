"""Every shipped kernel with every access checked, one thread after another and as warps of 32 lanes."""

from __future__ import annotations

import pytest
import torch

from slangrast import debug

from .shipped_kernels import SCENES, all_kernels, recorded_kernels


@pytest.mark.slow
@pytest.mark.parametrize("simt", [False, True], ids=["plain", "simt"])
def test_shipped_kernels_have_no_fault_and_the_same_results(simt: bool) -> None:
    """Where a kernel is missing here, tests/shipped_kernels.py needs a scene that launches it."""
    with recorded_kernels() as launched:
        for name, scene in SCENES.items():
            # One scene in double is enough: the text is the same.
            dtype = torch.float64 if name == "nearest_color" else torch.float32
            expected = scene(dtype)
            with debug.checked(simt=simt):
                results = scene(dtype)
            rtol, atol = (1e-9, 1e-12) if dtype == torch.float64 else (1e-3, 1e-5)
            for k, (got, wanted) in enumerate(zip(results, expected, strict=True)):
                torch.testing.assert_close(got, wanted, rtol=rtol, atol=atol, msg=lambda m, k=k: f"{name}[{k}]: {m}")
    assert all_kernels() <= launched
