"""A fragment against the reference, whatever formulas it is compiled for; and the ends of a softmax that runs."""

from __future__ import annotations

import math
from itertools import chain

import pytest
import torch
from torch import Tensor

from slangrast.formulas import AGGREGATIONS, COVERAGES, SILHOUETTES
from tests.comparison import in_both_precisions
from tests.probes import assert_agrees, corners_of, generator, pixels_and_faces, probe, row_by_row
from tests.references import aggregation, coverage, interpolation

ROWS = 200
NEAR, FAR, CUTOFF = 2.0, 8.0, 0.1
PLAIN = {
    "coverage": "squared_distance",
    "aggregation": "softmax",
    "silhouette": "probabilistic",
    "depth": "view",
    "perspective_correct": True,
}
# Every choice at least once: that each pair of choices fits together is for tests of the whole image.
VARIANTS = [
    PLAIN,
    {**PLAIN, "coverage": "barycentric", "aggregation": "additive", "silhouette": "sum", "depth": "ndc"},
    {**PLAIN, "coverage": "edge_product", "silhouette": "max", "depth": "ndc", "perspective_correct": False},
    {**PLAIN, "coverage": "distance", "aggregation": "hard", "perspective_correct": False},
]
# Each is a module to compile: all in float64, and the defaults as most users have them too.
on_some_engine = pytest.mark.parametrize(
    ("variant", "device", "dtype"),
    [pytest.param(variant, "cpu", torch.float64, id=f"{variant['coverage']}-cpu-float64") for variant in VARIANTS]
    + [
        pytest.param(PLAIN, "cpu", torch.float32, id="squared_distance-cpu-float32"),
        pytest.param(PLAIN, "cuda", torch.float32, id="squared_distance-cuda-float32", marks=pytest.mark.cuda),
    ],
)


def defines(variant: dict) -> dict:
    return {
        "COVERAGE": COVERAGES[variant["coverage"]].struct,
        "FALLOFF": "Logistic",
        "AGGREGATION": AGGREGATIONS[variant["aggregation"]].struct,
        "SILHOUETTE": SILHOUETTES[variant["silhouette"]].struct,
        "KEEPS_NEAREST": variant["aggregation"] == "hard",
        "KEEPS_LARGEST": variant["silhouette"] == "max",
        "UNITES": variant["silhouette"] == "probabilistic",
        "CHANNELS": 1,  # of the kernel, which is compiled along: the least of it
        "WITH_COLOR": True,
        "VIEW_DEPTH": variant["depth"] == "view",
        "PERSPECTIVE_CORRECT": variant["perspective_correct"],
        "TILE": 16,
        "PATCH": 1,
    }


def fragment_rows() -> Tensor:
    """[ROWS, 19] The pixel, near, far, cutoff, the face, sigma, gamma."""
    rows = pixels_and_faces(ROWS, seed=12)
    limits = torch.tensor([NEAR, FAR, CUTOFF], dtype=torch.float64).expand(ROWS, 3)
    softness = 0.1 + 0.4 * torch.rand(ROWS, 2, generator=generator(13), dtype=torch.float64)
    return torch.cat([rows[:, :2], limits, rows[:, 2:], softness], dim=1)


