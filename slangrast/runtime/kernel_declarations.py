"""Tells whether two programs declare the same kernels, so that the torch binding of one serves the other.

slangc makes a torch binding nearly as slowly as CUDA text: it works through all bodies of functions for it. But what we
read in a binding, the names and types of arguments, follows from the kernels' declarations alone, and those stay while
somebody works on a formula.
"""

from __future__ import annotations

import json
import re
from typing import Any

from .signature import split_arguments

_LINE = re.compile(r"^#line.*\n", re.MULTILINE)
_STRUCT = re.compile(r"^struct (?:__align__\(\d+\) )?(\w+)\s*\{(.*?)^\};", re.MULTILINE | re.DOTALL)
_KERNEL = re.compile(r"^__global__ void __kernel__(\w+)\((.*?)\)\s*\{", re.MULTILINE | re.DOTALL)
_DERIVATIVE = re.compile(r"_(?:bwd|fwd)_diff$")


def kernel_declarations(cuda_text: str, parameters: dict[str, Any]) -> str | None:
    """All that a torch binding tells of the kernels of a program, in some form; None where that is not certain.

    Args:
        cuda_text: tells which kernels and derivatives there are, and how their arguments lie in memory.
        parameters: of kernels by name, name and type of each parameter. A type is its whole name and its fields,
            each of a name and a type. They tell the element types of tensors, which CUDA text has lost.
    """
    text = _LINE.sub("", cuda_text)
    structs = {name: [_declaration(field) for field in body.split(";")] for name, body in _STRUCT.findall(text)}
    kernels = [(name, [_declaration(one) for one in split_arguments(found)]) for name, found in _KERNEL.findall(text)]
    declared = dict(kernels)
    if len(declared) != len(kernels) or not declared:
        return None
    for name, arguments in declared.items():
        if name not in parameters:
            if _DERIVATIVE.sub("", name) not in parameters:
                return None
        elif [one for _, one in arguments] != [one for one, _ in parameters[name]]:
            return None  # another function of that name
        elif _tensors_in(arguments, structs) != sum(map(_tensors_of, parameters[name])):
            return None  # some lie where reflection does not look: in what a struct inherits
    return json.dumps([declared, _reached(list(declared.values()), structs), parameters], sort_keys=True)


def _declaration(text: str) -> tuple[str, str]:
    """Type and name, without the number that slangc adds to a name by how often it occurs in the program."""
    type_, _, name = text.strip().rpartition(" ")
    return type_.strip(), re.sub(r"_\d+$", "", name)


def _reached(waiting: list[list[tuple[str, str]]], structs: dict[str, list[tuple[str, str]]]) -> dict[str, Any]:
    """The structs that are named in these declarations, and in those again."""
    found: dict[str, Any] = {}
    while waiting:
        words = {word for type_, _ in waiting.pop() for word in re.findall(r"\w+", type_)}
        new = {name: structs[name] for name in words & structs.keys() - found.keys()}
        found |= new
        waiting += new.values()
    return found


def _tensors_in(declarations: list[tuple[str, str]], structs: dict[str, list[tuple[str, str]]]) -> int:
    words = [word for type_, _ in declarations for word in re.findall(r"\w+", type_)]
    return words.count("TensorView") + sum(_tensors_in(structs[word], structs) for word in words if word in structs)


def _tensors_of(variable: list[Any]) -> int:
    _, (name, inner) = variable
    return sum(map(_tensors_of, inner)) if inner else name.startswith("TensorView<")
