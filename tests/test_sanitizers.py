"""`SLANGRAST_SANITIZE`: shipped kernels give the sanitizers nothing to report, and kernels with faults do."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import slangrast as sr
from slangrast.runtime.sanitizers import preloads

ROOT = Path(__file__).parent.parent
SHADER = Path(__file__).parent / "shaders" / "sanitized.slang"
SANITIZERS = ("address,undefined", "thread")
LAUNCHES = {
    "past_the_end": "m.past_the_end(x=torch.ones(8), y=torch.zeros(1)).launchRaw((1, 1, 1), (1, 1, 1))",
    "shift_too_far": "m.shift_too_far(y=torch.zeros(1).int(), k=40).launchRaw((1, 1, 1), (1, 1, 1))",
    "race": "torch.set_num_threads(2); m.race(y=torch.zeros(1).int()).launchRaw((1, 1, 1), (100000, 1, 1))",
}


def environment(sanitizer: str) -> dict[str, str]:
    """That of a process in which the sanitizer works. A skip where the machine has none that does."""
    why = "no C++ compiler"
    for compiler in filter(shutil.which, ("g++",) if sanitizer == "thread" else ("clang++", "g++")):
        try:
            needed = preloads(sanitizer, [compiler])
        except sr.ShaderError as error:
            why = str(error)
            continue
        settings = os.environ | needed | {"SLANGRAST_SANITIZE": sanitizer, "SLANGRAST_CXX": compiler}
        if subprocess.run([sys.executable, "-c", ""], env=settings, capture_output=True).returncode == 0:
            return settings | {"PYTHONPATH": str(ROOT)}
        why = f"Python does not start with the runtime of {compiler} for {sanitizer!r}"
    pytest.skip(why)


@pytest.fixture(scope="module")
def shipped_kernels(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, subprocess.Popen[str]]]:
    """A run over all shipped kernels for each sanitizer, side by side."""
    folder = tmp_path_factory.mktemp("slangc")
    command = [sys.executable, "-m", "tests.shipped_kernels", str(folder)]
    runs = {}
    try:
        for sanitizer in SANITIZERS:
            try:
                settings = environment(sanitizer)
            except pytest.skip.Exception:
                continue
            runs[sanitizer] = subprocess.Popen(
                command, env=settings, cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
            )
        yield runs
    finally:
        for run in runs.values():
            run.kill()
            run.communicate()


@pytest.mark.slow
@pytest.mark.parametrize("sanitizer", SANITIZERS)
def test_shipped_kernels_are_clean(shipped_kernels: dict[str, subprocess.Popen[str]], sanitizer: str) -> None:
    if sanitizer not in shipped_kernels:
        environment(sanitizer)  # says why
    output, _ = shipped_kernels[sanitizer].communicate(timeout=500)
    assert shipped_kernels[sanitizer].returncode == 0, output[-5000:]
    assert "soft_rasterize.bwd" in output and "Sanitizer" not in output and "runtime error" not in output


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
