"""`engine="simt"`: a block's threads run together, as warps of 32 lanes with groupshared memory and barriers."""

from __future__ import annotations

import functools
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

import slangrast as sr
from slangrast.runtime.errors import KernelError

SHADER = Path(__file__).parent / "shaders" / "simt.slang"
COMPILERS = [name for name in ("clang++", "g++") if shutil.which(name)]
# Every compiler, both precisions, with and without checks of every access.
BUILDS = [(compiler, "float32", False) for compiler in COMPILERS] + [(COMPILERS[0], "float64", True)]


class Simt:
    def __init__(self, precision: str, debug: bool) -> None:
        self.module = sr.load_module(SHADER, engine="simt", precision=precision, debug=debug)
        self.real = torch.float64 if precision == "float64" else torch.float32
        self.debug = debug

    def run(self, kernel: str, block: tuple[int, int, int], blocks: int = 1, **arguments: object) -> None:
        getattr(self.module, kernel)(**arguments).launchRaw(blockSize=block, gridSize=(blocks, 1, 1))

    def fault(self, kernel: str, block: tuple[int, int, int], **arguments: object) -> KernelError:
        with pytest.raises(KernelError) as raised:
            self.run(kernel, block, **arguments)
        assert raised.value.kernel == kernel
        return raised.value


@pytest.fixture(scope="module", params=BUILDS, ids=lambda p: f"{p[0]}-{p[1]}{'-debug' * p[2]}")
def simt(request: pytest.FixtureRequest) -> Iterator[Simt]:
    compiler, precision, debug = request.param
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SLANGRAST_CXX", compiler)
        yield Simt(precision, debug)


def line_of(what: str) -> int:
    lines = SHADER.read_text().splitlines()
    return next(number for number, text in enumerate(lines, 1) if text.endswith(f"// FAULT {what}"))


def assert_at(error: KernelError, what: str) -> None:
    (diagnostic,) = error.diagnostics
    assert (diagnostic.file, diagnostic.line) == (str(SHADER), line_of(what))
    assert str(diagnostic.source_line()) in str(error)


Values = np.ndarray


def exclusive(operation: Callable, start: float, values: Values) -> list:
    """What precedes each of the values, combined."""
    return [functools.reduce(operation, values[:k], start) for k in range(len(values))]


def bits_of(lanes: Values, condition: Values) -> int:
    return sum(1 << int(lane) for lane, holds in zip(lanes, condition, strict=True) if holds)


def signed(mask: int) -> int:
    return mask - 2**32 if mask >= 2**31 else mask


def expected_waves(lanes: Values, a: Values, b: Values) -> tuple[list[Values], list[Values]]:
    """What the kernel `waves` writes for the lanes of one warp that take part, column by column."""
    every, big = np.ones(len(lanes)), b > 3
    everyone = bits_of(lanes, every)
    floats = [
        a.sum() * every, a.prod() * every, a.min() * every, a.max() * every,
        exclusive(np.add, 0, a), exclusive(np.multiply, 1, a), a[0] * every, 3 * a.sum() * every,
        exclusive(np.add, 0, 2 * a), 4 * a.sum() * every, -2 * a.min() * every,
    ]  # fmt: skip
    ints = [
        b.sum() * every, np.bitwise_and.reduce(b) * every, np.bitwise_or.reduce(b) * every,
        np.bitwise_xor.reduce(b) * every, exclusive(np.add, 0, b), b.min() * every, signed(bits_of(lanes, big)) * every,
        big.sum() * every, exclusive(np.add, 0, big.astype(int)), [signed(bits_of(lanes, b == own)) for own in b],
        every, big.all() * every, big.any() * every, 0 * every, (b == b[0]).all() * every, every, lanes == lanes[0],
        lanes, 32 * every, signed(everyone) * every, signed(everyone) * every,
    ]  # fmt: skip
    return [np.asarray(column, float) for column in floats], [np.asarray(column, float) for column in ints]


