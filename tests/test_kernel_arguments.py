"""Every kind of kernel argument, given from Python in every form, read back by a kernel."""

from __future__ import annotations

import enum
import math
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch

from slangrast import DiffTensorView, Module, load_module
from slangrast.runtime.layout import ArgumentError, TensorType

SHADERS = Path(__file__).parent / "shaders"
DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.cuda)]

SCALARS = dict(
    flag=True, i8=-128, u8=255, i16=-32768, u16=65535, i32=-(2**31), u32=2**32 - 1, i64=-(2**63), u64=2**64 - 1,
    h=0.5, f=0.1, d=0.1,
)  # fmt: skip
FLOAT_VALUES = {"h", "f", "d"}


@pytest.fixture(scope="module", params=DEVICES)
def device(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="module")
def module(device: str) -> Module:
    return load_module(SHADERS / "arguments.slang", device=device)


def once(launchable: object) -> None:
    launchable.launchRaw(blockSize=(1, 1, 1), gridSize=(1, 1, 1))


def run(module: Module, kernel: str, device: str, count: int = 64, **arguments: object) -> list[float]:
    """What `kernel` writes to its `result`."""
    result = torch.full((count,), -1.0, dtype=torch.float64, device=device)
    once(getattr(module, kernel)(result=result, **arguments))
    return result.tolist()


def test_scalars_of_every_type_at_their_limits(module: Module, device: str) -> None:
    found = run(module, "scalars", device, **SCALARS)
    float32 = torch.tensor(0.1).item()
    expected = [1, -128, 255, -32768, 65535, -(2**31), 2**32 - 1, -(2**63), 2.0**64, 0.5, float32, 0.1]
    assert found[:12] == expected


@pytest.mark.parametrize("name", [name for name in SCALARS if name not in FLOAT_VALUES | {"flag"}])
def test_integers_beyond_their_type_are_refused(module: Module, device: str, name: str) -> None:
    limit = SCALARS[name]
    with pytest.raises(ValueError, match=rf"scalars: {name} must be in \[.*\] for u?int.*, got"):
        run(module, "scalars", device, **{**SCALARS, name: limit - 1 if limit < 0 else limit + 1})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("i32", 1.0), ("i32", "1"), ("i32", None), ("i32", torch.tensor(1.5)), ("i32", torch.ones(2).int()),
        ("f", "1"), ("f", 1j), ("f", torch.ones(2)), ("f", np.ones(2)), ("f", [1.0]), ("flag", 1.0), ("flag", "yes"),
    ],
)  # fmt: skip
def test_what_is_no_number_of_the_type_is_refused(module: Module, device: str, name: str, value: object) -> None:
    with pytest.raises(ValueError, match=f"scalars: {name} must be (a number|an integer|True or False) .*, got"):
        run(module, "scalars", device, **{**SCALARS, name: value})


def test_numbers_of_numpy_torch_and_python_are_taken(module: Module, device: str) -> None:
    class Level(enum.IntEnum):
        HIGH = 7

    given = dict(
        flag=np.bool_(True), i8=np.int8(-3), u8=torch.tensor(4, dtype=torch.uint8), i16=Level.HIGH, u16=True,
        h=torch.tensor([0.25]), f=np.float32(1.5), d=Fraction(1, 4),
    )  # fmt: skip
    found = run(module, "scalars", device, **{**SCALARS, **given})
    assert [found[i] for i in (0, 1, 2, 3, 4, 9, 10, 11)] == [1, -3, 4, 7, 1, 0.25, 1.5, 0.25]


def test_floats_beyond_their_type_become_infinite(module: Module, device: str) -> None:
    if device == "cpu":  # on CUDA the conversion is that of the Python binding
        found = run(module, "scalars", device, **{**SCALARS, "h": 1e6, "f": -1e300, "d": 10**400})
        assert found[9:12] == [math.inf, -math.inf, math.inf]
    found = run(module, "scalars", device, **{**SCALARS, "f": math.nan, "d": math.inf})
    assert math.isnan(found[10]) and found[11] == math.inf


@pytest.mark.parametrize("form", [tuple, list, np.array, torch.tensor])
def test_vectors(module: Module, device: str, form: type) -> None:
    found = run(
        module, "vectors", device, f2=form((1.0, 2.0)), f3=form((1.0, 2.0, 3.0)), f4=form((1.0, 2.0, 3.0, 4.0)),
        i3=form((1, 2, -3)), u4=form((1, 2, 3, 2**31 - 1)), h2=form((1.0, 0.5)), b3=form((False, True, False)),
        s4=form((1, 2, 3, -4)), d2=form((1.0, 0.1)), q2=form((1, 2**40)),
    )  # fmt: skip
    d2 = torch.tensor(0.1).item() if form is torch.tensor else 0.1
    assert found[:10] == [2, 3, 4, -3, 2**31 - 1, 0.5, 1, -4, d2, 2**40]


