"""`load_module(..., debug=True)`: what goes wrong in a kernel is an exception that names the line of the shader."""

from __future__ import annotations

import math
import pickle
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

import slangrast as sr
from slangrast.runtime.errors import KernelError

SHADER = Path(__file__).parent / "shaders" / "debug_mode.slang"
IMPORTED = SHADER.with_name("debug_mode_import.slang")
COMPILERS = [name for name in ("clang++", "g++") if shutil.which(name)]
# Every compiler, and both precisions.
BUILDS = [*((compiler, "float32") for compiler in COMPILERS), *((compiler, "float64") for compiler in COMPILERS[:1])]


class Checked:
    """The module in one build, and what its launches raise."""

    def __init__(self, precision: str) -> None:
        self.module = sr.load_module(SHADER, device="cpu", precision=precision, debug=True)
        self.real = torch.float64 if precision == "float64" else torch.float32

    def tensor(self, *values: float) -> torch.Tensor:
        return torch.tensor(values, dtype=self.real)

    def run(self, kernel: str, threads: int = 1, blocks: int = 1, **arguments: object) -> None:
        launchable = self.kernel(kernel)(**arguments)
        launchable.launchRaw(blockSize=(threads, 1, 1), gridSize=(blocks, 1, 1))

    def kernel(self, name: str) -> sr.runtime.Kernel:
        primal, _, derivative = name.partition(".")
        kernel = getattr(self.module, primal)
        return getattr(kernel, derivative) if derivative else kernel

    def fault(self, kernel: str, threads: int = 1, blocks: int = 1, **arguments: object) -> KernelError:
        with pytest.raises(KernelError) as raised:
            self.run(kernel, threads, blocks, **arguments)
        assert raised.value.kernel == kernel
        return raised.value


@pytest.fixture(scope="module", params=BUILDS, ids="-".join)
def checked(request: pytest.FixtureRequest) -> Iterator[Checked]:
    compiler, precision = request.param
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SLANGRAST_CXX", compiler)
        yield Checked(precision)


def assert_at(error: KernelError, what: str, file: Path = SHADER) -> None:
    """The error is at the line with the comment `FAULT what`, and shows it."""
    lines = file.read_text().splitlines()
    line = next(number for number, text in enumerate(lines, 1) if text.endswith(f"// FAULT {what}"))
    (diagnostic,) = error.diagnostics
    assert (diagnostic.file, diagnostic.line) == (str(file), line)
    assert f"{file}:{line}: error: {diagnostic.message}\n    {lines[line - 1]}" in str(error)


def test_a_load_out_of_range(checked: Checked) -> None:
    x, y = torch.ones(8, dtype=checked.real), torch.zeros(8, dtype=checked.real)
    error = checked.fault("shifted", threads=4, blocks=2, x=x, out_y=y, shift=2)
    assert_at(error, "load")
    assert (error.argument, error.index, error.shape) == ("x", (8,), (8,))
    assert (error.block, error.thread) == ((1, 0, 0), (2, 0, 0))
    assert "kernel shifted, block (1, 0, 0), thread (2, 0, 0):" in str(error)
    assert "x[8] is out of range; its shape is (8,)" in str(error)


def test_a_negative_index_is_told_as_such(checked: Checked) -> None:
    x, y = torch.ones(8, dtype=checked.real), torch.zeros(8, dtype=checked.real)
    error = checked.fault("shifted", threads=8, x=x, out_y=y, shift=-3)
    assert error.index == (2**32 - 3,) and "x[4294967293 = -3]" in str(error)


def test_a_store_out_of_range_touches_nothing(checked: Checked) -> None:
    around = torch.zeros(6, dtype=checked.real)
    error = checked.fault("scattered", threads=2, places=torch.tensor([0, 2], dtype=torch.int32), out_y=around[2:4])
    assert_at(error, "store")
    assert (error.argument, error.index, error.shape, error.thread) == ("out_y", (2,), (2,), (1, 0, 0))
    assert around.tolist() == [0, 0, 1, 0, 0, 0]


