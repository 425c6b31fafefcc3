"""Launches whose faults are found as they happen: the builds of `debug=True` and of `engine="simt"`.

What is looked for, in a build with `debug=True`:

- an index outside its tensor, or with too few or too many numbers for its dimensions, in any load, store or atomic
  operation (memory reached through `TensorView.data_ptr()` alone is not checked), and outside an array;
- NaN or infinity stored to a tensor, or added to one by an atomic operation. Inputs may hold them;
- an element of an output that the launch never writes. Outputs are the arguments whose names begin with `out_`, in a
  kernel and in its `.fwd`; a `.bwd` may leave them as they are;
- an element that `storeOnce` stores twice, whose gradient it then counts twice, or that `loadOnce` loads twice, whose
  gradient is then the last one only (seen in `.bwd`);
- an integer divided by zero.

An argument whose name begins with `unchecked_` is checked for its indices only: for scratch memory, and for tensors
that hold infinities on purpose.

In a build for `engine="simt"`: a barrier that not all threads of a block reach, and a wave operation that not all lanes
in its mask reach.

The first fault ends the launch, before the access in question, and is raised as a `KernelError`.
"""

from __future__ import annotations

import ctypes
import struct
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path
from typing import Any

import torch

from .cpu_threads import kernel_threads
from .errors import Diagnostic, KernelError
from .host_compiler import HOST_FOLDER
from .layout import ArrayType, DiffTensorType, PackContext, ScalarType, StructType, TensorType
from .shader_sites import KernelPlace
from .signature import KernelSignature

_WARP = 32
_NUMBER_OFFSET = 52  # in a TensorView, where the unchecked one has padding
_VALUES, _WRITES, _ONCE = 1, 2, 4  # as SlangrastWatched
_WRITTEN = 1  # as SlangrastSeen


class _Fault(IntEnum):  # as SlangrastFault
    OUT_OF_RANGE = 1
    WRONG_DIMENSIONS = 2
    STORED_NOT_FINITE = 3
    ADDED_NOT_FINITE = 4
    SUM_NOT_FINITE = 5
    STORED_TWICE = 6
    GRADIENT_READ_TWICE = 7
    DIVIDED_BY_ZERO = 8
    ARRAY_INDEX = 9
    DIVERGENT_BARRIER = 10
    DIVERGENT_WAVE = 11
    LANE_NOT_IN_MASK = 12
    NO_MEMORY = 13


class _Report(ctypes.Structure):
    _fields_ = [
        ("fault", ctypes.c_int32), ("line", ctypes.c_int32), ("file", ctypes.c_char_p),
        ("block", ctypes.c_uint32 * 3), ("thread", ctypes.c_uint32 * 3),
        ("tensor", ctypes.c_int32), ("index_count", ctypes.c_uint32), ("index", ctypes.c_int64 * 5),
        ("value", ctypes.c_double), ("operation", ctypes.c_char_p),
        ("other_file", ctypes.c_char_p), ("other_line", ctypes.c_int32),
        ("here", ctypes.c_uint32), ("elsewhere", ctypes.c_uint32), ("left", ctypes.c_uint32),
    ]  # fmt: skip


class _Tensor(ctypes.Structure):
    _fields_ = [("seen", ctypes.c_void_p), ("watched", ctypes.c_uint32), ("taken", ctypes.c_uint32)]


class _Launch(ctypes.Structure):
    _fields_ = [
        ("grid", ctypes.c_uint32 * 3), ("block", ctypes.c_uint32 * 3), ("threads", ctypes.c_uint32),
        ("tensors", ctypes.POINTER(_Tensor)), ("report", ctypes.POINTER(_Report)),
    ]  # fmt: skip


@dataclass
class _Argument:
    """A TensorView among the arguments, and what is kept of its elements: a byte for each, or nothing."""

    name: str
    offset: int
    tensor: torch.Tensor
    watched: int
    seen: torch.Tensor | None