@pytest.mark.parametrize("which", ["all", "some", "one"])
def test_every_wave_operation(simt: Simt, which: str) -> None:
    threads = 80  # two whole warps and a half one
    generator = np.random.default_rng(3)
    a = generator.uniform(0.8, 1.25, threads)
    b = generator.integers(0, 9, threads)
    part = {"all": np.ones(threads), "some": generator.integers(0, 2, threads), "one": np.arange(threads) % 32 == 9}[
        which
    ]
    floats, ints = torch.zeros(threads, 11, dtype=simt.real), torch.zeros(threads, 21, dtype=torch.int32)
    arguments = {"x": torch.tensor(a, dtype=simt.real), "n": torch.tensor(b, dtype=torch.int32)}
    arguments["taking_part"] = torch.tensor(part.astype(np.int32))
    simt.run("waves", (10, 4, 2), **arguments, floats=floats, ints=ints)
    for first in range(0, threads, 32):
        lanes = np.flatnonzero(part[first : first + 32])
        for got, columns in zip((floats, ints), expected_waves(lanes, a[first + lanes], b[first + lanes]), strict=True):
            for k, column in enumerate(columns):
                what = f"column {k} of the {got.dtype} results of warp {first // 32}"
                np.testing.assert_allclose(got[first + lanes, k].double().numpy(), column, 1e-5, err_msg=what)
    assert floats[part == 0].eq(0).all() and ints[part == 0].eq(0).all()


