"""Arguments to bytes at the speed of a small launch: what was checked once for tensors of one form is known.

A step of an optimisation launches the same kernels with tensors of the same dtypes, shapes and strides as the one
before. All that differs are addresses and numbers: the rest of a `TensorView` is looked up, and never checked twice.
"""

from __future__ import annotations

import struct
from dataclasses import replace
from typing import Any

import torch

from .layout import DiffTensorType, PackContext, ScalarType, TensorType

_MOST_FORMS = 256


class Packer:
    """Packs the arguments of one kernel. `pack` is false where it cannot: the types then do, or say what is wrong."""

    def __init__(self, arguments: Any, reads_gradients: bool) -> None:
        self._simple = all(isinstance(one.type, (TensorType, DiffTensorType, ScalarType)) for one in arguments)
        self._scalars = [(index, one) for index, one in enumerate(arguments) if isinstance(one.type, ScalarType)]
        # Of each argument with tensors: where it stands, and whether a gradient comes with it. Without one, as outside
        # of derivatives, the view of the gradient does not change, and belongs to what is known.
        self._places: list[tuple[int, bool]] = []
        self._views: list[tuple[Any, str, int, int]] = []  # type, path, offset, bytes after the address
        self._pairs: list[int] = []  # among the views: those that a view of the gradient follows
        for index, one in enumerate(arguments):
            if isinstance(one.type, DiffTensorType) and reads_gradients:
                self._pairs.append(len(self._views))
                size, offset = one.type.primal.size - 8, one.offset + one.type.gradient_offset
                self._views.append((one.type.primal, one.name, one.offset, size))
                self._views.append((one.type.gradient, f"{one.name}.grad", offset, size))
                self._places.append((index, True))
            elif isinstance(one.type, (TensorType, DiffTensorType)):
                self._views.append((one.type, one.name, one.offset, one.type.size - 8))
                self._places.append((index, False))
        self._known: list[dict[tuple, bytes]] = [{} for _ in self._views]
        self._lookups = [known.get for known in self._known]
        self._struct = struct.Struct(self._format())

    def _format(self) -> str:
        text, end = "=", 0
        for _, _, offset, size in self._views:
            text += f"{offset - end}xQ{size}s"
            end = offset + 8 + size
        return text

    def pack(self, values: list[Any], context: PackContext) -> bool:
        if not self._simple:
            return False
        tensors: list[torch.Tensor] = []
        for index, has_gradient in self._places:
            value = values[index]
            if not has_gradient:
                tensors.append(value)
            elif type(value) is tuple and len(value) == 2:
                tensors += value
            else:
                return False
        try:
            forms = [(t.dtype, t.device, t.layout, t.shape, t.stride(), t.is_neg()) for t in tensors]
        except (AttributeError, TypeError, RuntimeError):  # no tensor, or one without strides
            return False
        for first in self._pairs:
            if forms[first][3] != forms[first + 1][3]:
                return False
        known = [look_up(form) for look_up, form in zip(self._lookups, forms, strict=True)]
        if None in known:
            known = [known[i] or self._learn(i, tensors[i], forms[i], context) for i in range(len(known))]
        items: list[Any] = [0] * (2 * len(tensors))
        items[::2] = [tensor.data_ptr() for tensor in tensors]
        items[1::2] = known
        self._struct.pack_into(context.buffer, 0, *items)
        for index, argument in self._scalars:
            argument.type.pack(values[index], argument.offset, argument.name, context)
        context.keep_alive += tensors
        return True

    def _learn(self, index: int, tensor: torch.Tensor, form: tuple, context: PackContext) -> bytes:
        """Have the type of a view check a tensor of a new form, and keep what it packs after the address."""
        type_, path, _, size = self._views[index]
        scratch = replace(context, buffer=bytearray(8 + size), keep_alive=[])
        type_.pack(tensor, 0, path, scratch)
        known = self._known[index]
        if len(known) >= _MOST_FORMS:
            known.clear()
        known[form] = bytes(scratch.buffer[8:])
        return known[form]