class CheckedLaunch:
    """One launch: made before it, asked for its faults after it."""

    def __init__(
        self,
        kernel: str,
        kind: str,
        entry: KernelSignature,
        packed: PackContext,
        place: KernelPlace,
        checks_tensors: bool,
    ) -> None:
        self._kernel = f"{kernel}{kind}"
        self._place = place
        self._arguments = []
        if checks_tensors:
            views = _views(entry)
            tensors = packed.keep_alive[: len(views)]
            for (name, offset, is_differentiable), tensor in zip(views, tensors, strict=True):
                watched = _watched(name, kind, is_differentiable)
                seen = torch.zeros(tensor.shape, dtype=torch.uint8) if watched & (_WRITES | _ONCE) else None
                self._arguments.append(_Argument(name, offset, tensor, watched, seen))
        for number, argument in enumerate(self._arguments, 1):
            struct.pack_into("=I", packed.buffer, argument.offset + _NUMBER_OFFSET, number)
        self._tensors = (_Tensor * max(len(self._arguments), 1))(
            *(_Tensor(a.seen.data_ptr() if a.seen is not None else None, a.watched, 0) for a in self._arguments)
        )
        self._report = _Report()

    def c_struct(self, block: tuple[int, ...], grid: tuple[int, ...]) -> ctypes.Structure:
        """What the entry point takes, for as long as this object lives."""
        return _Launch(
            (ctypes.c_uint32 * 3)(*grid), (ctypes.c_uint32 * 3)(*block), kernel_threads(), self._tensors,
            ctypes.pointer(self._report),
        )  # fmt: skip

    def raise_on_fault(self) -> None:
        if self._report.fault:
            raise self._fault_found(self._report)
        for argument, kept in zip(self._arguments, self._tensors, strict=False):
            if argument.watched & _WRITES and not kept.taken and argument.seen is not None:
                self._check_written(argument)

    def _check_written(self, argument: _Argument) -> None:
        assert argument.seen is not None
        written = argument.seen & _WRITTEN != 0
        if not written.all() and _overlaps(argument.tensor):
            written = torch.isin(_addresses(argument.tensor), _addresses(argument.tensor)[written])
        if written.all():
            return
        index = tuple(torch.nonzero(~written)[0].tolist())
        missing, total = int((~written).sum()), written.numel()
        others = f", nor are {missing - 1} of the other {total - 1} elements" if missing > 1 else ""
        message = f"{_element(argument.name, index)} is never written{others}; {_shape(argument.tensor)}"
        shape = tuple(argument.tensor.shape)
        raise self._error(message, self._place.file, self._place.line, argument=argument.name, index=index, shape=shape)

    def _fault_found(self, report: _Report) -> KernelError:
        fault = _Fault(report.fault)
        file, line = (report.file or b"").decode(), report.line
        if not file or Path(file).is_relative_to(HOST_FOLDER):  # in what the compiler was not told the place of
            file, line = self._place.file, self._place.line
        argument = self._arguments[report.tensor - 1] if report.tensor else None
        index = tuple(report.index[: report.index_count])
        if argument is not None:
            message = f"{_about_tensor(fault, argument, index, report.value)}; {_shape(argument.tensor)}"
        elif fault is _Fault.OUT_OF_RANGE or fault is _Fault.WRONG_DIMENSIONS:
            message = f"index [{', '.join(map(str, index))}] into a tensor that was never set"
        elif fault is _Fault.ARRAY_INDEX:
            message = f"array index {index[0]} is out of range: the array has {int(report.value)} elements"
        elif fault is _Fault.DIVIDED_BY_ZERO:
            message = "an integer is divided by zero"
        elif fault is _Fault.DIVERGENT_BARRIER:
            message = _about_barrier(report)
        elif fault is _Fault.DIVERGENT_WAVE:
            message = _about_wave(report)
        elif fault is _Fault.LANE_NOT_IN_MASK:
            message = (
                f"a lane takes part in a wave operation ({_text(report.operation)}) whose mask names only "
                f"{_lanes(report.here)}"
            )
        else:
            message = "there is no memory for the stacks of a block's threads: launch smaller blocks"
        block, thread = tuple(report.block), tuple(report.thread)
        return self._error(
            message, file, line, block=block, thread=thread, index=index,
            argument=argument.name if argument else "", shape=tuple(argument.tensor.shape) if argument else (),
        )  # fmt: skip

    def _error(self, message: str, file: str, line: int, **where: Any) -> KernelError:
        thread = f", block {where['block']}, thread {where['thread']}" if "thread" in where else ""
        diagnostic = Diagnostic(file, line, 0, message)
        return KernelError(f"kernel {self._kernel}{thread}:", [diagnostic], kernel=self._kernel, **where)


def _about_tensor(fault: _Fault, argument: _Argument, index: tuple[int, ...], value: float) -> str:
    element = _element(argument.name, index)
    dimensions = argument.tensor.dim()
    if fault is _Fault.OUT_OF_RANGE:
        return f"{element} is out of range"
    if fault is _Fault.WRONG_DIMENSIONS and value:
        return f"{element} takes elements of {int(value)} values, which the dimensions after the index must hold"
    if fault is _Fault.WRONG_DIMENSIONS:
        return f"{element} has {_count(len(index), 'index number')} for {_count(dimensions, 'dimension')}"
    if fault is _Fault.STORED_NOT_FINITE:
        return f"{value} is stored to {element}"
    if fault is _Fault.ADDED_NOT_FINITE:
        return f"{value} is added to {element}"
    if fault is _Fault.SUM_NOT_FINITE:
        return f"{element} becomes {value} by what is added to it"
    if fault is _Fault.STORED_TWICE and argument.name.endswith(".grad"):
        return f"{element} is stored a second time: loadOnce has loaded an element twice; use load"
    if fault is _Fault.STORED_TWICE:
        return f"{element} is stored a second time by storeOnce: its gradient would count twice; use store"
    return f"{element} is read a second time: storeOnce has stored an element twice; use store"


