"""The host prelude: every intrinsic that slangc can emit, compiled by each compiler there is, in both precisions."""

from __future__ import annotations

import math
import shutil
import struct
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

import slangrast as sr

SHADERS = Path(__file__).parent / "shaders"
COMPILERS = [name for name in ("clang++", "g++") if shutil.which(name)]
EXACT = {torch.float64: 1e-14, torch.float32: 1e-6, torch.float16: 2e-3}


class Program:
    """One compiler and one precision; `program.run` launches a kernel of a probe shader."""

    def __init__(self, precision: str) -> None:
        self.precision = precision
        self.real = torch.float64 if precision == "float64" else torch.float32
        self._modules: dict[str, sr.Module] = {}

    def module(self, shader: str) -> sr.Module:
        if shader not in self._modules:
            self._modules[shader] = sr.load_module(str(SHADERS / f"prelude_{shader}.slang"), precision=self.precision)
        return self._modules[shader]

    def run(self, shader: str, kernel: str, threads: int = 1, **arguments: object) -> None:
        block = min(threads, 64)
        launch = getattr(self.module(shader), kernel)(**arguments)
        launch.launchRaw(blockSize=(block, 1, 1), gridSize=(-(-threads // block), 1, 1))

    def tensor(self, values: object) -> torch.Tensor:
        return torch.tensor(values, dtype=self.real)

    def zeros(self, *shape: int) -> torch.Tensor:
        return torch.zeros(shape, dtype=self.real)

    def floats(self, name: str) -> torch.dtype:
        """The dtype behind a kernel for `float`, `double` or `half`."""
        return {"float": self.real, "double": torch.float64, "half": torch.float16}[name]


@pytest.fixture(params=[(c, p) for c in COMPILERS for p in ("float32", "float64")], ids="-".join)
def program(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Program:
    compiler, precision = request.param
    monkeypatch.setenv("SLANGRAST_CXX", compiler)
    return Program(precision)


def assert_close(
    got: torch.Tensor, expected: object, dtype: torch.dtype, what: str = "", rtol: float | None = None
) -> None:
    tolerance = EXACT[dtype] if rtol is None else rtol
    with np.errstate(over="ignore"):  # half has a short range: what passes it is infinite
        wanted = np.asarray(expected, dtype=np.float64).astype(torch.empty(0, dtype=dtype).numpy().dtype)
    # NaN equals NaN here.
    np.testing.assert_allclose(got.double().numpy(), wanted.astype(float), tolerance, tolerance / 4, err_msg=what)


Real = np.ndarray
UNARY: dict[str, Callable[[Real], Real]] = {
    "abs": np.abs, "ceil": np.ceil, "floor": np.floor, "trunc": np.trunc,
    "round": lambda x: np.trunc(x + np.copysign(0.5, x)), "frac": lambda x: x - np.floor(x),
    "sqrt": np.sqrt, "rsqrt": lambda x: 1 / np.sqrt(x), "exp": np.exp, "exp2": np.exp2, "log": np.log, "log2": np.log2,
    "log10": np.log10, "sin": np.sin, "cos": np.cos, "tan": np.tan, "asin": np.arcsin, "acos": np.arccos,
    "atan": np.arctan, "sinh": np.sinh, "cosh": np.cosh, "tanh": np.tanh, "asinh": np.arcsinh, "acosh": np.arccosh,
    "atanh": np.arctanh, "rcp": lambda x: 1 / x, "saturate": lambda x: np.clip(x, 0, 1), "sign": np.sign,
    "isnan": np.isnan, "isinf": np.isinf, "isfinite": np.isfinite, "sincos.x": np.sin, "sincos.y": np.cos,
    "modf": lambda x: np.modf(x)[0], "modf whole": lambda x: np.modf(x)[1], "exp10": lambda x: 10.0**x,
}  # fmt: skip
# Slang's own exp10 multiplies by ln 10 as a float, in half even by that rounded to half.
LOOSE = {"exp10": {torch.float64: 1e-5, torch.float32: 1e-5, torch.float16: 2e-2}}


@pytest.mark.parametrize("name", ["float", "double", "half"])
def test_unary_intrinsics_agree_with_numpy(program: Program, name: str) -> None:
    dtype = program.floats(name)
    inputs = [-math.inf, -20.0, -2.5, -1.5, -1.0, -0.75, -0.5, -0.0]
    inputs += [0.0, 1e-3, 0.3, 0.5, 0.75, 1.0, 1.5, 2.5, 3.7, 20.0, math.inf]
    values = torch.tensor(inputs, dtype=dtype)
    results = torch.zeros(len(inputs), len(UNARY), dtype=dtype)
    program.run("scalars", f"unary_{name}", len(inputs), values=values, results=results)
    x = values.double().numpy()
    with np.errstate(all="ignore"):
        for column, (what, function) in enumerate(UNARY.items()):
            rtol = LOOSE.get(what, EXACT)[dtype]
            assert_close(results[:, column], function(x), dtype, f"{what} of {name}", rtol)


def test_lanes_are_summed_as_a_tree(program: Program) -> None:
    """Half of them to the other half: to the bit, since sums repeat whatever the compiler."""
    rows = torch.rand(5, 16, dtype=program.real, generator=torch.Generator().manual_seed(0)) - 0.5
    sums, expected = program.zeros(5), rows
    program.run("lane_sums", "sum_rows", len(rows), rows=rows, out_sums=sums)
    while expected.shape[1] > 1:
        low, high = expected.chunk(2, dim=1)
        expected = low + high
    assert torch.equal(sums, expected[:, 0])


@pytest.mark.parametrize("name", ["float", "double", "half"])
def test_binary_intrinsics_agree_with_numpy(program: Program, name: str) -> None:
    dtype = program.floats(name)
    numbers = [-2.5, -1.25, -0.3, 0.0, 0.4, 1.0, 2.0, 3.5]
    pairs = [(a, b) for a in numbers for b in numbers if b != 0] + [(math.nan, 1.0), (2.0, math.nan)]
    values, others = (torch.tensor(side, dtype=dtype) for side in zip(*pairs, strict=True))
    results = torch.zeros(len(pairs), 19, dtype=dtype)
    program.run("scalars", f"binary_{name}", len(pairs), values=values, others=others, results=results)
    x, y = values.double().numpy(), others.double().numpy()
    with np.errstate(all="ignore"):
        t = np.fmin(np.fmax((x + 1) / (y + 1), 0), 1)
        expected = {
            "+": x + y, "-": x - y, "*": x * y, "/": x / y, "fmod": np.fmod(x, y), "%": np.fmod(x, y),
            "min": np.fmin(x, y), "max": np.fmax(x, y), "pow": np.power(x, y), "atan2": np.arctan2(x, y),
            "step": np.where(y < x, 0, 1), "fma": x * y + 0.375, "mad": x * y + 0.375, "lerp": x + (y - x) * 0.25,
            "smoothstep": t * t * (3 - 2 * t), "clamp": np.fmin(np.fmax(x, -0.5), y), "<": x < y, "==": x == y,
            "-x": -x,
        }  # fmt: skip
    for column, (what, wanted) in enumerate(expected.items()):
        # A difference of two rounded numbers can lose a few more places.
        assert_close(results[:, column], wanted, dtype, f"{what} of {name}", 4 * EXACT[dtype])


def test_conversions_to_short_floats_round_to_nearest_even(program: Program) -> None:
    spread = np.random.standard_normal(4000) * 2.0 ** np.random.randint(-30, 20, 4000)
    # Halfway between two halves or bfloat16s, and a little beside: too little for a float to tell.
    ties = [1 + 2**-11, 1 + 3 * 2**-11, 1 + 2**-11 + 2**-40, 1 + 2**-9 + 2**-45, 1 + 2**-8, 1 + 2**-8 + 2**-45]
    ends = [2049.0, 65519.999, 65520.0, 2**-24, 2**-25, 2**-25 * (1 + 2**-40), 2**-14, 2**-14 - 2**-25, 1e300]
    values = torch.tensor([*spread, *ties, *ends, 0.0, -0.0, math.inf, -math.inf, math.nan], dtype=torch.float64)
    halves = torch.zeros(len(values), 2, dtype=torch.float16)
    bfloats = torch.zeros(len(values), 2, dtype=torch.bfloat16)
    program.run("scalars", "shorten", len(values), values=values, halves=halves, bfloats=bfloats)
    x = values.numpy()
    with np.errstate(over="ignore", invalid="ignore"):
        from_double, from_float = x.astype(np.float16), x.astype(np.float32).astype(np.float16)
    # Where the shader's float is a double, its detour through float rounds only once.
    from_float = from_double if program.precision == "float64" else from_float
    np.testing.assert_array_equal(halves[:, 0].numpy(), from_double)
    np.testing.assert_array_equal(halves[:, 1].numpy(), from_float)
    assert torch.equal(bfloats[:, 0].nan_to_num(nan=-7.0), _to_bfloat16(values).nan_to_num(nan=-7.0))
    if program.precision == "float32":
        assert torch.equal(bfloats[:, 1].nan_to_num(nan=-7.0), values.float().bfloat16().nan_to_num(nan=-7.0))

    results = torch.zeros(len(values), 4, dtype=torch.float64)
    half, bfloat = halves[:, 0].contiguous(), bfloats[:, 0].contiguous()
    program.run("scalars", "lengthen", len(values), halves=half, bfloats=bfloat, results=results)
    for column, source in enumerate([half, half, bfloat, bfloat]):
        np.testing.assert_array_equal(results[:, column].numpy(), source.double().numpy())


def _to_bfloat16(values: torch.Tensor) -> torch.Tensor:
    """Rounded once, by choosing the nearer of two neighbours in exact arithmetic (torch goes through float)."""
    guess = values.bfloat16()
    bits = guess.view(torch.int16)
    candidates = torch.stack([guess, (bits + 1).view(torch.bfloat16), (bits - 1).view(torch.bfloat16)])
    distance = (candidates.double() - values).abs().nan_to_num(nan=math.inf)
    odd = (candidates.view(torch.int16) & 1).double()
    best = (distance + odd * 1e-300).argmin(0)
    nearest = candidates.gather(0, best[None])[0]
    return torch.where(guess.isfinite() & (guess != 0), nearest, guess)


def _wrap(value: int, bits: int, signed: bool) -> int:
    value &= (1 << bits) - 1
    return value - (1 << bits) if signed and value >> (bits - 1) else value


def _divide(a: int, b: int) -> tuple[int, int]:
    """Quotient and remainder of C: towards zero."""
    quotient = abs(a) // abs(b) * (1 if (a < 0) == (b < 0) else -1)
    return quotient, a - quotient * b


def _arithmetic(a: int, b: int, bits: int, signed: bool, *, promoted: bool = False) -> list[int]:
    """What slangc's expressions give. `promoted`: a scalar narrower than int becomes an int, as in C and on CUDA."""
    x, y = _wrap(a, bits, signed), _wrap(b, bits, signed)
    quotient, remainder = _divide(x, y)
    results = [x + y, x - y, x * y, quotient, remainder, x & y, x | y, x ^ y, ~x, x << 3, x >> 2]
    if bits < 32 and promoted:
        bits, signed = 32, True
    return [_wrap(r, bits, signed) for r in results] + [int(x < y), int(x == y)]


def _bit_questions(a: int, b: int, bits: int, signed: bool) -> list[int]:
    x, y = _wrap(a, bits, signed), _wrap(b, bits, signed)
    pattern = _wrap(x, bits, False)
    # CUDA's prelude looks for the highest bit of 32 unsigned bits as if they had a sign.
    from_sign = ~x if x < 0 else _wrap(~x, bits, False) if bits == 32 and pattern >> 31 else pattern
    high = from_sign.bit_length() - 1 if from_sign else 0xFFFFFFFF
    low = (pattern & -pattern).bit_length() - 1 if pattern else 0xFFFFFFFF
    turned = _wrap(int(format(pattern, f"0{bits}b")[::-1], 2), bits, signed)
    return [min(x, y), max(x, y), min(max(x, 0), y), pattern.bit_count(), low, high, turned]


def test_integer_intrinsics_agree_with_exact_arithmetic(program: Program) -> None:
    pairs = [(5, 3), (0, 7), (-6, 4), (100, -9), (123456789, 1000), (-(2**40) - 5, 77)]
    pairs += [(2**63 - 1, 2**33 + 1), (2**31, 12345)]
    values, others = (torch.tensor(side, dtype=torch.int64) for side in zip(*pairs, strict=True))
    expected = []
    kinds = [(8, True), (8, False), (16, True), (16, False), (32, True), (32, False), (64, True), (64, False)]
    for a, b in pairs:
        row = [r for bits, signed in kinds for r in _arithmetic(a, b, bits, signed, promoted=True)]
        row += [r for bits, signed in kinds[4:] for r in _bit_questions(a, b, bits, signed)]
        narrow = _wrap(a, 32, True)
        row += [abs(narrow) if narrow != -(2**31) else narrow, abs(a), (narrow > 0) - (narrow < 0)]
        row += [(a & 0xFF).bit_count(), (a & 0xFFFF).bit_count()]
        expected.append([_wrap(r, 64, True) for r in row])
    results = torch.zeros(len(pairs), len(expected[0]), dtype=torch.int64)
    program.run("scalars", "integers", len(pairs), values=values, others=others, results=results)
    np.testing.assert_array_equal(results.numpy(), np.array(expected))


def test_bits_of_floats_are_those_of_32_bit_floats_in_every_precision(program: Program) -> None:
    numbers = [0.0, 1.0, -2.5, 0.1, 1e-3, 65504.0]
    values = program.tensor(numbers)
    patterns, results = torch.zeros(len(numbers), 7, dtype=torch.int32), program.zeros(len(numbers), 10)
    program.run("scalars", "float_bits", len(numbers), values=values, patterns=patterns, results=results)
    for row, x in enumerate(numbers):
        bits = struct.unpack("i", struct.pack("f", x))[0]
        half_bits = struct.unpack("H", struct.pack("e", np.float16(x)))[0]
        assert patterns[row].tolist() == [bits, bits, bits, half_bits, half_bits, bits, 0x40000000]
        single, half = float(np.float32(x)), float(np.float16(x))
        mantissa, exponent = math.frexp(float(values[row]))
        expected = [single, single, single, half, single, half, math.copysign(2.5, x), mantissa, exponent]
        assert results[row].tolist() == [*expected, float(values[row]) * 8]


def test_bits_of_doubles(program: Program) -> None:
    values = torch.tensor([1.0, -math.pi, 1e-300], dtype=torch.float64)
    patterns, results = torch.zeros(3, 2, dtype=torch.int32), torch.zeros(3, 2, dtype=torch.float64)
    program.run("scalars", "double_bits", 3, values=values, patterns=patterns, results=results)
    assert torch.equal(patterns.flatten(), values.view(torch.int32))
    assert torch.equal(results, values[:, None].expand(3, 2))


def test_elementary_functions_are_within_two_ulp_over_the_whole_range(program: Program) -> None:
    count, stride = 1 << 20, 4097  # an odd stride: the low bits vary as well
    results = program.zeros(6, count)
    program.run("scalars", "elementary", count, stride=stride, results=results)
    dtype = results.numpy().dtype
    tiny = np.finfo(dtype).tiny
    functions = {"exp": np.exp, "exp2": np.exp2, "log": np.log, "log2": np.log2, "log10": np.log10, "tanh": np.tanh}
    with np.errstate(all="ignore"):
        x = (np.arange(count, dtype=np.uint64) * stride).astype(np.uint32).view(np.float32).astype(np.float64)
        for got, (what, function) in zip(results.numpy(), functions.items(), strict=True):
            exact = function(x)
            nearest = exact.astype(dtype)
            np.testing.assert_array_equal(np.isnan(got), np.isnan(nearest), err_msg=what)
            np.testing.assert_array_equal(np.isinf(got), np.isinf(nearest), err_msg=what)
            # Below the least normal number a result may be flushed to zero.
            normal = np.isfinite(nearest) & (np.abs(nearest) >= tiny)
            ulps = np.abs(got[normal] - exact[normal]) / np.spacing(np.abs(nearest[normal]))
            assert ulps.max() <= 2.0, f"{what} is {ulps.max()} ulp off at {x[normal][ulps.argmax()]}"
            assert (np.abs(got[np.isfinite(nearest) & ~normal]) <= tiny).all(), what


@pytest.mark.parametrize("name", ["float", "double"])
def test_float_vectors_agree_with_numpy(program: Program, name: str) -> None:
    dtype = program.floats(name)
    a, b = torch.tensor([1.5, -2.0, 3.0, 0.25], dtype=dtype), torch.tensor([0.5, -2.0, 4.0, -1.5], dtype=dtype)
    expected: list[float] = []
    for n in (2, 3, 4):
        x, y = a[:n].double().numpy(), b[:n].double().numpy()
        parts = [x + y, x - y, x * y, x / y, -x, np.fmod(x, y), 2 * x]
        parts += [np.fmin(x, y), np.fmax(x, y), [x @ y], np.exp(x), np.floor(x)]
        expected += np.concatenate(parts).tolist()
    results = torch.zeros(len(expected), dtype=dtype)
    program.run("vectors", f"{name}_vectors", a=a, b=b, results=results)
    assert_close(results, expected, dtype)


def test_half_vectors_round_after_every_operation(program: Program) -> None:
    a, b = torch.tensor([1.5, -2.0, 3.1, 0.25]).half(), torch.tensor([0.3, -2.0, 4.0, -1.5]).half()
    x, y = a.numpy(), b.numpy()
    parts = [x + y, x - y, x * y, x / y, -x, np.where(x < y, x, y), np.maximum(x[:3], y[:3])]
    parts += [x[2:] + y[:2], np.trunc(x[:3])]
    expected = np.concatenate(parts)
    results = torch.zeros(len(expected), dtype=torch.float16)
    program.run("vectors", "half_vectors", a=a, b=b, results=results)
    np.testing.assert_array_equal(results.numpy(), expected)


def test_integer_vectors_of_every_width(program: Program) -> None:
    a, b = [7, -6, 3, 5], [2, 4, -3, 5]
    order = [0, 1, 2, 3, 4, 5, 6, 7, 8]

    def expected(n: int, bits: int, signed: bool) -> list[int]:
        rows = [_arithmetic(x, y, bits, signed) for x, y in zip(a[:n], b[:n], strict=True)]
        wrapped = [(_wrap(x, bits, signed), _wrap(y, bits, signed)) for x, y in zip(a[:n], b[:n], strict=True)]
        columns = [[row[column] for row in rows] for column in order]
        columns += [[_wrap(x << 2, bits, signed) for x, _ in wrapped], [x >> 1 for x, _ in wrapped]]
        return [value for column in columns for value in column]

    a_tensor, b_tensor = torch.tensor(a, dtype=torch.int32), torch.tensor(b, dtype=torch.int32)
    wide = torch.zeros(44, dtype=torch.int64)
    program.run("vectors", "integer_vectors", a=a_tensor, b=b_tensor, results=wide)
    assert wide.tolist() == expected(4, 64, True)
    dtypes = {"ints": torch.int32, "shorts": torch.int16, "chars": torch.int8, "uchars": torch.uint8}
    outputs = {name: torch.zeros(33, dtype=dtype) for name, dtype in dtypes.items()}
    program.run("vectors", "small_integer_vectors", a=a_tensor, b=b_tensor, **outputs)
    for name, dtype in dtypes.items():
        assert outputs[name].tolist() == expected(3, torch.iinfo(dtype).bits, dtype != torch.uint8), name


def test_comparisons_go_by_element(program: Program) -> None:
    x, y = np.array([1.5, 2.0, -3.0, 4.0]), np.array([2.5, 2.0, -4.0, 5.0])
    whole = [1, 2, -3, 4], [2, 2, -4, 5]
    bytes_greater = [a % 256 > b % 256 for a, b in zip(*whole, strict=True)]
    parts = [x < y, x <= y, x > y, x >= y, x == y, x != y, (x < y)[:3], (x == y)[:3]]
    parts += [[1, 0], [0, 1], [1, 2], (x >= y)[:3], [2, 2, -3], bytes_greater, [1, 1], [1, 1, 0]]
    expected = np.concatenate([np.asarray(part).astype(np.int32) for part in parts])
    results = torch.zeros(len(expected), dtype=torch.int32)
    program.run("vectors", "comparisons", a=program.tensor(x.tolist()), b=program.tensor(y.tolist()), results=results)
    np.testing.assert_array_equal(results.numpy(), expected)


def test_vector_access_and_logic(program: Program) -> None:
    v = np.array([1.5, -2.0, 3.0, 0.25])
    w = np.array([-2.0, -2.0, 0.25, 0.25])
    w9 = np.array([-2.0, -2.0, 9.0, 0.25])
    low, even = v < 2, np.array([False, True, False, True])
    t = np.clip(v / 4, 0, 1)
    parts = [
        v[::-1], v[[1, 1]], [v[2]], w, w9, low & even, low | even, ~low, [1.0], [0.0],
        np.trunc(v[:3]) % 2**32, [1.5, -2.0, 7.0, 3.0], [0.25], np.cross(v[:3], w9[:3]), [np.linalg.norm(v)],
        v / np.linalg.norm(v), [1.5, 2.0, 3.0], (v + w9) / 2, t * t * (3 - 2 * t), np.clip(v, 0, 1), np.sign(v[:2]),
    ]  # fmt: skip
    expected = np.concatenate([np.asarray(part, dtype=np.float64) for part in parts])
    results = program.zeros(len(expected))
    program.run("vectors", "vector_access", a=program.tensor(v.tolist()), index=2, results=results)
    assert_close(results, expected, program.real)


def test_matrices_agree_with_numpy(program: Program) -> None:
    a, b = [2.0, -1.0, 0.5, 3.0, 4.0, -2.5, 1.0, 7.0, -3.0], [1.5, 2.0, -4.0, 0.25, 1.0, 8.0, -2.0, 3.0, 5.0]
    m, n = np.array(a).reshape(3, 3), np.array(b).reshape(3, 3)
    changed = m.copy()
    changed[2], changed[0, 2] = n[0], 5.0
    rows = np.stack([m[0], n[1]])
    parts = [
        m + n, m - n, m * n, m / n, -m, np.fmod(m, n), m @ n, m @ n[0], n[0] @ m, m.T, np.linalg.det(m), m[2], m[1, 2],
        changed, m[:2, :2], rows, rows.T, np.full(16, 1.5), m < n, np.fmod(np.trunc(m), 3), -np.trunc(m), m.flat[:8],
        m.flat[:8], m.flat[:6], np.maximum(m, n), m,
    ]  # fmt: skip
    expected = np.concatenate([np.ravel(part).astype(np.float64) for part in parts])
    results = program.zeros(len(expected))
    program.run("vectors", "matrices", a=program.tensor(a), b=program.tensor(b), index=2, results=results)
    assert_close(results, expected, program.real, rtol=4 * EXACT[program.real])


def test_structs_arrive_as_python_sent_them(program: Program) -> None:
    view = np.arange(16.0).reshape(4, 4) / 4
    camera_type = program.module("vectors").Camera
    camera = camera_type(position=(1.0, 2.0, 3.0), size=(4.0, 5.0), view=view.tolist(), weights=[0.1, 0.2, 0.3])
    results = program.zeros(12)
    program.run("vectors", "structs", camera=camera, offset=(10.0, 20.0, 30.0), results=results)
    expected = [11.0, 22.0, 33.0, 4.0, 5.0, *(view @ [1, 2, 3, 1]), 0.1, 0.2, 0.3]
    assert_close(results, expected, program.real)


@pytest.fixture(params=[1, 4], ids="{0} threads".format)
def thread_count(request: pytest.FixtureRequest) -> Iterator[int]:
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


def test_float_atomics_lose_no_update(program: Program, thread_count: int) -> None:
    count = 64 * 32
    sums, olds, swaps = program.zeros(3), program.zeros(count), program.zeros(count)
    doubles, halves = torch.zeros(1, dtype=torch.float64), torch.zeros(1, dtype=torch.float16)
    program.run("threads", "atomic_floats", count, sums=sums, doubles=doubles, halves=halves, olds=olds, swaps=swaps)
    assert sums[0] == count and doubles[0] == count / 2 and halves[0] == count
    assert sums[1] == count * (count - 1) / 2
    assert sorted(olds.tolist()) == list(range(count))
    assert sorted([*swaps.tolist(), float(sums[2])]) == list(range(count + 1))


def test_integer_atomics_lose_no_update(program: Program, thread_count: int) -> None:
    count = 64 * 32
    values, wide = torch.zeros(11, dtype=torch.int32), torch.zeros(1, dtype=torch.int64)
    values[3] = 0x1FFFF
    olds = torch.zeros(count, dtype=torch.int32)
    program.run("threads", "atomic_integers", count, values=values, wide=wide, olds=olds)
    assert values[:6].tolist() == [3 * count, -5, count - 1, 0x10000, 0xFFFF, 0]
    assert 0 <= values[6] < count and 1 <= values[7] <= count
    assert values[8:].tolist() == [2 * count, count - 1, 0]
    assert wide[0] == count << 33
    assert sorted(olds.tolist()) == list(range(0, 3 * count, 3))


def test_grid_variables_in_three_dimensions(program: Program) -> None:
    results = torch.full((4, 6, 4), -1, dtype=torch.int32)
    program.module("threads").grid(results=results).launchRaw(blockSize=(2, 3, 2), gridSize=(2, 2, 2))
    z, y, x = np.mgrid[0:4, 0:6, 0:4]
    expected = x % 2 + 10 * (y % 3) + 100 * (z % 2) + 1000 * (x // 2) + 10000 * (y // 3) + 100000 * (z // 2)
    np.testing.assert_array_equal(results.numpy(), expected)


def test_waves_have_one_lane(program: Program) -> None:
    floats, ints = program.zeros(26), torch.zeros(27, dtype=torch.int32)
    floats[0], ints[0] = 3.0, 5
    program.run("threads", "waves", floats=floats, ints=ints)
    assert floats[1:10].tolist() == [3, 3, 3, 3, 0, 1, 3, 3, 3]
    assert floats[10:17].tolist() == [9, 0, 1, 6, 9, 9, 3]
    assert floats[17:].tolist() == [3, 0, 3, 9, 3, 3, 3, 3, 9]
    assert ints[1:6].tolist() == [5, 5, 5, 5, 0]
    assert ints[6:12].tolist() == [1, 1, 0, 1, 1, 0]
    assert ints[12:20].tolist() == [1, 0, 1, 0, 1, 1, 1, 0]
    assert ints[20:].tolist() == [5, 0, 1, 0, 5, 1, 1]


def test_tensors_of_every_rank(program: Program) -> None:
    a, b, c, d, e = (program.zeros(*shape) for shape in ((4,), (2, 3), (2, 2, 3), (2, 2, 3, 2), (2, 2, 2, 2, 3)))
    program.run("programs", "tensor_ranks", a=a, b=b, c=c, d=d, e=e)
    assert a.tolist() == [12, 2, 1, 10]
    assert (b[1, 2], b[0, 1], b[1, 0], b[1, 1]) == (3, 4, 7, 11)
    assert (c[1, 0, 2], c[0, 1, 1], c[1, 1, 1]) == (5, 6, 10)
    assert (d[1, 0, 2, 1], d[0, 1, 1, 0], d[1, 1, 1, 1]) == (7, 8, 14)
    assert (e[1, 0, 1, 0, 2], e[0, 0, 0, 0, 0]) == (9, 18)
    assert [int((t != 0).sum()) for t in (a, b, c, d, e)] == [4, 4, 3, 3, 2]


def test_tensor_shape_and_strides_in_bytes(program: Program) -> None:
    a, results = program.zeros(2, 5, 3), torch.zeros(5, dtype=torch.int32)
    program.run("programs", "tensor_shape", a=a, results=results)
    assert results.tolist() == [3, 2, 3, 15 * a.element_size(), a.element_size()]


def test_tensors_of_other_types(program: Program) -> None:
    flags, byte = torch.tensor([False, False]), torch.tensor([41, 0], dtype=torch.uint8)
    short = torch.tensor([5, 0], dtype=torch.int16)
    points = program.tensor([[1.0, 2.0, 3.0], [0.0, 0.0, 0.0]])
    program.run("programs", "tensor_types", flags=flags, bytes=byte, shorts=short, points=points)
    assert (flags.tolist(), byte.tolist(), short.tolist()) == ([False, True], [41, 42], [5, -5])
    assert points[1].tolist() == [2.0, 4.0, 7.0]


def test_offsets_beyond_four_gibibytes(program: Program, tmp_path: Path) -> None:
    file = np.memmap(tmp_path / "sparse", dtype=np.uint8, mode="w+", shape=(2**32 + 16,))  # takes no room on the disk
    rows = torch.from_numpy(file).as_strided((3, 16), (2**31, 1))
    program.run("programs", "touch_row", bytes=rows, row=2, column=5)
    assert file[2**32 + 5] == 9 and file[5] == 0


@pytest.mark.parametrize("choice", [0, 1, 2, 3])
def test_control_flow_tables_and_interfaces(program: Program, choice: int) -> None:
    results = program.zeros(7)
    program.run("programs", "control_flow", choice=choice, results=results)
    total = 1 + 2 + 4 + 5 + 6 + 7 + 0.5 * 4
    expected = [choice**2 + (1, 3, 5, 7)[choice] + choice % 2, 18 if choice > 1 else 24, (10, 11, 12, 12)[choice]]
    expected += [total, 3 * total, 4.0 if choice == 2 else -1.0, 1.5 * choice]
    assert results.tolist() == expected


def test_derivatives_that_slang_wrote(program: Program) -> None:
    x = torch.tensor(0.7, dtype=torch.float64, requires_grad=True)
    v = torch.tensor([0.5, -0.25, 2.0], dtype=torch.float64, requires_grad=True)
    value = torch.log(1 + x.exp()) * v.norm() + torch.maximum(x, v[1]) * v[2].sqrt()
    value = value + x**3 * v[0].tanh() + v[2].rsqrt() / (1 + x.abs())
    value.backward()
    results = program.zeros(6)
    program.run("programs", "derivative", x=0.7, v=(0.5, -0.25, 2.0), results=results)
    expected = [value.item(), x.grad.item(), *v.grad.tolist(), x.grad.item()]
    assert_close(results, expected, program.real, rtol=4 * EXACT[program.real])


def test_nan_and_infinity_behave_as_on_cuda(program: Program) -> None:
    nan, inf = math.nan, math.inf
    expected = [2, 2, 2, 2, nan, nan, inf, 0, nan, inf, -inf, nan, nan, 0, 0, 0]
    expected += [inf, 0, -inf, nan, 1, 0, 16, 3, -0.0, inf, 0, 1]
    results = program.zeros(len(expected))
    program.run("programs", "specials", zero=0.0, results=results)
    np.testing.assert_array_equal(results.numpy(), np.array(expected))


def test_printf_reaches_the_standard_output(program: Program, capfd: pytest.CaptureFixture[str]) -> None:
    program.run("programs", "announce", x=2.5)
    assert "x is 2.500000, and the thread 0" in capfd.readouterr().out