def screen_weights(rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Clipped barycentrics, z and w of the vertices, all [R, 3]."""
    depth, inverse_w = rows[:, 5:17].reshape(-1, 3, 4)[..., 2:].unbind(dim=2)
    weights = row_by_row(coverage.barycentrics)(rows[:, :2], corners_of(rows[:, 5:17]))
    return interpolation.clip_barycentrics(weights), depth / inverse_w, 1 / inverse_w


def log_coverage(rows: Tensor, kind: str) -> Tensor:
    def one(points: Tensor, corners: Tensor, sigma: Tensor) -> Tensor:
        return coverage.log_coverage(kind, points, corners, sigma)

    return row_by_row(one)(rows[:, :2], corners_of(rows[:, 5:17]), rows[:, 17])


def depths(rows: Tensor, kind: str) -> tuple[Tensor, Tensor]:
    """[R] The view depth; and the score, from 0 at the near plane to -1 at the far one."""
    weights, z, w = screen_weights(rows)
    view_depth = interpolation.view_depth(weights[:, None], w[:, None])[:, 0]
    if kind == "view":
        return view_depth, (NEAR - view_depth) / (FAR - NEAR)
    return view_depth, -(1 + interpolation.ndc_depth(weights[:, None], z[:, None], w[:, None])[:, 0]) / 2


def fragment(rows: Tensor, variant: dict) -> Tensor:
    """[R, 7] Factor, logit, the share in the silhouette, the view depth, and the weights of the vertices."""
    log_value = log_coverage(rows, variant["coverage"])
    value, gamma = log_value.exp(), rows[:, 18]
    view_depth, score = depths(rows, variant["depth"])
    one = torch.ones_like(value)
    factor, logit = {
        "softmax": (value, score / gamma),
        "additive": (one, value + score / gamma),
        "hard": (one, score),
    }[variant["aggregation"]]
    share = -aggregation.log_complement(log_value) if variant["silhouette"] == "probabilistic" else value
    weights, _, w = screen_weights(rows)
    corrected = interpolation.attribute_weights(weights[:, None], w[:, None], variant["perspective_correct"])[:, 0]
    return torch.cat([torch.stack([factor, logit, share, view_depth], dim=1), corrected], dim=1)


@on_some_engine
def test_make_fragment(variant: dict, device: str, dtype: torch.dtype) -> None:
    def reference(rows: Tensor) -> Tensor:
        return fragment(rows, variant)

    rows = fragment_rows()
    assert_agrees("fragment", "make_fragment", reference, rows, device, dtype, constants=5, **defines(variant))


@on_some_engine
def test_test_fragment(variant: dict, device: str, dtype: torch.dtype) -> None:
    rows = fragment_rows().to(device, dtype)
    kept, inside, value = (
        probe("fragment", "test_fragment", rows, 4, **defines(variant)).cpu().double()[:, :3].unbind(dim=1)
    )
    exact = rows.cpu().double()
    expected = log_coverage(exact, variant["coverage"]).exp()
    view_depth, score = depths(exact, variant["depth"])
    between = (view_depth > NEAR) & (view_depth < FAR) if variant["depth"] == "view" else (score < 0) & (score > -1)
    torch.testing.assert_close(value, expected, rtol=1e-5 if dtype == torch.float32 else 1e-12, atol=1e-7)
    assert torch.equal(kept > 0, between & (expected >= CUTOFF)) and 0 < kept.sum() < ROWS
    corners = corners_of(exact[:, 5:17])
    covered = row_by_row(lambda p, c: coverage.inside(p, c)[..., None])(exact[:, :2], corners)[:, 0]
    assert torch.equal(inside > 0, covered)


@in_both_precisions
def test_a_fragment_on_a_plane_is_between_the_planes(dtype: torch.dtype) -> None:
    """Within a hundred-thousandth: all pixels of a camera without perspective have depth 1, more or less."""
    rows = fragment_rows()[:1].repeat(5, 1)
    rows[:, 5:17] = torch.tensor([[-9.0, -9, 0, 0.5], [9.0, -9, 0, 0.5], [0.0, 9, 0, 0.5]]).flatten()
    rows[:, :2], rows[:, 3], rows[:, 4] = 0.0, 9.0, 1e-4
    rows[:, 2] = torch.tensor(
        [1.0, 2.0, 2.0 * (1 + 5e-6), 2.0 * (1 + 2e-5), 3.0]
    )  # the near plane, before a depth of 2
    kept = probe("fragment", "test_fragment", rows.to(dtype), 4, **defines(PLAIN))[:, 0]
    assert kept.tolist() == [1, 1, 1, 0, 0]
    rows[:, 3], rows[:, 2] = rows[:, 2].clone(), 0.1  # and the far plane, behind it
    rows[:, 3] = torch.tensor([1.0, 2.0 * (1 - 2e-5), 2.0 * (1 - 5e-6), 2.0, 3.0])
    kept = probe("fragment", "test_fragment", rows.to(dtype), 4, **defines(PLAIN))[:, 0]
    assert kept.tolist() == [0, 0, 1, 1, 1]


@in_both_precisions
def test_logits_at_the_ends_of_the_range(dtype: torch.dtype) -> None:
    """Gamma 1e-8 makes logits of 1e8, first upwards and then downwards: no overflow, and the highest alone counts."""
    background = [-1e8, 0.25]
    climbing = [(-5e7, 0.5, 1.0, 1.0), (-1e3, 0.5, 1.0, 2.0), (0.0, 0.5, 1.0, 3.0)]  # logit, factor, kept, value
    for order, expected in [(climbing, 3.0), (climbing[::-1], 3.0), ([], 0.25)]:
        row = torch.tensor([[*background, *chain.from_iterable(order)]], dtype=dtype)
        log_sum, mean = probe("fragment", "running_softmax", row, 2, **defines(PLAIN))[0].tolist()
        assert mean == pytest.approx(expected, rel=1e-6)
        assert log_sum == pytest.approx(math.log(0.5) if order else -1e8, rel=1e-6)


def test_equal_logits_share() -> None:
    row = torch.tensor([[0.7, 1.0, *[0.7, 1.0, 1.0, 3.0], *[0.7, 2.0, 1.0, 5.0]]], dtype=torch.float64)
    log_sum, mean = probe("fragment", "running_softmax", row, 2, **defines(PLAIN))[0].tolist()
    assert log_sum == pytest.approx(0.7 + math.log(4)) and mean == pytest.approx((1 + 3 + 10) / 4)
