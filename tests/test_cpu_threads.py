"""Kernels run on the threads of torch, and keep them where torch has been told to keep to one."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from slangrast.demo import bumpy_mesh, render_views, views_around
from slangrast.fitting import FitProgress, FitSettings, fit
from slangrast.mesh import icosphere
from slangrast.runtime import cpu_engine
from slangrast.runtime.cpu_threads import kernel_threads, torch_on_one_thread, torch_team


@pytest.fixture(autouse=True)
def two_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def test_torch_keeps_to_one_thread_and_kernels_do_not() -> None:
    with torch_on_one_thread():
        assert (torch.get_num_threads(), kernel_threads()) == (1, 2)
        with torch_on_one_thread():
            assert (torch.get_num_threads(), kernel_threads()) == (1, 2)
        assert (torch.get_num_threads(), kernel_threads()) == (1, 2)
    assert (torch.get_num_threads(), kernel_threads()) == (2, 2)


def test_one_thread_for_all_stays_one() -> None:
    torch.set_num_threads(1)
    with torch_on_one_thread():
        assert kernel_threads() == 1


def test_an_error_gives_the_threads_back() -> None:
    with pytest.raises(KeyError), torch_on_one_thread():
        raise KeyError
    assert (torch.get_num_threads(), kernel_threads()) == (2, 2)


def test_the_steps_of_a_fit_share_out_kernels_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    launches: list[tuple[int, int]] = []
    second_step: list[tuple[int, int]] = []
    between: list[int] = []

    def spy() -> int:
        launches.append((torch.get_num_threads(), kernel_threads()))
        return kernel_threads()

    def note(progress: FitProgress) -> None:
        between.append(torch.get_num_threads())
        second_step[:] = launches
        launches.clear()

    cameras = views_around(4)
    masks = render_views(bumpy_mesh(3), cameras, 24)[..., 3]
    monkeypatch.setattr(cpu_engine, "kernel_threads", spy)
    fit(masks, cameras, template=icosphere(2), settings=FitSettings(steps=2, levels=1), on_progress=note)
    assert len(second_step) > 4 and set(second_step) == {(1, 2)}
    assert between == [2, 2]


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
