"""Formulas by name, or a user's own as "file.slang:Struct": which a renderer is compiled for, and what they take."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import torch

from .runtime import ShaderError
from .runtime.reflection import parameters_of
from .runtime.request import BuildRequest
from .runtime.shader_paths import shader_folder


@dataclass(frozen=True)
class Shipped:
    """A struct in shaders/: the values that its fields have where none are given, and between what they must be.

    `module` is its file, where that is not the one of its interface: the fewer are read, the sooner a shader compiles.
    """

    struct: str
    defaults: Mapping[str, float] = field(default_factory=dict)
    ranges: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    module: str = ""


COVERAGES = {
    "squared_distance": Shipped("SquaredDistance"),
    "distance": Shipped("Distance"),
    "barycentric": Shipped("Barycentric"),
    "edge_product": Shipped("EdgeProduct"),
    "hard": Shipped("HardCoverage"),
}
FALLOFFS = {
    "logistic": Shipped("Logistic"),
    "hard": Shipped("Heaviside", module="gendr_falloffs"),
    "uniform": Shipped("Uniform", module="gendr_falloffs"),
    "cubic_hermite": Shipped("CubicHermite", module="gendr_falloffs"),
    "wigner_semicircle": Shipped("WignerSemicircle", module="gendr_falloffs"),
    "gaussian": Shipped("Gaussian", module="gendr_falloffs"),
    "laplace": Shipped("Laplace", module="gendr_falloffs"),
    "gudermannian": Shipped("Gudermannian", module="gendr_falloffs"),
    "cauchy": Shipped("Cauchy", module="gendr_falloffs"),
    "reciprocal": Shipped("Reciprocal", module="gendr_falloffs"),
    "gumbel_max": Shipped("GumbelMax", module="gendr_falloffs"),
    "gumbel_min": Shipped("GumbelMin", module="gendr_falloffs"),
    "exponential": Shipped("Exponential", {"shift": 0.0}, module="gendr_falloffs"),
    "exponential_reversed": Shipped("ExponentialReversed", {"shift": 0.0}, module="gendr_falloffs"),
    "gamma": Shipped("Gamma", {"p": 2.0, "shift": 0.0}, {"p": (0.1, 100.0)}, module="gendr_falloffs"),
    "gamma_reversed": Shipped("GammaReversed", {"p": 2.0, "shift": 0.0}, {"p": (0.1, 100.0)}, module="gendr_falloffs"),
    "levy": Shipped("Levy", {"shift": 0.0}, module="gendr_falloffs"),
    "levy_reversed": Shipped("LevyReversed", {"shift": 0.0}, module="gendr_falloffs"),
}
AGGREGATIONS = {
    "softmax": Shipped("Softmax"),
    "additive": Shipped("Additive"),
    "hard": Shipped("NearestFace"),
}
SILHOUETTES = {
    "probabilistic": Shipped("Probabilistic"),
    "max": Shipped("Largest"),
    "sum": Shipped("ClampedSum"),
    "einstein": Shipped("Einstein", module="gendr_silhouettes"),
    "hamacher": Shipped("Hamacher", {"p": 0.5}, {"p": (1e-6, 1e6)}, module="gendr_silhouettes"),
    "frank": Shipped("Frank", {"p": 4.0}, {"p": (1e-4, 1e4)}, module="gendr_silhouettes"),
    "yager": Shipped("Yager", {"p": 2.0}, {"p": (1e-2, 8.0)}, module="gendr_silhouettes"),
    "aczel_alsina": Shipped("AczelAlsina", {"p": 2.0}, {"p": (1e-2, 8.0)}, module="gendr_silhouettes"),
    "dombi": Shipped("Dombi", {"p": 2.0}, {"p": (1e-2, 4.0)}, module="gendr_silhouettes"),
    "schweizer_sklar": Shipped("SchweizerSklar", {"p": -1.0}, {"p": (-4.0, -0.01)}, module="gendr_silhouettes"),
}
FRAGMENTS = {
    "lambert": Shipped("Lambert"),
    "phong": Shipped("Phong"),
    "textured": Shipped("Textured"),
}


@dataclass(frozen=True)
class Kind:
    """A place in the renderer that a formula fills: the interface that its struct implements, and the shipped ones."""

    interface: str
    shipped: Mapping[str, Shipped]


KINDS = {
    "coverage": Kind("ICoverage", COVERAGES),
    "falloff": Kind("IFalloff", FALLOFFS),
    "aggregation": Kind("IAggregation", AGGREGATIONS),
    "silhouette": Kind("ISilhouette", SILHOUETTES),
    "fragment": Kind("IFragmentShader", FRAGMENTS),
}


class Formula:
    """A formula with values for its own parameters, wherever a rasterizer takes the name of one.

    Args:
        name: of a shipped formula ("phong"), or "file.slang:Struct" for your own.
        parameters: a value for each field of the struct: a number, a sequence or a tensor of the field's shape (shared
            by all images) or [N, *shape]; for a `DiffTensorView`, a tensor. Differentiable where they are tensors.

    What the structs look like stands in shaders/README.md.
    """

    def __init__(self, name: str, **parameters: Any) -> None:
        if not isinstance(name, str):
            raise TypeError(f"Formula: name must be a string, got {type(name).__name__}")
        self.name = name
        self.parameters = parameters

    def __repr__(self) -> str:
        return (
            f"Formula({', '.join([repr(self.name), *(f'{key}={value!r}' for key, value in self.parameters.items())])})"
        )


class Choice(NamedTuple):
    """Which struct fills a place: a user's in `file`, or a shipped one (in `module`, if not in its interface's)."""

    kind: str
    struct: str
    file: str = ""
    has_fields: bool = True
    module: str = ""

    @property
    def imported(self) -> str:
        """What to import for it, as Slang spells it."""
        return f'"{self.file}"' if self.file else self.module


def choose_formula(caller: str, kind: str, value: str | Formula) -> tuple[Choice, dict[str, Any]]:
    """The struct that a user's `value` for `kind` names, and the values of its parameters.

    Raises:
        ValueError, TypeError: it is neither a shipped name nor "file.slang:Struct".
        FileNotFoundError: there is no such file.
    """
    if not isinstance(value, (str, Formula)):
        raise TypeError(f"{caller}: {kind} must be a name, 'file.slang:Struct' or a Formula, got {value!r}")
    name, given = (value.name, dict(value.parameters)) if isinstance(value, Formula) else (value, {})
    if name in KINDS[kind].shipped:
        shipped = KINDS[kind].shipped[name]
        has_fields = bool(shipped.defaults) or kind == "fragment"
        _check_ranges(caller, kind, name, given, shipped.ranges)
        choice = Choice(kind, shipped.struct, has_fields=has_fields, module=shipped.module)
        return choice, {**shipped.defaults, **given}
    file, separator, struct = name.rpartition(":")
    if not separator or not file.endswith(".slang") or not struct.isidentifier():
        raise ValueError(
            f"{caller}: {kind} must be one of {sorted(KINDS[kind].shipped)} or 'file.slang:Struct', got {name!r}"
        )
    if not os.path.isfile(file):
        raise FileNotFoundError(f"{caller}: {kind} names {name!r}, but there is no file {os.path.abspath(file)}")
    return Choice(kind, struct, str(Path(file).resolve())), given


def _check_ranges(
    caller: str, kind: str, name: str, given: Mapping[str, Any], ranges: Mapping[str, tuple[float, float]]
) -> None:
    """On CUDA a look at the values would stall the device, and is left out."""
    for key in ranges.keys() & given.keys():
        value, (low, high) = given[key], ranges[key]
        if isinstance(value, torch.Tensor) and (value.device.type != "cpu" or not value.is_floating_point()):
            continue
        values = value.detach().flatten().tolist() if isinstance(value, torch.Tensor) else [value]
        wrong = [one for one in values if isinstance(one, (int, float)) and not low <= one <= high]
        if wrong:
            raise ValueError(f"{caller}: {key} of {kind} {name!r} must be in [{low:g}, {high:g}], got {wrong[0]:g}")


@dataclass(frozen=True)
class NumberField:
    """A field of numbers: where in the parameters of an image it lies."""

    kind: str
    name: str
    shape: tuple[int, ...]
    first: int
    size: int


@dataclass(frozen=True)
class TensorField:
    """A field that is a tensor, and the kernels' argument that brings it."""

    kind: str
    name: str
    differentiable: bool

    @property
    def argument(self) -> str:
        return f"{self.kind}_{self.name}"


