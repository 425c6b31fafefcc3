"""Every shipped kernel with every access checked, one thread after another and as warps of 32 lanes."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from slangrast import debug

from .shipped_kernels import SCENES, check_all_ran, recorded_kernels, slangc_once


@pytest.fixture(scope="module", autouse=True)
def one_run_of_slangc(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with slangc_once(tmp_path_factory.mktemp("slangc")):
        yield


@pytest.mark.slow
@pytest.mark.parametrize("simt", [False, True], ids=["plain", "simt"])
def test_shipped_kernels_have_no_fault_and_the_same_results(simt: bool) -> None:
    with recorded_kernels() as launched:
        for name, scene in SCENES.items():
            # One scene in double is enough: the text is the same.
            dtype = torch.float64 if name == "nearest_color" else torch.float32
            expected = scene(dtype)
            with debug.checked(simt=simt):
                results = scene(dtype)
            rtol, atol = (1e-9, 1e-12) if dtype == torch.float64 else (1e-3, 1e-5)
            for got, wanted in zip(results, expected, strict=True):
                torch.testing.assert_close(got, wanted, rtol=rtol, atol=atol)
    check_all_ran(launched)