@pytest.mark.parametrize("value", [(1.0,), (1.0, 2.0, 3.0), 1.0, ((1.0, 2.0),), "ab", None])
def test_vectors_of_another_length_are_refused(module: Module, device: str, value: object) -> None:
    with pytest.raises(ValueError, match=r"same_names: a(\[0\])? must be .*, got"):
        once(
            module.same_names(
                result=torch.zeros(1, dtype=torch.int32, device=device),
                a=value,
                b=torch.ones(1, dtype=torch.bool, device=device),
                flag=0,
            )
        )


@pytest.mark.parametrize("form", [list, np.array, torch.tensor])
def test_matrices_are_given_row_by_row(module: Module, device: str, form: type) -> None:
    rng = np.random.default_rng(0)
    shapes = dict(a=(3, 3), b=(4, 4), c=(2, 3), d=(3, 2), e=(2, 2), f=(2, 2))
    values = {name: rng.integers(-9, 9, shape) for name, shape in shapes.items()}
    found = run(module, "matrices", device, **{name: form(value.tolist()) for name, value in values.items()})
    expected = np.concatenate([value.ravel() for value in values.values()])
    assert found[: len(expected)] == expected.tolist()
    assert found[len(expected) : len(expected) + 3] == (values["a"] @ [1, 10, 100]).tolist()


def test_matrices_of_another_shape_are_refused(module: Module, device: str) -> None:
    good = dict(a=np.eye(3), b=np.eye(4), c=np.eye(2, 3), d=np.eye(3, 2), e=np.eye(2), f=np.eye(2, dtype=int))
    with pytest.raises(ValueError, match=r"matrices: c must be a tuple or list of 2 x 3 \(float2x3\), got"):
        run(module, "matrices", device, **{**good, "c": good["d"]})


def test_arrays(module: Module, device: str) -> None:
    views = [torch.tensor([8.0, 0.0], device=device), torch.tensor([0.0, 9.0], device=device)]
    found = run(
        module, "arrays", device, a=(1, 2, 3), b=((4, 5), (6, 7)), m=(((1, 2), (3, 4)), ((5, 6), (7, 8))),
        nested=((1, 2, 3), (4, 5, 6)), views=views,
    )  # fmt: skip
    assert found[:11] == [1, 2, 3, 45, 67, 1234, 5678, 123, 456, 8, 9]


def test_structs_as_named_tuples_tuples_and_dicts(module: Module, device: str) -> None:
    inner = module.Inner(a=1.5, b=(1, 2, 3), h=0.25)
    several = [inner, (77, (9, 1, 1), 1)]
    matrix = [[1, 2, 3], [4, 5, 6], [7, 8, 9]]
    fields = dict(inner=inner, m=matrix, v=(10, 11), several=several, flag=True, big=2**63)
    expected = [1.5, 3, 0.25, 2, 4, 11, 77, 9, 1, 2.0**63]
    for outer in (module.Outer(**fields), tuple(fields.values()), list(fields.values()), fields):
        assert run(module, "structs", device, o=outer)[:10] == expected
    assert module.Outer._fields == tuple(fields)


@pytest.mark.parametrize("value", [(1, 2), {"a": 1, "b": (1, 2, 3), "c": 0}, 5, None])
def test_structs_with_other_fields_are_refused(module: Module, device: str, value: object) -> None:
    outer = dict(inner=value, m=np.eye(3), v=(1, 2), several=[(0, (0, 0, 0), 0)] * 2, flag=True, big=1)
    with pytest.raises(ValueError, match=r"structs: o\.inner must be a Inner\(a, b, h\).*, got"):
        run(module, "structs", device, o=outer)


def test_a_named_tuple_of_another_struct_is_refused(module: Module, device: str) -> None:
    outer = dict(
        inner=(1, (0, 0, 0), 0), m=np.eye(3), v=(1, 2), several=[module.Tensors(1, 2, 3)] * 2, flag=True, big=1
    )
    with pytest.raises(ValueError, match=r"structs: o\.several\[0\] must be a Inner"):
        run(module, "structs", device, o=outer)


