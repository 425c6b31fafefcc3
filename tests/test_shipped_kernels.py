"""Every shipped kernel under everything that checks as it runs: debug mode, warps of 32 lanes, sanitizers."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

from slangrast import debug

from .sanitized_process import ROOT, environment
from .shipped_kernels import SCENES, check_all_ran, recorded_kernels, slangc_once

pytestmark = pytest.mark.slow

ENGINES = {
    "release": contextlib.nullcontext,
    "debug": debug.checked,
    "simt": lambda: debug.checked(simt=True),
}
SANITIZERS = ("address,undefined", "thread")
Results = dict[str, list[torch.Tensor]]


@pytest.fixture(scope="module")
def slangc_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What slangc wrote for these tests."""
    return tmp_path_factory.mktemp("slangc")


@pytest.fixture(scope="module")
def results(slangc_folder: Path) -> Results:
    """What each engine makes of the scenes. Side by side, for most of it is compilation."""

    def run(engine: str) -> list[torch.Tensor]:
        with ENGINES[engine]():
            return [tensor for scene in SCENES.values() for tensor in scene()]

    with slangc_once(slangc_folder), recorded_kernels() as launched, ThreadPoolExecutor(len(ENGINES)) as pool:
        found = dict(zip(ENGINES, pool.map(run, ENGINES), strict=True))
    check_all_ran(launched)
    return found


@pytest.mark.parametrize("engine", ["debug", "simt"])
def test_no_fault_and_the_same_results(results: Results, engine: str) -> None:
    for got, expected in zip(results[engine], results["release"], strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-3, atol=1e-5)


@pytest.fixture(scope="module")
def sanitized(results: Results, slangc_folder: Path) -> Iterator[dict[str, subprocess.Popen[str]]]:
    """A run over all scenes for each sanitizer, side by side. It finds there what slangc wrote for `results`."""
    command = [sys.executable, "-m", "tests.shipped_kernels", str(slangc_folder)]
    runs = {}
    try:
        for sanitizer in SANITIZERS:
            with contextlib.suppress(pytest.skip.Exception):
                runs[sanitizer] = subprocess.Popen(
                    command, env=environment(sanitizer), cwd=ROOT, text=True,
                    stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                )  # fmt: skip
        yield runs
    finally:
        for run in runs.values():
            run.kill()
            run.communicate()


@pytest.mark.parametrize("sanitizer", SANITIZERS)
def test_sanitizers_find_nothing(sanitized: dict[str, subprocess.Popen[str]], sanitizer: str) -> None:
    if sanitizer not in sanitized:
        environment(sanitizer)  # says why
    output, _ = sanitized[sanitizer].communicate(timeout=500)
    assert sanitized[sanitizer].returncode == 0, output[-5000:]
    assert "soft_rasterize.bwd" in output and "Sanitizer" not in output and "runtime error" not in output
