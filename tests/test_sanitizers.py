"""`SLANGRAST_SANITIZE`: the sanitizers find what is wrong in a kernel. (Shipped kernels: test_shipped_kernels.py.)"""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import slangrast as sr

from .sanitized_process import ROOT, environment

SHADER = Path(__file__).parent / "shaders" / "sanitized.slang"
LAUNCHES = {
    "past_the_end": "m.past_the_end(x=torch.ones(8), y=torch.zeros(1)).launchRaw((1, 1, 1), (1, 1, 1))",
    "shift_too_far": "m.shift_too_far(y=torch.zeros(1).int(), k=40).launchRaw((1, 1, 1), (1, 1, 1))",
    "race": "torch.set_num_threads(2); m.race(y=torch.zeros(1).int()).launchRaw((1, 1, 1), (100000, 1, 1))",
}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("sanitizer", "kernel", "finding"),
    [
        ("address,undefined", "past_the_end", "heap-buffer-overflow"),
        ("address,undefined", "shift_too_far", "shift exponent 40 is too large"),
        ("thread", "race", "data race"),
    ],
)
def test_a_fault_is_found_in_its_line(sanitizer: str, kernel: str, finding: str) -> None:
    settings = environment(sanitizer)
    program = f"import torch, slangrast; m = slangrast.load_module({str(SHADER)!r}, device='cpu'); {LAUNCHES[kernel]}"
    result = subprocess.run([sys.executable, "-c", program], env=settings, cwd=ROOT, text=True, capture_output=True)
    assert result.returncode != 0
    what = {"past_the_end": "address", "shift_too_far": "undefined", "race": "thread"}[kernel]
    lines = SHADER.read_text().splitlines()
    line = next(number for number, text in enumerate(lines, 1) if text.endswith(f"// FAULT {what}"))
    assert finding in result.stderr and f"sanitized.slang:{line}" in result.stderr, result.stderr[-5000:]


def test_only_known_sanitizers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLANGRAST_SANITIZE", "memory")
    with pytest.raises(ValueError, match=r"SLANGRAST_SANITIZE must be one of 'address', .*, got 'memory'"):
        sr.load_module(SHADER, device="cpu")


def test_the_error_says_how_to_start(monkeypatch: pytest.MonkeyPatch) -> None:
    if not shutil.which("g++"):
        pytest.skip("needs g++, which brings its runtime")
    monkeypatch.setenv("SLANGRAST_CXX", "g++")
    monkeypatch.setenv("SLANGRAST_SANITIZE", "address")
    with pytest.raises(
        sr.ShaderError, match=r"SLANGRAST_SANITIZE=address LD_PRELOAD=/\S*libasan\S* ASAN_OPTIONS=\S+ python"
    ):
        sr.load_module(SHADER, device="cpu")


def test_fibers_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLANGRAST_SANITIZE", "undefined")
    with pytest.raises(sr.ShaderError, match="run them with engine='cpu'"):
        sr.load_module(SHADER, engine="simt")