def test_structs_of_namespaces_generics_and_inheritance(module: Module, device: str) -> None:
    found = run(
        module, "more_structs", device, inner=module.space_Inner(z=7), f=module.Box(content=0.5, count=2), i=(3, 4),
        derived=((1.5,), 2.0), mode=3,
    )  # fmt: skip
    assert found[:5] == [7, 2.5, 7, 3.5, 1]


def test_structs_hold_tensors(module: Module, device: str) -> None:
    ids = torch.tensor([0, 2], dtype=torch.int32, device=device)
    weights = torch.tensor([1.0, 2.0, 5.0], device=device)
    gradient = torch.zeros_like(weights)
    for given in (
        weights,
        (weights,),
        (weights, gradient),
        DiffTensorView(weights),
        module.DiffTensorView(weights, gradient),
    ):
        assert run(module, "tensors_in_struct", device, t=module.Tensors(ids, given, 10.0))[0] == 50
    with pytest.raises(ValueError, match=r"tensors_in_struct: t\.ids must be a tensor of int32, got int64"):
        run(module, "tensors_in_struct", device, t=(ids.long(), weights, 10.0))


def test_kernels_may_share_names_of_arguments(module: Module, device: str) -> None:
    result = torch.zeros(1, dtype=torch.int32, device=device)
    once(module.same_names(result=result, a=(1, 2), b=torch.ones(1, dtype=torch.bool, device=device), flag=100))
    assert result.item() == 112


def test_names_with_underscores_and_pythons_keywords(module: Module, device: str) -> None:
    result = torch.zeros(1, dtype=torch.float64, device=device)
    ids = torch.tensor([3], dtype=torch.int32, device=device)
    once(module.odd_names(my__result=result, a__b=1, _x_1=2, t_0=ids, **{"lambda": 4, "from": 5}))
    assert result.item() == 54321


TENSORS = {
    "f32": torch.float32, "f64": torch.float64, "f16": torch.float16, "bf16": torch.bfloat16, "b": torch.bool,
    "u8": torch.uint8, "i16": torch.int16, "i32": torch.int32, "i64": torch.int64,
}  # fmt: skip


def test_tensors_of_every_dtype(module: Module, device: str) -> None:
    tensors = {name: torch.zeros(3, dtype=dtype, device=device) for name, dtype in TENSORS.items()}
    once(module.tensors(**tensors))
    assert {name: tensor.tolist() for name, tensor in tensors.items()} == {name: [0, 1, 0] for name in TENSORS}


@pytest.mark.parametrize("name", TENSORS)
def test_another_dtype_is_refused_not_cast(module: Module, device: str, name: str) -> None:
    tensors = {key: torch.zeros(3, dtype=dtype, device=device) for key, dtype in TENSORS.items()}
    tensors[name] = tensors["i32" if name != "i32" else "f32"]
    wanted = str(TENSORS[name]).removeprefix("torch.")
    with pytest.raises(ValueError, match=f"tensors: {name} must be a tensor of {wanted}, got (int32|float32)"):
        once(module.tensors(**tensors))


def test_int8_tensors_on_the_cpu_only(module: Module, device: str) -> None:
    tensor = torch.zeros(2, dtype=torch.int8, device=device)
    if device == "cuda":
        with pytest.raises(ValueError, match="int8_tensor: i8 is int8"):
            module.int8_tensor(i8=tensor)
    else:
        once(module.int8_tensor(i8=tensor))
        assert tensor.tolist() == [0, -1]


def vector_tensors(device: str) -> dict[str, torch.Tensor]:
    count = torch.arange(12, device=device)
    return dict(
        f2=count[:6].view(3, 2).float(), f3=count[:9].view(3, 3).float(), f4=count.view(3, 4).float(),
        i3=count[:9].view(3, 3).int(), h2=count[:6].view(3, 2).half(),
        result=torch.zeros(3, 5, dtype=torch.float64, device=device),
    )  # fmt: skip


def test_tensors_of_vectors(module: Module, device: str) -> None:
    given = vector_tensors(device)
    module.vector_tensors(**given).launchRaw(blockSize=(3, 1, 1), gridSize=(1, 1, 1))
    assert given["result"].tolist() == [[1, 2, 3, 2, 1], [3, 5, 7, 5, 3], [5, 8, 11, 8, 5]]
    assert given["f3"].tolist() == [[0, 1, 2], [1, 2, 3], [2, 3, 4]]