@dataclass(frozen=True)
class Layout:
    """What a set of formulas takes from Python, and the macros that hand it to them in the shaders."""

    numbers: tuple[NumberField, ...]
    tensors: tuple[TensorField, ...]
    inputs: tuple[tuple[str, int], ...]  # of a fragment shader: its attributes and how many numbers each has
    channels: int  # of a fragment shader's colour; 0 where there is none
    defines: Mapping[str, str]

    def fields_of(self, kind: str) -> list[NumberField | TensorField]:
        fields: list[NumberField | TensorField] = [*self.numbers, *self.tensors]
        return [one for one in fields if one.kind == kind]

    @property
    def takes_anything(self) -> bool:
        return bool(self.numbers or self.tensors)

    @property
    def input_size(self) -> int:
        return sum(size for _, size in self.inputs)


_SOFTNESS = 3  # sigma, gamma and epsilon come before the formulas' own parameters


def describe(choices: tuple[Choice, ...]) -> Layout:
    """Read the fields of the chosen structs from the shaders.

    Raises:
        ShaderError: a file does not compile, or a struct does not fit its place.
    """
    defines: dict[str, str] = {}
    numbers: list[NumberField] = []
    tensors: list[TensorField] = []
    inputs: list[tuple[str, int]] = []
    channels = 0
    set_parameters: list[str] = []
    for choice in choices:
        defines[choice.kind.upper()] = choice.struct
        if choice.imported:
            defines[f"{choice.kind.upper()}_FILE"] = choice.imported
        if not choice.has_fields:
            continue
        types = _reflect(choice)
        for member in types["formula"]["fields"]:
            name, type_ = member["name"], member["type"]
            if type_["kind"] == "struct" and type_["name"] in ("DiffTensorView", "TensorView"):
                tensors.append(TensorField(choice.kind, name, type_["name"] == "DiffTensorView"))
                continue
            first = _SOFTNESS + sum(number.size for number in numbers)
            shape, lines = _assign(f"formulas.{choice.kind}.{name}", type_, "values", first, _where(choice, name))
            numbers.append(NumberField(choice.kind, name, shape, first, len(lines)))
            set_parameters += _statements(f"formulas.{choice.kind}.{name}", type_, lines)
        if choice.kind == "fragment":
            inputs, set_attributes = _attributes(choice, types["attributes"])
            channels, set_channels = _channels(choice, types["color"])
            defines |= {
                "INPUTS": str(sum(size for _, size in inputs)), "CHANNELS": str(channels),
                "FRAGMENT_INPUTS": str(sum(size for _, size in inputs)), "FRAGMENT_CHANNELS": str(channels),
                "SET_ATTRIBUTES": set_attributes, "SET_CHANNELS": set_channels,
            }  # fmt: skip
    if numbers:
        defines["OWN_PARAMETERS"] = str(sum(number.size for number in numbers))
        defines["SET_PARAMETERS"] = " ".join(set_parameters)
    if tensors:
        types_of = {True: "DiffTensorView", False: "TensorView<float>"}
        arguments = [f", {types_of[tensor.differentiable]} {tensor.argument}" for tensor in tensors]
        defines["TENSOR_ARGUMENTS"] = "".join(arguments)
        defines["SET_TENSORS"] = " ".join(f"tensors.{one.kind}.{one.name} = {one.argument};" for one in tensors)
        defines["WITH_TENSORS"] = "1"
    return Layout(tuple(numbers), tuple(tensors), tuple(inputs), channels, defines)