def test_a_fault_in_an_imported_file(checked: Checked) -> None:
    x, y = torch.ones(2, dtype=checked.real), torch.zeros(2, dtype=checked.real)
    assert_at(checked.fault("imported", threads=2, x=x, out_y=y), "in an imported file", IMPORTED)


def ranks(checked: Checked) -> dict[str, torch.Tensor]:
    return {name: torch.zeros((1,) * rank + (3,), dtype=checked.real) for rank, name in enumerate("abcde")}


@pytest.mark.parametrize(("way", "argument"), list(enumerate("abbccddeacab")))
def test_every_way_to_reach_an_element(checked: Checked, way: int, argument: str) -> None:
    tensors = ranks(checked)
    checked.run("ranks", **tensors, way=way, last=2)
    assert {name: int(t.sum()) for name, t in tensors.items()} == {**dict.fromkeys("abcde", 0), argument: 1}
    error = checked.fault("ranks", **tensors, way=way, last=3)
    rank = tensors[argument].dim()
    assert (error.argument, error.index) == (argument, (0,) * (rank - 1) + (3,))
    assert f"case {way}:" in str(error)  # the source line
    assert tensors[argument].sum() == 1


@pytest.mark.parametrize(("way", "argument", "count"), [(12, "a", 2), (13, "b", 1), (14, "c", 2)])
def test_a_wrong_number_of_dimensions(checked: Checked, way: int, argument: str, count: int) -> None:
    error = checked.fault("ranks", **ranks(checked), way=way, last=0)
    rank = "abcde".index(argument) + 1
    assert (error.argument, len(error.index)) == (argument, count)
    assert f"has {count} index number{'s' * (count > 1)} for {rank} dimension{'s' * (rank > 1)}" in str(error)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_is_found_where_it_is_stored(checked: Checked, bad: float) -> None:
    x, y = checked.tensor(1, bad, 3), checked.tensor(5, 5, 5)
    error = checked.fault("shifted", threads=3, x=x, out_y=y, shift=0)
    assert_at(error, "load")
    assert (error.argument, error.index, error.thread) == ("out_y", (1,), (1, 0, 0))
    assert f"{bad} is stored to out_y[1]" in str(error)
    assert y.tolist() == [1, 5, 5]


def test_what_is_not_finite_is_found_where_it_is_added(checked: Checked) -> None:
    greatest = torch.finfo(checked.real).max
    error = checked.fault("added", threads=2, sums=checked.tensor(1), x=checked.tensor(1, math.nan))
    assert_at(error, "sum")
    assert (error.argument, error.index, error.thread) == ("sums", (0,), (1, 0, 0)) and "nan is added" in str(error)
    error = checked.fault("added", threads=2, sums=checked.tensor(0), x=checked.tensor(greatest, greatest))
    assert "sums[0] becomes inf by what is added to it" in str(error)


def test_what_is_not_finite_in_a_derivative(checked: Checked) -> None:
    x, grad_x, y = checked.tensor(1, 0), checked.tensor(0, 0), checked.tensor(0, 0)
    error = checked.fault("divided", threads=2, x=x, out_y=y, a=1)
    assert_at(error, "quotient")
    assert "inf is stored to out_y[1]" in str(error)
    # The value is infinite, but it is the gradient that is asked about.
    error = checked.fault("divided.bwd", threads=1, x=(x, grad_x), out_y=(y, checked.tensor(math.nan, 1)), a=1)
    assert_at(error, "gradient")
    assert error.argument == "x.grad" and error.index == (0,) and "nan is added to x.grad[0]" in str(error)
    checked.run("divided.bwd", threads=1, x=(x, grad_x), out_y=(y, checked.tensor(1, 1)), a=1)
    assert grad_x.tolist() == [-1, 0]