def test_tensors_of_vectors_must_be_contiguous(module: Module, device: str) -> None:
    given = vector_tensors(device)
    with pytest.raises(ValueError, match=r"vector_tensors: f3 .*contiguous"):
        module.vector_tensors(**{**given, "f3": given["f3"].T})


@pytest.mark.parametrize("dimensions", range(6))
def test_tensors_of_up_to_five_dimensions(module: Module, device: str, dimensions: int) -> None:
    shape = (2, 3, 4, 5, 6)[:dimensions]
    tensor = torch.zeros(shape, device=device)
    result = torch.zeros(11, dtype=torch.int32, device=device)
    once(module.shapes(t=tensor, result=result))
    padding = [0] * (5 - dimensions)
    strides = [4 * stride for stride in tensor.stride()]
    assert result.tolist() == [dimensions, *shape, *padding, *strides, *padding]


def test_more_than_five_dimensions_are_refused(module: Module, device: str) -> None:
    with pytest.raises(ValueError, match="shapes: t must have at most 5 dimensions, got 6"):
        module.shapes(t=torch.zeros([1] * 6, device=device), result=torch.zeros(11, dtype=torch.int32, device=device))


@pytest.mark.parametrize("view", ["plain", "permuted", "sliced", "expanded", "empty", "offset"])
def test_views_are_read_as_they_are(module: Module, device: str, view: str) -> None:
    plain = torch.rand(2, 3, 4, 5, 6).to(device)
    tensor = {
        "plain": plain,
        "permuted": plain.permute(4, 2, 0, 3, 1),
        "sliced": plain[:, ::2, 1:, :, ::3],
        "expanded": plain[:1, :, :1].expand(7, 3, 2, 5, 6),
        "empty": plain[:, :, :0],
        "offset": plain.flatten()[17 : 17 + 32].view(2, 2, 2, 2, 2),
    }[view]
    weight = torch.ones(())
    for factor, length in zip((1, 2, 3, 5, 7), tensor.shape, strict=True):
        weight = weight[..., None] + factor * torch.arange(length)
    result = torch.zeros(1, device=device)
    once(module.sum_5d(t=tensor, result=result))
    torch.testing.assert_close(result.item(), (tensor.cpu() * weight).double().sum().item(), rtol=1e-5, atol=1e-6)


def test_views_are_written_as_they_are(module: Module, device: str) -> None:
    target = torch.zeros(6, 8, device=device)
    source = torch.arange(12.0, device=device).view(3, 4)
    module.copy_2d(source=source, target=target.T[1:8:2, ::2].T).launchRaw((4, 4, 1), (1, 1, 1))
    expected = torch.zeros(6, 8)
    expected[::2, 1:8:2] = source.cpu()
    assert torch.equal(target.cpu(), expected)


@pytest.mark.parametrize("value", [None, 1.0, [1.0], np.ones(3)])
def test_what_is_no_tensor_is_refused(module: Module, device: str, value: object) -> None:
    with pytest.raises(ValueError, match="copy_2d: source must be a tensor of float32, got"):
        module.copy_2d(source=value, target=torch.zeros(1, 1, device=device))


def test_sparse_and_negative_views_are_refused(module: Module, device: str) -> None:
    target = torch.zeros(2, 2, device=device)
    with pytest.raises(ValueError, match=r"copy_2d: source must be a strided tensor.*to_dense"):
        module.copy_2d(source=target.to_sparse(), target=target)
    negative = torch.zeros(2, 2, dtype=torch.complex64, device=device).conj().imag
    with pytest.raises(ValueError, match=r"copy_2d: source is a lazy negative view: call \.resolve_neg"):
        module.copy_2d(source=negative, target=target)


def test_tensors_beyond_32_bit_strides_are_refused(module: Module, device: str) -> None:
    source = torch.zeros(1, device=device)
    wide = source.as_strided((1, 1), (2**40, 1))  # a length of 1 is never stepped over
    target = torch.ones(1, 1, device=device)
    module.copy_2d(source=wide, target=target).launchRaw((1, 1, 1), (1, 1, 1))
    assert target.item() == 0
    without_memory = torch.empty(2, 2**30, device="meta")
    with pytest.raises(ArgumentError, match=r"t is too large: Slang keeps sizes and byte strides in 32 bits"):
        TensorType(torch.float32).check(without_memory, "t", None)


def test_a_tensor_on_another_device_is_refused(module: Module, device: str) -> None:
    with pytest.raises(ValueError, match=r"copy_2d: .*meta"):
        module.copy_2d(source=torch.zeros(1, 1, device=device), target=torch.zeros(1, 1, device="meta"))