def _reflect(choice: Choice) -> dict[str, Any]:
    defines = {
        "MODULE": choice.kind,  # the shader of that name has the interface: no other is read
        "FORMULA": choice.struct,
        "INTERFACE": KINDS[choice.kind].interface,
        "IS_FRAGMENT_SHADER": str(int(choice.kind == "fragment")),
    }
    if choice.imported:
        defines["FORMULA_FILE"] = choice.imported
    path = shader_folder() / "describe_formula.slang"
    try:
        return parameters_of(BuildRequest(str(path.resolve()), defines, (str(shader_folder()),)), "describe_formula")
    except ShaderError as error:
        # Messages about the three lines of describe_formula.slang would lead nowhere: say what they mean.
        own = [diagnostic for diagnostic in error.diagnostics if diagnostic.file != str(path.resolve())]
        fits = f"a struct of that name that implements {KINDS[choice.kind].interface}"
        raise ShaderError(
            f"{choice.file or choice.struct} does not compile as {choice.kind}={choice.struct!r}: it must have {fits} "
            "(in a file that says `public` anywhere, a public one with public members)",
            [one for one in own if one.line] or error.diagnostics,
            error.output,
        ) from None


_SCALARS = {"float32": "{}", "float64": "{}", "float16": "half({})", "int32": "int(round({}))",
            "uint32": "uint(round({}))", "bool": "({} != 0.f)"}  # fmt: skip


