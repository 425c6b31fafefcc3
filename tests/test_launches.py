"""Launches: grids, derivatives, threads of the CPU and of Python, forked processes, printing."""

from __future__ import annotations

import itertools
import math
import multiprocessing
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from slangrast import DiffTensorView, Module, load_module
from slangrast.runtime.launch import block_and_grid

SHADERS = Path(__file__).parent / "shaders"
ONE = dict(blockSize=(1, 1, 1), gridSize=(1, 1, 1))


@pytest.fixture(scope="module", params=["cpu", pytest.param("cuda", marks=pytest.mark.cuda)])
def device(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="module")
def module(device: str) -> Module:
    return load_module(SHADERS / "derivatives.slang", device=device, defines={"LITERAL": 0.25})


@pytest.fixture(scope="module")
def on_cpu() -> Module:
    return load_module(SHADERS / "derivatives.slang", device="cpu", defines={"LITERAL": 0.25})


@pytest.fixture
def threads() -> Iterator[None]:
    """Give the number of threads back as it was."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


# Grids.


def place(module: Module, device: str, extent: tuple[int, int, int]) -> tuple[torch.Tensor, torch.Tensor]:
    blocks = torch.full(extent[::-1], -1, dtype=torch.int32, device=device)
    return blocks, torch.full_like(blocks, -1)


def test_every_thread_of_every_block_runs_at_its_place(module: Module, device: str) -> None:
    blocks, threads = place(module, device, (6, 6, 4))
    module.place(out_block=blocks, out_thread=threads).launchRaw(blockSize=(3, 2, 1), gridSize=(2, 3, 4))
    z, y, x = np.indices((4, 6, 6))
    assert blocks.tolist() == (x // 3 + 10 * (y // 2) + 100 * z).tolist()
    assert threads.tolist() == (x % 3 + 10 * (y % 2)).tolist()


@pytest.mark.parametrize("over", [(40,), 40, (40, 20), [40, 20], torch.Size([40, 20]), (12, 12, 9), (np.int64(3), 5)])
def test_launch_over_covers_the_extent(module: Module, device: str, over: object) -> None:
    blocks, threads = place(module, device, (512, 64, 16))
    module.launch(module.place(out_block=blocks, out_thread=threads), over=over)
    extent = (*(over if isinstance(over, (tuple, list)) else (over,)), 1, 1)[:3]
    assert (blocks[: extent[2], : extent[1], : extent[0]] >= 0).all()
    assert (blocks < 0).any()


def test_blocks_are_whole_warps_and_no_larger_than_the_extent_asks() -> None:
    for over in itertools.product((1, 3, 8, 33, 5000), (1, 2, 16, 40), (1, 3, 64)):
        block, grid = block_and_grid(over)
        assert math.prod(block) % 32 == 0 and math.prod(block) <= 256
        assert all(size * count >= length for size, count, length in zip(block, grid, over, strict=True))
    assert block_and_grid((8,)) == ((32, 1, 1), (1, 1, 1)) and block_and_grid((8, 256)) == ((8, 16, 1), (1, 16, 1))


@pytest.mark.parametrize("over", [(), (1, 2, 3, 4), (-1, 2), (1.5, 2), "ab", None])
def test_launch_over_something_else_is_refused(module: Module, device: str, over: object) -> None:
    with pytest.raises(ValueError, match=r"^launch: over must be one to three integers \(width, height, depth\), got"):
        module.launch(module.not_differentiable(y=torch.zeros(1, device=device)), over=over)


@pytest.mark.parametrize(
    ("block", "grid", "message"),
    [
        ((0, 1, 1), (1, 1, 1), "blockSize must be three integers"),
        ((1, 1), (1, 1, 1), "blockSize must be three integers"),
        ((1.0, 1, 1), (1, 1, 1), "blockSize must be three integers"),
        (16, (1, 1, 1), "blockSize must be three integers"),
        ((1, 1, 128), (1, 1, 1), "blockSize must be three integers"),
        ((1, 1, 1), (1, -1, 1), "gridSize must be three integers"),
        ((1, 1, 1), (2**32, 1, 1), "gridSize must be three integers"),
        ((1, 1, 1), (1, 65536, 1), "gridSize must be three integers"),
        ((32, 32, 2), (1, 1, 1), r"a block has at most 1024 threads, got blockSize \(32, 32, 2\)"),
    ],
)
def test_sizes_that_no_gpu_could_launch_are_refused(
    module: Module, device: str, block: object, grid: object, message: str
) -> None:
    with pytest.raises(ValueError, match=f"^launchRaw: {message}"):
        module.not_differentiable(y=torch.zeros(1, device=device)).launchRaw(blockSize=block, gridSize=grid)


def test_an_empty_grid_runs_nothing(module: Module, device: str) -> None:
    y = torch.zeros(1, device=device)
    module.not_differentiable(y=y).launchRaw(blockSize=(1, 1, 1), gridSize=(0, 1, 1))
    module.launch(module.not_differentiable(y=y), over=(0, 5))
    assert y.item() == 0


def test_a_launch_can_be_repeated_and_outlives_the_names_of_its_tensors(module: Module, device: str) -> None:
    counter = torch.zeros(1, dtype=torch.int32, device=device)
    launchable = module.count(counter=counter.view(1), repeats=2)
    for _ in range(3):
        launchable.launchRaw(blockSize=(4, 1, 1), gridSize=(5, 1, 1))
    assert counter.item() == 3 * 4 * 5 * 2


# Derivatives.

X = [0.5, -1.0, 2.0]


def test_backward_against_the_closed_form(module: Module, device: str) -> None:
    x, y = torch.tensor(X, device=device), torch.zeros(3, device=device)
    module.launch(module.scaled_square(x=x, y=y, scale=3.0), over=(3,))
    torch.testing.assert_close(y, 3 * x * x)
    grad_x, grad_y = torch.zeros(3, device=device), torch.tensor([1.0, 10.0, 100.0], device=device)
    module.launch(module.scaled_square.bwd(x=(x, grad_x), y=(y, grad_y), scale=3.0), over=(3,))
    torch.testing.assert_close(grad_x, 6 * x * grad_y)
    assert grad_y.tolist() == [1, 10, 100]  # storeOnce only reads it


def test_forward_against_the_closed_form(module: Module, device: str) -> None:
    x, y = torch.tensor(X, device=device), torch.zeros(3, device=device)
    tangent, out_tangent = torch.tensor([1.0, 10.0, 100.0], device=device), torch.zeros(3, device=device)
    module.launch(module.scaled_square.fwd(x=(x, tangent), y=(y, out_tangent), scale=3.0), over=(3,))
    torch.testing.assert_close(out_tangent, 6 * x * tangent)
    torch.testing.assert_close(y, 3 * x * x)


@pytest.mark.parametrize("form", [tuple, list, lambda pair: DiffTensorView(*pair), lambda pair: (pair[0], (pair[1],))])
def test_a_loop_differentiated_by_slang(module: Module, device: str, form: object) -> None:
    x = torch.tensor(X, dtype=torch.float64, requires_grad=True)
    w = torch.tensor([0.5, -1.0, 0.25, 2.0], dtype=torch.float64, requires_grad=True)
    cotangent = torch.tensor([1.0, -2.0, 3.0], dtype=torch.float64)
    expected = sum(w[k] * x**k for k in range(4))
    expected.backward(cotangent)
    values = {name: t.detach().float().to(device) for name, t in {"x": x, "w": w, "y": expected}.items()}
    gradients = {name: torch.zeros_like(t) for name, t in values.items()}
    gradients["y"] = cotangent.float().to(device)
    arguments = {name: form((values[name], gradients[name])) for name in values}
    module.launch(module.polynomial.bwd(**arguments), over=(3,))
    torch.testing.assert_close(gradients["x"].cpu(), x.grad.float())
    torch.testing.assert_close(gradients["w"].cpu(), w.grad.float())


def test_gradients_of_tensors_in_structs(module: Module, device: str) -> None:
    x, y = torch.tensor(X, device=device), torch.zeros(3, device=device)
    slope, offset = torch.tensor([9.0, 2.0], device=device), torch.tensor([9.0, 1.0], device=device)
    gradients = [torch.zeros(2, device=device) for _ in range(2)]
    grad_x, grad_y = torch.zeros(3, device=device), torch.tensor([1.0, 10.0, 100.0], device=device)
    parameters = module.Affine((slope, gradients[0]), (offset, gradients[1]), 1)
    module.affine(map=parameters, x=x, y=y).launchRaw((3, 1, 1), (1, 1, 1))
    assert y.tolist() == [2, -1, 5]
    module.affine.bwd(map=parameters, x=(x, grad_x), y=(y, grad_y)).launchRaw((3, 1, 1), (1, 1, 1))
    assert grad_x.tolist() == [2, 20, 200]
    assert gradients[0].tolist() == [0, 0.5 - 10 + 200]
    assert gradients[1].tolist() == [0, 111]


@pytest.mark.parametrize("bare", ["x", "w", "y"])
def test_bare_tensors_in_a_derivative_are_harmless(module: Module, device: str, bare: str) -> None:
    values = {"x": torch.tensor(X), "w": torch.tensor([0.5, -1.0]), "y": torch.zeros(3)}
    values = {name: tensor.to(device) for name, tensor in values.items()}
    gradients = {name: torch.ones_like(tensor) for name, tensor in values.items()}
    arguments = {name: values[name] if name == bare else (values[name], gradients[name]) for name in values}
    module.launch(module.polynomial.bwd(**arguments), over=(3,))
    if bare == "y":  # its gradient is zero, then, and nothing is added
        assert gradients["x"].tolist() == [1, 1, 1] and gradients["w"].tolist() == [1, 1]
    assert gradients[bare].tolist() == [1] * len(gradients[bare])
    assert values["x"].tolist() == X


def test_expanded_gradients_of_outputs_are_read(module: Module, device: str) -> None:
    x, y, grad_x = torch.tensor(X, device=device), torch.zeros(3, device=device), torch.zeros(3, device=device)
    module.launch(
        module.scaled_square.bwd(x=(x, grad_x), y=(y, torch.ones((), device=device).expand(3)), scale=1.0), over=(3,)
    )
    torch.testing.assert_close(grad_x, 2 * x)


def test_kernels_without_derivative_say_so(module: Module) -> None:
    for kind in ("bwd", "fwd"):
        with pytest.raises(ValueError, match=r"^not_differentiable has no derivative: mark it with \[Differentiable\]"):
            getattr(module.not_differentiable, kind)
        with pytest.raises(ValueError, match=r"^scaled_square\.bwd has no derivative"):
            getattr(module.scaled_square.bwd, kind)


def test_gradients_are_checked(module: Module, device: str) -> None:
    x, y = torch.zeros(3, device=device), torch.zeros(3, device=device)
    with pytest.raises(
        ValueError, match=r"scaled_square\.bwd: x\.grad must have the shape of its value, \(3,\), got \(4,\)"
    ):
        module.scaled_square.bwd(x=(x, torch.zeros(4, device=device)), y=y, scale=1.0)
    with pytest.raises(ValueError, match=r"scaled_square\.bwd: x\.grad must be a tensor of float32, got float64"):
        module.scaled_square.bwd(x=(x, x.double()), y=y, scale=1.0)
    with pytest.raises(ValueError, match=r"scaled_square: x must be a tensor, \(value, grad\) or DiffTensorView, got"):
        module.scaled_square(x=(x, x, x), y=y, scale=1.0)


# Threads of the CPU, of Python, and processes.


def spin(module: Module, blocks: int, repeats: int) -> torch.Tensor:
    y = torch.linspace(0, 1, blocks)
    module.spin(y=y, repeats=repeats).launchRaw(blockSize=(1, 1, 1), gridSize=(blocks, 1, 1))
    return y


def test_the_number_of_threads_changes_no_result(on_cpu: Module, threads: None) -> None:
    results = []
    for count in (1, 2, 7):
        torch.set_num_threads(count)
        results.append(spin(on_cpu, 1000, 20))
    assert torch.equal(results[0], results[1]) and torch.equal(results[0], results[2])


def test_set_num_threads_is_obeyed(on_cpu: Module, threads: None) -> None:
    """By the processor time of this thread: alone it does all the work, with help a part of it."""

    def shares(count: int) -> tuple[float, float]:
        torch.set_num_threads(count)
        spin(on_cpu, 64, 10)  # the pool's threads start
        mine, all_threads = time.thread_time(), time.process_time()
        spin(on_cpu, 64, 200_000)
        return time.thread_time() - mine, time.process_time() - all_threads

    mine, everything = shares(1)
    assert mine > 0.9 * everything > 0
    mine, everything = shares(2)
    assert mine < 0.8 * everything


@pytest.mark.parametrize("count", [1, 2])
def test_launches_from_several_threads_of_python(on_cpu: Module, threads: None, count: int) -> None:
    """Atomic additions from launches that overlap are all counted, on one thread each too."""
    torch.set_num_threads(count)
    counter, total = torch.zeros(1, dtype=torch.int32), torch.zeros(1)

    blocks, repeats = 20_000, 3  # long enough for launches to overlap

    def work() -> None:
        for _ in range(10):
            on_cpu.count(counter=counter, repeats=repeats).launchRaw(blockSize=(8, 1, 1), gridSize=(blocks, 1, 1))
            on_cpu.add_float(total=total, repeats=1).launchRaw(blockSize=(8, 1, 1), gridSize=(blocks, 1, 1))

    workers = [threading.Thread(target=work) for _ in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert counter.item() == 4 * 10 * blocks * 8 * repeats
    assert total.item() == 4 * 10 * blocks * 8  # below 2**24: a float counts it


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")  # that is the question here
def test_launches_in_forked_children(on_cpu: Module, threads: None) -> None:
    """The pool has threads and is at work in the parent; the children need their own."""
    torch.set_num_threads(2)
    expected = spin(on_cpu, 100, 50)
    stop = threading.Event()

    def keep_busy() -> None:
        while not stop.is_set():
            spin(on_cpu, 100, 500)

    def child(results: multiprocessing.Queue) -> None:
        results.put(bool(torch.equal(spin(on_cpu, 100, 50), expected)))

    busy = threading.Thread(target=keep_busy)
    busy.start()
    try:
        context = multiprocessing.get_context("fork")
        results = context.Queue()
        children = [context.Process(target=child, args=(results,)) for _ in range(3)]
        for process in children:
            process.start()
        assert [results.get(timeout=60) for _ in children] == [True] * 3
        for process in children:
            process.join(timeout=60)
            assert process.exitcode == 0
    finally:
        stop.set()
        busy.join()


def test_print_comes_in_order(module: Module, device: str, capfd: pytest.CaptureFixture) -> None:
    # What is put between the shader's lines stays in a buffer of Python's, as when standard output is a file.
    for number in (1, 2):
        sys.stdout.write(f"python {number}\n")
        module.shout(number=number).launchRaw(**ONE)
        if device == "cuda":
            torch.cuda.synchronize()
    sys.stdout.write("python 3\n")
    printed = capfd.readouterr().out.splitlines()
    assert printed == ["python 1", "shader 1 0.50", "python 2", "shader 2 0.50", "python 3"]


def test_print_reaches_a_pipe_in_order(tmp_path: Path) -> None:
    program = (
        "from slangrast import load_module\n"
        f"module = load_module({str(SHADERS / 'derivatives.slang')!r}, device='cpu', defines={{'LITERAL': 0.25}})\n"
        "print('before')\nmodule.shout(number=1).launchRaw((1, 1, 1), (1, 1, 1))\nprint('after')\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent)},
    )
    assert result.stdout.splitlines() == ["before", "shader 1 0.50", "after"], result.stderr


FIRST_LAUNCHES = """
import torch
import slangrast as sr

torch.set_num_threads(2)
mesh = sr.icosphere(2)
positions = sr.Camera.orbit(3.0, 20.0, 0.0, fov_degrees=45).project(mesh.vertices)
colors = torch.rand(len(mesh.vertices), 13, generator=torch.Generator().manual_seed(0))
first, second = (sr.soft_rasterize(positions, mesh.triangles, colors, (64, 64)) for _ in range(2))
assert all(torch.equal(one, other) for one, other in zip(first, second))
"""


def test_the_first_launch_on_a_thread_is_like_the_second() -> None:
    """A thread's variables are allocated when it first needs them, in the middle of a kernel whose constants lie in
    vector registers. Here fresh memory is filled by vector instructions, as it otherwise is now and then."""
    environment = {**os.environ, "MALLOC_PERTURB_": "128"}
    for _ in range(3):
        subprocess.run([sys.executable, "-c", FIRST_LAUNCHES], check=True, env=environment)
