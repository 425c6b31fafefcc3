"""Which choices of formula the tests run together.

All 180 combinations would be 180 shaders to compile. These 15 hold every pair of choices
(`test_references.py` counts them), and all tests share them, so that each is compiled once.
"""

from __future__ import annotations

from itertools import product

CHOICES = {
    "coverage": ("squared_distance", "distance", "barycentric", "edge_product", "hard"),
    "aggregation": ("softmax", "additive", "hard"),
    "silhouette": ("probabilistic", "max", "sum"),
    "depth": ("view", "ndc"),
    "perspective_correct": (True, False),
}


def _combination(coverage: int, aggregation: int) -> dict:
    picks = (
        coverage,
        aggregation,
        (coverage + aggregation) % 3,
        (coverage + aggregation) % 2,
        (coverage // 2 + aggregation // 2) % 2,
    )
    return {name: options[pick] for (name, options), pick in zip(CHOICES.items(), picks, strict=True)}


COMBINATIONS = [_combination(*pair) for pair in product(range(5), range(3))]


# One of every coverage that reaches beyond its face.
SOFT_COVERAGES = [one for one in COMBINATIONS if one["aggregation"] == "softmax" and one["coverage"] != "hard"]


def label(options: dict) -> str:
    """A test id: the choices that are not the defaults."""
    words = [str(value) for name, value in options.items() if name != "perspective_correct"]
    return "-".join([*words, "perspective" if options["perspective_correct"] else "linear"])