def _assign(target: str, type_: Mapping, source: str, first: int, where: str) -> tuple[tuple[int, ...], list[str]]:
    """The shape of a field and, for each number in it, the Slang expression that reads it from the array `source`."""
    kind = type_["kind"]
    if kind == "scalar" and type_["scalarType"] in _SCALARS:
        return (), [_SCALARS[type_["scalarType"]].format(f"{source}[{first}]")]
    if kind == "vector":
        lengths: tuple[int, ...] = (type_["elementCount"],)
    elif kind == "matrix":
        lengths = (type_["rowCount"], type_["columnCount"])
    elif kind == "array":
        lengths = (type_["elementCount"],)
    else:
        raise ShaderError(
            f"{where} is a {type_.get('name', kind)}, which cannot come from Python: allowed are numbers, vectors, "
            "matrices and arrays of them, and DiffTensorView or TensorView<float>"
        )
    shape: tuple[int, ...] = ()
    expressions: list[str] = []
    for _ in range(lengths[0] * (lengths[1] if len(lengths) == 2 else 1)):
        shape, more = _assign(target, type_["elementType"], source, first + len(expressions), where)
        expressions += more
    return (*lengths, *shape), expressions


def _statements(target: str, type_: Mapping, expressions: list[str]) -> list[str]:
    """Assignments of the expressions to the numbers of `target`."""
    return [f"{place} = {expression};" for place, expression in zip(_places(target, type_), expressions, strict=True)]


def _places(target: str, type_: Mapping) -> Iterator[str]:
    """How Slang names each number of a variable, row by row."""
    if type_["kind"] == "scalar":
        yield target
    elif type_["kind"] == "matrix":
        yield from (f"{target}[{i}][{j}]" for i in range(type_["rowCount"]) for j in range(type_["columnCount"]))
    else:
        for index in range(type_["elementCount"]):
            yield from _places(f"{target}[{index}]", type_["elementType"])


def _attributes(choice: Choice, type_: Mapping) -> tuple[list[tuple[str, int]], str]:
    """The attributes of a fragment shader by name and size, and the lines that set them from `inputs`."""
    members: list[dict[str, Any]] = [{"name": "", "type": type_}]
    if type_["kind"] == "struct":
        members = type_["fields"]
    inputs: list[tuple[str, int]] = []
    lines: list[str] = []
    for member in members:
        target = f"attributes.{member['name']}" if member["name"] else "attributes"
        where = _where(choice, f"Attributes.{member['name']}")
        _, expressions = _assign(target, member["type"], "inputs", sum(size for _, size in inputs), where)
        lines += _statements(target, member["type"], expressions)
        inputs.append((member["name"], len(expressions)))
    return inputs, " ".join(lines)


def _channels(choice: Choice, type_: Mapping) -> tuple[int, str]:
    _assign("color", type_, "channels", 0, _where(choice, "Color"))
    places = list(_places("color", type_))
    return len(places), " ".join(f"channels[{index}] = {place};" for index, place in enumerate(places))


def _where(choice: Choice, member: str) -> str:
    return f"{choice.file or 'shipped'}: {choice.struct}.{member}"