def test_reads_of_other_lanes_and_masks(simt: Simt) -> None:
    threads = 64
    a = np.random.default_rng(4).uniform(0.8, 1.25, threads)
    floats, ints = torch.zeros(threads, 17, dtype=simt.real), torch.zeros(threads, 8, dtype=torch.int32)
    simt.run("shuffles", (threads, 1, 1), x=torch.tensor(a, dtype=simt.real), out_floats=floats, out_ints=ints)
    lane = np.arange(32)
    for first in (0, 32):
        w = a[first : first + 32]
        columns = [
            np.full(32, w[5]), w[(lane * 7 + 3) % 32], np.full(32, 2 * w[5]), w[(lane + 3) % 32],
            w[lane // 8 * 8 + (lane + 3) % 8], w[lane // 4 * 4 + 2], w[lane ^ 1], w[lane ^ 2], w[lane ^ 3],
        ]  # fmt: skip
        halves = [w[0::2], w[1::2]]
        per_half = [
            np.cumsum, lambda h: exclusive(np.add, 0, h), np.minimum.accumulate, np.maximum.accumulate,
            lambda h: exclusive(np.maximum, -1, h), lambda h: h.sum() + 0 * h, lambda h: h.max() + 0 * h,
            np.cumprod,
        ]  # fmt: skip
        columns += [np.stack([np.asarray(f(half)) for half in halves], 1).ravel() for f in per_half]
        got = floats[first : first + 32].double().numpy()
        np.testing.assert_allclose(got, np.stack(columns, 1), 1e-5)

        own = [lane[0::2], lane[1::2]]
        of_lanes = [
            np.bitwise_or.accumulate, lambda h: exclusive(np.bitwise_and, -1, h),
            lambda h: exclusive(np.bitwise_xor, 0, h), lambda h: exclusive(np.add, 0, (h > 3).astype(int)),
        ]  # fmt: skip
        whole = [np.stack([np.asarray(f(half)) for half in own], 1).ravel() for f in of_lanes]
        whole += [lane // 4 == 1, lane // 4 != 1, lane < 2]
        whole += [np.array([signed(bits_of(own[k % 2], own[k % 2] > 20)) for k in lane])]
        np.testing.assert_array_equal(ints[first : first + 32].numpy(), np.stack(whole, 1))


def test_lanes_that_part_and_meet_again(simt: Simt) -> None:
    threads, count = 96, 75
    counts = torch.full((threads,), -1, dtype=torch.int32)
    simt.run("control_flow", (threads, 1, 1), out_counts=counts[:count], count=count)
    expected = []
    for i in range(count):
        lane, lanes = i % 32, range(min(32, count - i // 32 * 32))
        there = [lane_ for k in range(min(lane, 20)) if k != 7 for lane_ in lanes if lane_ > k]  # a wave for each k
        alike = sum(other % 2 == lane % 2 for other in lanes)
        third = sum(other % 3 == lane % 3 for other in lanes)
        total = len(there) + 1000 * alike + lane % 2 + 100000 * {0: third, 1: 1, 2: 2 * third}[lane % 3]
        expected.append(total + 10000000 * len(lanes))
    assert counts.tolist() == expected + [-1] * (threads - count)


@pytest.mark.parametrize("size", [256, 1024, 32])
def test_groupshared_memory_and_barriers(simt: Simt, size: int) -> None:
    blocks = 37
    x = torch.rand(blocks * size, dtype=simt.real)
    sums, counts = torch.zeros(blocks, dtype=simt.real), torch.zeros(blocks, dtype=torch.int32)
    for _ in range(2):  # fibers are used again
        simt.run("block_sums", (size, 1, 1), blocks, x=x, out_sums=sums, out_counts=counts)
        torch.testing.assert_close(sums, x.view(blocks, size).sum(1))
        assert counts.eq(size).all()


def test_a_barrier_that_some_threads_pass_by(simt: Simt) -> None:
    y = torch.zeros(64, dtype=torch.int32)
    error = simt.fault("barrier_in_a_branch", (64, 1, 1), out_y=y, count=40)
    assert_at(error, "barrier")
    assert "40 threads of the block wait at this barrier and 24 have left the kernel" in str(error)
    assert (error.block, error.thread) == ((0, 0, 0), (0, 0, 0))
    simt.run("barrier_in_a_branch", (64, 1, 1), out_y=y, count=64)
    assert y.tolist() == list(range(64))


def test_two_barriers_are_not_one(simt: Simt) -> None:
    error = simt.fault("two_barriers", (64, 1, 1), out_y=torch.zeros(64, dtype=torch.int32))
    assert_at(error, "first barrier")
    assert f"24 wait elsewhere ({SHADER}:{line_of('second barrier')})" in str(error)


def test_a_barrier_against_a_wave_operation(simt: Simt) -> None:
    error = simt.fault("barrier_against_wave", (32, 1, 1), out_y=torch.zeros(32, dtype=torch.int32))
    assert_at(error, "barrier against wave")
    assert f"28 wait elsewhere ({SHADER}:{line_of('wave against barrier')})" in str(error)


def test_a_wave_operation_after_a_return(simt: Simt) -> None:
    error = simt.fault("return_before_wave", (32, 1, 1), out_y=torch.zeros(32, dtype=torch.int32))
    assert_at(error, "after a return")
    assert "lanes 0-5 wait at this wave operation (sum) and lanes 6-31, which its mask names too" in str(error)


def test_masks_that_name_the_wrong_lanes(simt: Simt) -> None:
    y = torch.zeros(32, dtype=torch.int32)
    error = simt.fault("wrong_masks", (32, 1, 1), out_y=y, mask=0x3FFFF)
    assert_at(error, "mask")
    assert "lanes 0-15 wait at this wave operation (sum) and lanes 16-17, which its mask names too" in str(error)
    error = simt.fault("wrong_masks", (32, 1, 1), out_y=y, mask=0x7FFF)
    assert_at(error, "mask")
    assert error.thread == (15, 0, 0) and "whose mask names only lanes 0-14" in str(error)
    simt.run("wrong_masks", (32, 1, 1), out_y=y, mask=0xFFFF)
    assert y.tolist() == [16] * 16 + [0] * 16


def test_checks_of_every_access_work_there_too(simt: Simt) -> None:
    if not simt.debug:
        return
    x, y = torch.ones(64, dtype=simt.real), torch.zeros(64, dtype=simt.real)
    error = simt.fault("loads", (64, 1, 1), x=x, out_y=y)
    assert_at(error, "load")
    assert (error.argument, error.index, error.thread) == ("x", (64,), (63, 0, 0))
    error = simt.fault("loads", (64, 1, 1), x=torch.cat([x, 0 * x]), out_y=y)
    assert "inf is stored to out_y[63]" in str(error)
    assert_at(simt.fault("beyond_shared", (1, 1, 1), out_y=y[:1], place=1024), "groupshared")


def test_derivatives(simt: Simt) -> None:
    x, scale, y = torch.rand(64, dtype=simt.real), torch.rand(1, dtype=simt.real), torch.zeros(64, dtype=simt.real)
    grad_x, grad_scale, grad_y = torch.zeros_like(x), torch.zeros_like(scale), torch.rand_like(y)
    launchable = simt.module.scaled.bwd(x=(x, grad_x), scale=(scale, grad_scale), out_y=(y, grad_y))
    launchable.launchRaw(blockSize=(64, 1, 1), gridSize=(1, 1, 1))
    torch.testing.assert_close(grad_x, scale * grad_y)
    torch.testing.assert_close(grad_scale, (x * grad_y).sum(0, keepdim=True))


def test_what_lanes_print_comes_in_order(simt: Simt, capfd: pytest.CaptureFixture[str]) -> None:
    print("before")
    simt.run("announced", (32, 1, 1), out_y=torch.zeros(32, dtype=torch.int32))
    print("after")
    lines = ["before", *(f"lane {lane}" for lane in range(32)), "sum 496", "after"]
    assert capfd.readouterr().out.splitlines() == lines


def test_the_plain_engine_names_this_one(tmp_path: Path) -> None:
    with pytest.raises(sr.ShaderError, match="engine='simt'"):
        sr.load_module(SHADER, device="cpu")
