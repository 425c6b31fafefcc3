"""What a fit can be told, and what follows from it for each step."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

import torch
from torch import Tensor


@dataclass(frozen=True)
class FitSettings:
    """How a fit goes about it. The defaults suit masks of 32 to 512 pixels of one object, seen from all around.

    Lengths marked (radius) are in units of the object's radius as the masks show it, so that nothing depends on the
    units of the world.

    Args:
        steps: steps in all, at least 1. Each level may end before its share when it has converged.
        levels: 1 fits the template as it is; each further level cuts every triangle in four and doubles the
            resolution of the images. None is 2 for the built-in sphere and 1 for a template of your own.
        views_per_step: images drawn for each step, without repetition until all have been seen.
        learning_rate: (radius) how far the fastest vertex may move in the first step of a level.
        final_learning_rate: (radius) the same in its last step.
        smoothness: how widely each step is spread over the mesh, at least 0 (`SmoothDescent`).
        softness: (pixels) at the first step of a level: sigma is the square of this length.
        final_softness: (pixels) at its last step.
        laplacian_weight: of `losses.laplacian`, summed over vertices, (radius).
        flatten_weight: of `losses.flatten`, summed over edges.
        color_weight: of the mean absolute difference of colours on the object, where colours are fitted.
        color_rate: how fast colours change, in units of colour per step; it falls like the learning rate.
        coarse_size: (pixels) shorter side that images are reduced to at the first level.
        most_pixels: (pixels) shorter side that images are never rendered above while fitting.
        check_every: steps between two measurements over all views, with which the best mesh is kept.
        patience: checks without a gain of `tolerance` that end a level; 0 never ends one early.
        tolerance: mean intersection over union that counts as a gain.
        seed: of the order in which views are drawn.

    Raises:
        TypeError, ValueError: a setting of another type or out of range.
    """

    steps: int = 400
    levels: int | None = None
    views_per_step: int = 24
    learning_rate: float = 0.2
    final_learning_rate: float = 0.02
    smoothness: float = 2.0
    softness: float = 0.32
    final_softness: float = 0.04
    laplacian_weight: float = 1e-3
    flatten_weight: float = 1e-6
    color_weight: float = 0.5
    color_rate: float = 0.05
    coarse_size: int = 64
    most_pixels: int = 256
    check_every: int = 20
    patience: int = 4
    tolerance: float = 5e-4
    seed: int = 0

    def __post_init__(self) -> None:
        smallest = {"steps": 1, "views_per_step": 1, "coarse_size": 1, "most_pixels": 1, "check_every": 1, "levels": 1}
        positive = {"learning_rate", "final_learning_rate", "softness", "final_softness", "color_rate"}
        for field in fields(self):
            value = getattr(self, field.name)
            if field.name == "levels" and value is None:
                continue
            if "int" in str(field.type):
                self._check_whole(field.name, value, smallest.get(field.name, 0))
            elif isinstance(value, bool) or not isinstance(value, int | float):
                raise TypeError(f"FitSettings: {field.name} must be a number, got {value!r}")
            elif not math.isfinite(value) or value < 0 or (field.name in positive and value == 0):
                least = "above 0" if field.name in positive else "at least 0"
                raise ValueError(f"FitSettings: {field.name} must be {least} and finite, got {value}")

    @staticmethod
    def _check_whole(name: str, value: object, least: int) -> None:
        if isinstance(value, bool) or not isinstance(value, int):
            raise TypeError(f"FitSettings: {name} must be a whole number, got {value!r}")
        if value < least:
            raise ValueError(f"FitSettings: {name} must be at least {least}, got {value}")

    def level_steps(self, levels: int) -> list[int]:
        """Steps of each level; the coarse ones, which are cheap, get more: weights 1 for the last, 2 for each other.

        Where there are too few steps to go round, a level that would get none is left out.
        """
        weights = [2] * (levels - 1) + [1]
        ends = [round(self.steps * sum(weights[: level + 1]) / sum(weights)) for level in range(levels)]
        return [end - start for start, end in zip([0, *ends], ends, strict=False) if end > start]

    def level_size(self, level: int, image_size: tuple[int, int]) -> tuple[int, int]:
        """(height, width) of the images at a level: coarse_size, doubled with each level, never enlarged."""
        shorter = min(image_size)
        wanted = min(self.coarse_size * 2**level, self.most_pixels, shorter)
        height, width = (max(1, round(side * wanted / shorter)) for side in image_size)
        return height, width

    def rate(self, progress: float) -> float:
        """Learning rate where `progress` of a level, 0 to 1, is done."""
        return _between(self.learning_rate, self.final_learning_rate, progress)

    def sigma(self, progress: float, size: tuple[int, int]) -> float:
        """Softness of coverage for images of (height, width) `size`: half the shorter side is 1."""
        pixel = 2 / min(size)
        return (_between(self.softness, self.final_softness, progress) * pixel) ** 2

    def views(self, step: int, count: int) -> Tensor:
        """[views_per_step] int64: the views of a step, from an endless row of shuffled decks of all views."""
        wanted = min(self.views_per_step, count)
        places = range(step * wanted, (step + 1) * wanted)
        decks = {place // count: None for place in places}
        shuffled = {deck: self._deck(deck, count) for deck in decks}
        return torch.stack([shuffled[place // count][place % count] for place in places])

    def _deck(self, deck: int, count: int) -> Tensor:
        # A generator of its own for each deck: the order after a resume needs no state but the step.
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + deck)
        return torch.randperm(count, generator=generator)


def _between(first: float, last: float, progress: float) -> float:
    return first * (last / first) ** progress