def pack_parameters(
    caller: str, layout: Layout, given: Mapping[str, Mapping[str, Any]], softness: torch.Tensor
) -> torch.Tensor:
    """[N, 3 + own]: `softness` [N, 3] and, after it, the formulas' own numbers in the order of their fields.

    `given` holds the values of each kind's parameters, by name.
    """
    if not layout.takes_anything and not any(given.values()):
        return softness
    for kind, values in given.items():
        _check_names(caller, kind, values, layout.fields_of(kind))
    if not layout.numbers:
        return softness
    images = len(softness)
    columns = [softness]
    for number in layout.numbers:
        value = given[number.kind][number.name]
        where = f"{caller}: {number.kind} parameter {number.name}"
        if not isinstance(value, torch.Tensor):
            try:
                value = torch.tensor(value, dtype=softness.dtype, device=softness.device)
            except (TypeError, ValueError, RuntimeError):
                raise TypeError(f"{where} must be a number, a sequence of numbers or a tensor, got {value!r}") from None
        if value.device != softness.device and value.dim():
            raise ValueError(f"{where} must be on {softness.device} like positions, got a tensor on {value.device}")
        if tuple(value.shape) not in (number.shape, (images, *number.shape)):
            shapes = f"{list(number.shape)} or {[images, *number.shape]}"
            raise ValueError(f"{where} must have the shape {shapes}, got {list(value.shape)}")
        value = value.to(softness)
        rows = value.reshape(images if value.dim() > len(number.shape) else 1, number.size)
        columns.append(rows.expand(images, number.size))
    return torch.cat(columns, dim=1)


def pack_tensors(
    caller: str, layout: Layout, given: Mapping[str, Mapping[str, Any]], like: torch.Tensor
) -> tuple[torch.Tensor, ...]:
    """The formulas' tensors in the order of `layout.tensors`, in the precision and on the device of `like`."""
    tensors = []
    for tensor in layout.tensors:
        value = given[tensor.kind][tensor.name]
        where = f"{caller}: {tensor.kind} parameter {tensor.name}"
        if not isinstance(value, torch.Tensor) or not value.is_floating_point():
            raise TypeError(f"{where} must be a float tensor, got {value!r}")
        if value.device != like.device:
            raise ValueError(f"{where} must be on {like.device} like positions, got a tensor on {value.device}")
        tensors.append(value.to(like.dtype))
    return tuple(tensors)


def pack_attributes(caller: str, layout: Layout, attributes: Any) -> Any:
    """A mapping of attributes by name as one tensor, in the order of the fragment shader's fields."""
    if not isinstance(attributes, Mapping):
        return attributes
    names = [name for name, _ in layout.inputs]
    if not layout.channels or names == [""]:
        raise TypeError(f"{caller}: attributes by name need a fragment shader whose Attributes are a struct")
    if sorted(attributes) != sorted(names):
        raise ValueError(f"{caller}: attributes must be {names}, got {list(attributes)}")
    for name, size in layout.inputs:
        value = attributes[name]
        if not isinstance(value, torch.Tensor) or value.dim() not in (2, 3) or value.shape[-1] != size:
            got = list(value.shape) if isinstance(value, torch.Tensor) else type(value).__name__
            raise ValueError(f"{caller}: attribute {name} must be [V, {size}] or [N, V, {size}] float, got {got}")
    parts = [attributes[name] for name in names]
    leading = torch.broadcast_shapes(*(part.shape[:-1] for part in parts))
    return torch.cat([part.expand(*leading, part.shape[-1]) for part in parts], dim=-1)


def _check_names(caller: str, kind: str, given: Mapping[str, Any], fields: list[NumberField | TensorField]) -> None:
    names = [one.name for one in fields]
    missing = [name for name in names if name not in given]
    unknown = [name for name in given if name not in names]
    if missing or unknown:
        problems = [f"misses {missing}"] * bool(missing) + [f"has no {unknown}"] * bool(unknown)
        hint = f": give them with Formula(name, {', '.join(f'{name}=...' for name in names)})" if names else ""
        raise ValueError(f"{caller}: {kind} {' and '.join(problems)}; its parameters are {names}{hint}")