def test_inputs_may_hold_nan(checked: Checked) -> None:
    x, y = checked.tensor(math.nan, 2, math.inf), checked.tensor(0)
    checked.run("shifted", x=x, out_y=y, shift=1)
    assert y.tolist() == [2]


def test_elements_that_are_never_written(checked: Checked) -> None:
    places, y = torch.tensor([0, 1, 3], dtype=torch.int32), torch.zeros(6, dtype=checked.real)
    error = checked.fault("scattered", threads=3, places=places, out_y=y)
    assert (error.argument, error.index, error.shape) == ("out_y", (2,), (6,))
    assert "out_y[2] is never written, nor are 2 of the other 5 elements" in str(error)
    assert "void scattered(" in str(error)
    assert y.tolist() == [1, 1, 0, 1, 0, 0]  # the launch ran to its end


def test_outputs_that_share_memory_or_have_none_are_written(checked: Checked) -> None:
    places = torch.tensor([0, 1], dtype=torch.int32)
    checked.run("scattered", threads=2, places=places[:1], out_y=torch.zeros(1, dtype=checked.real).expand(6))
    overlapping = torch.zeros(4, dtype=checked.real).as_strided((3, 2), (1, 1)).select(1, 0)
    checked.run("scattered", threads=3, places=torch.tensor([2, 0, 1], dtype=torch.int32), out_y=overlapping)
    checked.run("scattered", threads=2, places=places[:0], out_y=torch.zeros(0, dtype=checked.real))


def test_a_gradient_counted_twice(checked: Checked) -> None:
    x, y = checked.tensor(1, 2, 3, 4), checked.tensor(0, 0)
    error = checked.fault("once", threads=4, x=x, out_y=y, share_x=1, share_y=2)
    assert_at(error, "storeOnce")
    assert (error.argument, error.index, error.thread) == ("out_y", (0,), (1, 0, 0)) and "second time" in str(error)
    pairs = {"x": (x, torch.zeros_like(x)), "out_y": (y, torch.ones_like(y))}
    error = checked.fault("once.bwd", threads=4, **pairs, share_x=1, share_y=2)
    assert_at(error, "storeOnce")
    assert (error.argument, error.index) == ("out_y.grad", (0,)) and "read a second time" in str(error)


def test_a_gradient_overwritten(checked: Checked) -> None:
    x, y = checked.tensor(1, 2), checked.tensor(0, 0, 0, 0)
    checked.run("once", threads=4, x=x, out_y=y, share_x=2, share_y=1)  # two loads are well, until it is differentiated
    pairs = {"x": (x, torch.zeros_like(x)), "out_y": (y, torch.ones_like(y))}
    error = checked.fault("once.bwd", threads=4, **pairs, share_x=2, share_y=1)
    assert_at(error, "loadOnce")
    assert (error.argument, error.index) == ("x.grad", (0,)) and "loadOnce" in str(error)


def test_an_expanded_gradient_is_read_once_for_each_element(checked: Checked) -> None:
    x, grad_x = checked.tensor(1, 2, 3), checked.tensor(0, 0, 0)
    grad_y = checked.tensor(1).expand(3)
    checked.run("once.bwd", 3, x=(x, grad_x), out_y=(torch.zeros_like(x), grad_y), share_x=1, share_y=1)
    assert grad_x.tolist() == [1, 1, 1]


def test_names_inside_structs(checked: Checked) -> None:
    two, three = checked.tensor(1, 2), checked.tensor(1, 2, 3)
    for pair, name in (((two, (three,)), "pair.left"), ((three, (two,)), "pair.right")):
        error = checked.fault("in_struct", threads=3, pair=pair, out_y=torch.zeros_like(three))
        assert (error.argument, error.index, error.shape) == (name, (2,), (2,))


