"""Kernels run on the threads of torch."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from slangrast.runtime.cpu_threads import torch_team

_TEAM = """
import os, torch
from slangrast.runtime import load_module
torch.set_num_threads(2)
module = load_module({shader!r}, device="cpu")
torch.zeros(1 << 20).add_(1)
before = set(os.listdir("/proc/self/task"))
{launch}
print(len(before), set(os.listdir("/proc/self/task")) == before)
"""


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="threads are counted in /proc")
@pytest.mark.skipif(torch_team() is None, reason="this torch has no OpenMP threads")
def test_kernels_run_on_the_threads_of_torch(tmp_path: Path) -> None:
    shader = tmp_path / "fill.slang"
    shader.write_text(
        "[AutoPyBindCUDA] [CUDAKernel] void fill(TensorView<float> out_x)\n"
        "{ out_x[cudaBlockIdx().x * cudaBlockDim().x + cudaThreadIdx().x] = 1.f; }"
    )
    launch = "x = torch.zeros(1 << 20); module.launch(module.fill(out_x=x), over=(1 << 20,)); assert x.min() == 1"
    program = _TEAM.format(shader=str(shader), launch=launch)
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    threads, are_the_same = done.stdout.split()
    assert int(threads) >= 2 and are_the_same == "True"
