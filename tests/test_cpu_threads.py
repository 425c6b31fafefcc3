"""Kernels run on the threads of torch, however many, but for forked children, in which torch's are gone."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

import slangrast as sr
from slangrast.runtime.cpu_threads import torch_team
from tests import scenes
from tests.comparison import single

TORCHS_THREADS = """
import os
import torch
import slangrast as sr

def threads():
    return len(os.listdir("/proc/self/task"))

torch.set_num_threads(2)
torch.rand(1_000_000).exp()  # starts torch's threads
before = threads()
assert before >= 2
mesh = sr.icosphere(2)
positions = sr.Camera.orbit(3.0, 0.0, 0.0).project(mesh.vertices)
expected = sr.soft_silhouette(positions, mesh.triangles, (256, 256))
assert threads() == before, (threads(), before)
child = os.fork()
if child == 0:  # has none of torch's threads
    image = sr.soft_silhouette(positions, mesh.triangles, (256, 256))
    same = bool((image.numpy() == expected.numpy()).all())  # torch's own operators hang here
    os._exit(0 if same and threads() == 2 else 1)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
"""

FORKED_BEFORE_THE_FIRST_LAUNCH = """
import os
import torch
import slangrast as sr

torch.set_num_threads(2)
mesh = sr.icosphere(2)
positions = sr.Camera.orbit(3.0, 0.0, 0.0).project(mesh.vertices)
torch.rand(1_000_000).exp()
child = os.fork()
if child == 0:
    sr.soft_silhouette(positions, mesh.triangles, (256, 256))
    os._exit(0)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
"""

FORKED_BEFORE_THE_IMPORT = """
import os
import torch

torch.set_num_threads(2)
corners = torch.tensor([[-1.0, -1.0, 0.0, 1.0], [1.0, -1.0, 0.0, 1.0], [0.0, 1.0, 0.0, 1.0]])
triangles = torch.tensor([[0, 1, 2]])
torch.rand(1_000_000).exp()
child = os.fork()
if child == 0:
    import slangrast as sr

    sr.soft_silhouette(corners, triangles, (256, 256))
    os._exit(0)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
"""


# A process that hangs ends by a signal. A child inherits no alarm.
WATCHED = """
import os
import signal

signal.alarm(100)
os.register_at_fork(after_in_child=lambda: signal.alarm(60))
"""


def run(program: str) -> None:
    command = [sys.executable, "-W", "ignore::DeprecationWarning", "-c", WATCHED + program]
    subprocess.run(command, check=True)


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="counts threads in /proc")
@pytest.mark.skipif(torch_team() is None, reason="this torch has no OpenMP threads")
def test_kernels_run_on_the_threads_that_torch_has() -> None:
    """Others would have to share the cores with torch's, which wait for work in a loop. A forked child has its own."""
    run(TORCHS_THREADS)


@pytest.mark.parametrize("program", [FORKED_BEFORE_THE_FIRST_LAUNCH, FORKED_BEFORE_THE_IMPORT])
def test_a_forked_child_has_threads_of_its_own(program: str) -> None:
    run(program)


def test_gradients_are_the_same_from_any_number_of_parts() -> None:
    """With more threads an image's gradients are sums of more parts: of positions, attributes and softness."""
    soup = single(scenes.soup(60, (37, 53)))
    cores = torch.get_num_threads()

    def gradients(threads: int) -> list[torch.Tensor]:
        leaves = [leaf.double().requires_grad_() for leaf in (soup.positions, soup.attributes, torch.tensor(1e-2))]
        torch.set_num_threads(threads)
        image = sr.soft_rasterize(*leaves[:1], soup.triangles, leaves[1], soup.resolution, sigma=leaves[2], gamma=0.1)
        return list(torch.autograd.grad(image.color.square().sum() + image.silhouette.sum(), leaves))

    try:
        expected, *others = (gradients(threads) for threads in (1, 2, 3))
    finally:
        torch.set_num_threads(cores)
    for found in others:
        for one, other in zip(found, expected, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-12 * float(other.abs().max()))
