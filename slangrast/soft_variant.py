"""What the soft rasterizer's kernel is compiled for: formulas and options."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache, cached_property
from typing import Any

import torch

from .formulas import KINDS, Choice, Formula, choose_formula
from .op_modules import Tiling, op_module
from .runtime import Module


@dataclass(frozen=True)
class Variant:
    """What modules are compiled for, and what the formulas' parameters are."""

    choices: tuple[Choice, ...]
    given: Mapping[str, Mapping[str, Any]]  # the values of each formula's parameters
    view_depth: bool
    perspective_correct: bool = True
    with_color: bool = True

    @classmethod
    def choose(cls, caller: str, formulas: Mapping[str, str | Formula], **options: bool) -> Variant:
        if all(type(value) is str and value in KINDS[kind].shipped for kind, value in formulas.items()):
            return _shipped_variant(tuple(formulas.items()), tuple(options.items()))
        return cls._of(caller, formulas, options)

    @classmethod
    def _of(cls, caller: str, formulas: Mapping[str, str | Formula], options: Mapping[str, bool]) -> Variant:
        chosen = {kind: choose_formula(caller, kind, value) for kind, value in formulas.items()}
        choices = tuple(choice for choice, _ in chosen.values())
        return cls(choices, {kind: given for kind, (_, given) in chosen.items()}, **options)

    @cached_property
    def keeps_nearest(self) -> bool:
        return Choice("aggregation", "NearestFace", has_fields=False) in self.choices

    @cached_property
    def keeps_largest(self) -> bool:
        return Choice("silhouette", "Largest", has_fields=False) in self.choices

    @cached_property
    def by_kind(self) -> dict[str, tuple[Choice]]:
        return {choice.kind: (choice,) for choice in self.choices}

    @cached_property
    def unites(self) -> bool:
        return Choice("silhouette", "Probabilistic", has_fields=False) in self.choices

    def module(self, channels: int | None, like: torch.Tensor, tiling: Tiling) -> Module:
        """The kernel for an image of `channels`. None: as many as the fragment shader gives."""
        defines = (*self.defines, *tiling.defines)
        defines = defines if channels is None else (*defines, ("CHANNELS", channels))
        return op_module("soft_rasterizer", like, defines, self.choices)

    @cached_property
    def defines(self) -> tuple[tuple[str, int], ...]:
        return (
            ("WITH_COLOR", self.with_color),
            ("VIEW_DEPTH", self.view_depth),
            ("PERSPECTIVE_CORRECT", self.perspective_correct),
            ("KEEPS_NEAREST", self.keeps_nearest),
            ("KEEPS_LARGEST", self.keeps_largest),
            ("UNITES", self.unites),
            ("USES_DEPTH", self.sees_all or (self.with_color and not self.view_depth)),
            ("USES_W", self.sees_all or self.with_color),  # the depth image, too, is along the view axis
        )

    @cached_property
    def sees_all(self) -> bool:
        """Whether the coverage may depend on every value of a vertex: a user's may, the shipped ones see x and y."""
        return any(choice.kind == "coverage" and choice.file for choice in self.choices)


@cache
def _shipped_variant(formulas: tuple[tuple[str, str], ...], options: tuple[tuple[str, bool], ...]) -> Variant:
    """One for all calls with the same names: where those are of shipped formulas, nothing can be wrong or change."""
    return Variant._of("", dict(formulas), dict(options))
