"""What the page is about: a shipped shader file, or one formula in a file of the user's."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from slangrast.formulas import KINDS
from slangrast.runtime.shader_paths import find_shader, shader_folder

_STRUCT = re.compile(r"\bstruct\s+(\w+)\s*(?:<[^{>]*>)?\s*:\s*([^{]*)\{")


@dataclass(frozen=True)
class Subject:
    """A file to watch. `struct` fills the place `kind` of the soft rasterizer; "" for a file that is part of it."""

    path: Path
    kind: str = ""
    struct: str = ""

    @property
    def title(self) -> str:
        return f"{self.path.name}:{self.struct}" if self.struct else self.path.name

    @property
    def formula_name(self) -> str:
        return f"{self.path}:{self.struct}"


def find_subject(shader: str) -> Subject:
    """The subject that `shader` names: "file.slang:Struct", a file with one formula, or a shipped shader.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file has no such formula, or several to choose from.
    """
    file, _, struct = shader.partition(":") if re.search(r"\.slang:\w+$", shader) else (shader, "", "")
    path = find_shader(file)
    formulas = _formulas_in(path)
    if struct:
        if struct not in formulas:
            raise ValueError(f"watch: {path} has no formula {struct}; it has {sorted(formulas)}. {_what_is_one()}")
        return Subject(path, formulas[struct], struct)
    if path.parent == shader_folder().resolve():
        return Subject(path)
    if len(formulas) == 1:
        ((struct, kind),) = formulas.items()
        return Subject(path, kind, struct)
    if formulas:
        choices = ", ".join(f"{file}:{name}" for name in formulas)
        raise ValueError(f"watch: {path} has several formulas: name one of {choices}")
    raise ValueError(f"watch: {path} has no formula. {_what_is_one()}. For kernels, use slangrast.watch in a program")


def _formulas_in(path: Path) -> dict[str, str]:
    """The structs that implement an interface of the soft rasterizer, with the kind of each. Read without slangc, which
    says nothing of a file that does not compile."""
    interfaces = {kind.interface: name for name, kind in KINDS.items()}
    found = {}
    for struct, bases in _STRUCT.findall(path.read_text(errors="replace")):
        for base in re.findall(r"\w+", bases):
            if base in interfaces:
                found[struct] = interfaces[base]
    return found


def _what_is_one() -> str:
    interfaces = ", ".join(kind.interface for kind in KINDS.values())
    return f"A formula is a struct that implements one of {interfaces}"