def _about_barrier(report: _Report) -> str:
    parts = [f"{report.here} threads of the block wait at this barrier"]
    if report.elsewhere:
        other = f"{_text(report.other_file)}:{report.other_line}"
        parts.append(f"{report.elsewhere} wait elsewhere ({other})")
    if report.left:
        parts.append(f"{report.left} have left the kernel")
    return ", ".join(parts[:-1]) + f" and {parts[-1]}" + ": all must reach it together"


def _about_wave(report: _Report) -> str:
    parts = [f"{_lanes(report.here)} wait at this wave operation ({_text(report.operation)})"]
    if report.elsewhere:
        other = f"{_text(report.other_file)}:{report.other_line}"
        parts.append(f"{_lanes(report.elsewhere)}, which its mask names too, wait elsewhere ({other})")
    if report.left:
        parts.append(f"{_lanes(report.left)}, which its mask names too, have left the kernel")
    return " and ".join(parts)


def _lanes(mask: int) -> str:
    """`lanes 0-15, 20`."""
    lanes = [lane for lane in range(_WARP) if mask >> lane & 1]
    starts = [lane for lane in lanes if lane - 1 not in lanes]
    ends = [lane for lane in lanes if lane + 1 not in lanes]
    runs = [str(a) if a == b else f"{a}-{b}" for a, b in zip(starts, ends, strict=True)]
    return f"lane{'s' * (len(lanes) != 1)} {', '.join(runs) or 'none'}"


def _element(name: str, index: tuple[int, ...]) -> str:
    # An index that was negative in the shader arrives as a large number.
    return f"{name}[{', '.join(f'{i} = {i - 2**32}' if i >= 2**31 else str(i) for i in index)}]"


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'s' * (number != 1)}"


def _shape(tensor: torch.Tensor) -> str:
    return f"its shape is {tuple(tensor.shape)}"


def _text(string: bytes | None) -> str:
    return (string or b"").decode()


def _views(entry: KernelSignature) -> list[tuple[str, int, bool]]:
    """Name, place and whether it is differentiable, of every TensorView in the arguments, in the order of packing."""
    found: list[tuple[str, int, bool]] = []

    def visit(type_: Any, offset: int, name: str) -> None:
        if isinstance(type_, TensorType):
            found.append((name, offset, False))
        elif isinstance(type_, DiffTensorType):
            found.append((name, offset, True))
            found.append((f"{name}.grad", offset + type_.gradient_offset, True))
        elif isinstance(type_, StructType):
            for field in type_.fields:
                visit(field.type, offset + field.offset, f"{name}.{field.name}")
        elif isinstance(type_, ArrayType) and not isinstance(type_.element, ScalarType):
            for i in range(type_.size // type_.element.size):
                visit(type_.element, offset + i * type_.element.size, f"{name}[{i}]")

    for argument in entry.arguments:
        visit(argument.type, argument.offset, argument.name)
    return found


def _watched(name: str, kind: str, is_differentiable: bool) -> int:
    field = name.removesuffix(".grad").rpartition(".")[2]
    if name.startswith("unchecked_") or field.startswith("unchecked_"):
        return 0
    is_gradient = name.endswith(".grad")
    watched = _VALUES
    if kind != ".bwd" and not is_gradient and (name.startswith("out_") or field.startswith("out_")):
        watched |= _WRITES
    # In a .bwd, Slang may compute, and so store, an output more than once: there the gradients tell.
    if is_differentiable and (is_gradient or kind != ".bwd"):
        watched |= _ONCE
    return watched


def _overlaps(tensor: torch.Tensor) -> bool:
    """Whether two elements may share memory, as those of an expanded tensor do."""
    reach = 1
    for stride, size in sorted(zip(tensor.stride(), tensor.shape, strict=True)):
        if size > 1 and stride < reach:
            return True
        if size > 1:
            reach += stride * (size - 1)
    return False


def _addresses(tensor: torch.Tensor) -> torch.Tensor:
    addresses = torch.zeros((), dtype=torch.int64)
    for size, stride in zip(tensor.shape, tensor.stride(), strict=True):
        addresses = addresses.unsqueeze(-1) + torch.arange(size) * stride
    return addresses