def test_elements_that_are_vectors(checked: Checked) -> None:
    points = torch.arange(6, dtype=checked.real).view(2, 3)
    doubled = torch.zeros_like(points)
    checked.run("points", points=points, out_points=doubled, count=2)
    assert torch.equal(doubled, 2 * points)
    error = checked.fault("points", points=points, out_points=doubled, count=1)
    assert (error.argument, error.index) == ("out_points", (1, 0))
    assert checked.fault("points", points=points, out_points=doubled, count=3).index == (2,)
    error = checked.fault("points", points=points.flatten(), out_points=doubled, count=1)
    assert error.argument == "points" and "elements of 3 values" in str(error)


def test_other_types_and_arguments_that_are_not_checked(checked: Checked) -> None:
    outputs = {"out_half": torch.zeros(1, dtype=torch.half), "out_double": torch.zeros(1, dtype=torch.double)}
    far = torch.zeros(1, dtype=checked.real)
    checked.run("other_types", **outputs, unchecked_far=far, value=2.0)
    assert far.isinf().all()
    assert checked.fault("other_types", **outputs, unchecked_far=far, value=1e6).argument == "out_half"


def test_whole_numbers_divided_by_zero(checked: Checked) -> None:
    y = torch.zeros(2, dtype=torch.int32)
    checked.run("whole_numbers", out_y=y, a=7, b=2)
    assert y.tolist() == [3, 1]
    assert_at(checked.fault("whole_numbers", out_y=y, a=7, b=0), "division")
    error = checked.fault("whole_numbers", out_y=y, a=7, b=-1)
    assert_at(error, "remainder")
    assert "an integer is divided by zero" in str(error) and error.thread == (0, 0, 0)


@pytest.mark.parametrize("k", [4, -1])
def test_an_array_index_out_of_range(checked: Checked, k: int) -> None:
    error = checked.fault("local_array", out_y=torch.zeros(1, dtype=checked.real), k=k)
    assert_at(error, "array")
    assert f"array index {k} is out of range: the array has 4 elements" in str(error)


@pytest.mark.parametrize("threads", [1, 4])
def test_the_launch_stops_at_a_fault_and_the_next_one_runs(checked: Checked, threads: int) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        started, y = torch.zeros(1, dtype=torch.int32), torch.zeros(64 * 1000, dtype=checked.real)
        error = checked.fault("counted", 64, 1000, started=started, out_y=y, bad=64 * 3 + 5)
        assert (error.argument, error.block, error.thread) == ("out_y", (3, 0, 0), (5, 0, 0))
        assert 1 <= int(started) <= 64 * 1000 and (threads > 1 or int(started) == 64 * 3 + 6)
        checked.run("counted", 64, 1000, started=started, out_y=y, bad=-1)
        assert y.sum() == len(y)
    finally:
        torch.set_num_threads(before)


def test_what_a_kernel_prints_comes_in_order(checked: Checked, capfd: pytest.CaptureFixture[str]) -> None:
    print("before")
    checked.run("announced", threads=3, out_y=torch.zeros(3, dtype=checked.real))
    print("after")
    assert capfd.readouterr().out.splitlines() == ["before", "thread 0", "thread 1", "thread 2", "after"]


def test_the_error_survives_pickling(checked: Checked) -> None:
    error = checked.fault("whole_numbers", out_y=torch.zeros(2, dtype=torch.int32), a=1, b=0)
    again = pickle.loads(pickle.dumps(error))
    assert (str(again), again.kernel, again.thread) == (str(error), error.kernel, error.thread)


def test_a_release_build_has_nothing_of_it(checked: Checked) -> None:
    release = sr.load_module(SHADER, device="cpu")
    x, y = torch.tensor([math.nan]), torch.zeros(1)
    release.launch(release.shifted(x=x, out_y=y, shift=0), over=(1,))
    assert y.isnan().all()
    for module, expected in ((release, False), (checked.module, True)):
        library = Path(module._any_build()._library._name).read_bytes()
        assert (b"stop_at" in library, b"caller_site" in library) == (expected, expected)
