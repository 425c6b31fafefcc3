"""What `soft_rasterize` refuses, and in which words."""

from __future__ import annotations

import math
import re

import pytest
import torch

import slangrast as sr
from tests import scenes
from tests.comparison import TAME, cast

V, F = 6, 3  # of the scene below


def arguments(**changed) -> dict:
    positions, triangles, attributes, resolution = cast(scenes.three_faces())
    base = {
        "positions": positions,
        "triangles": triangles,
        "attributes": attributes,
        "resolution": resolution,
    }
    return {**base, **TAME, **changed}


def test_the_arguments_are_good_as_they_are() -> None:
    assert sr.soft_rasterize(**arguments()).color.shape == (1, 5, 6, 3)


def test_attributes_for_another_number_of_images() -> None:
    positions = arguments()["positions"].expand(3, V, 4)
    with pytest.raises(ValueError, match=r"^soft_rasterize: attributes must be .* 3 images .* got 2"):
        sr.soft_rasterize(**arguments(positions=positions, attributes=torch.zeros(2, V, 3)))


INDICES = torch.tensor([[0, 1, 2]])

REFUSED = [
    # triangles
    ("triangles", torch.zeros(3, 5), "must be [F, 3] int32 or int64, got [3, 5] float32"),
    ("triangles", INDICES.float(), "must be [F, 3] int32 or int64, got [1, 3] float32"),
    ("triangles", INDICES.to(torch.int16), "must be [F, 3] int32 or int64, got [1, 3] int16"),
    ("triangles", INDICES[0], "must be [F, 3] int32 or int64, got [3] int64"),
    ("triangles", INDICES[None], "must be [F, 3] int32 or int64, got [1, 1, 3] int64"),
    ("triangles", INDICES + V - 2, "6"),
    ("triangles", INDICES - 1, "-1"),
    ("triangles", [[0, 1, 2]], "got list"),
    # positions
    ("positions", torch.zeros(V, 3), "got [6, 3] float32"),
    ("positions", torch.zeros(4), "got [4] float32"),
    ("positions", torch.zeros(1, 1, V, 4), "got [1, 1, 6, 4] float32"),
    ("positions", torch.zeros(V, 4, dtype=torch.int64), "got [6, 4] int64"),
    ("positions", torch.zeros(V, 4, dtype=torch.complex64), "complex64"),
    ("positions", torch.zeros(()).expand(65536, V, 4), "at most 65535 images, got [65536, 6, 4] float32"),
    ("positions", [[0.0] * 4] * V, "got list"),
    ("positions", None, "got None"),
    # attributes
    ("attributes", torch.zeros(V + 1, 3), "got [7, 3] float32"),
    ("attributes", torch.zeros(V), "got [6] float32"),
    ("attributes", torch.zeros(V, 3, dtype=torch.int32), "got [6, 3] int32"),
    ("attributes", torch.zeros(V, 3, dtype=torch.float64), "float64"),
    ("attributes", torch.zeros(V, 3, device="meta"), "meta"),
    # resolution
    ("resolution", (0, 5), "got (0, 5)"),
    ("resolution", (5, -1), "got (5, -1)"),
    ("resolution", (5,), "got (5,)"),
    ("resolution", (5, 6, 7), "got (5, 6, 7)"),
    ("resolution", (5.5, 6), "got (5.5, 6)"),
    ("resolution", 64, "got 64"),
    # softness
    ("sigma", 0.0, "got 0.0"),
    ("sigma", -1e-3, "got -0.001"),
    ("sigma", math.nan, "got nan"),
    ("sigma", math.inf, "got inf"),
    ("sigma", torch.tensor(-1.0), "got -1"),
    ("sigma", torch.ones(2), "got [2]"),
    ("sigma", torch.ones(1, 1), "got [1, 1]"),
    ("sigma", "soft", "soft"),
    ("gamma", 1e-9, "1e-08"),
    ("gamma", 0.0, "got 0.0"),
    ("gamma", -1.0, "got -1.0"),
    ("gamma", math.nan, "got nan"),
    ("gamma", torch.ones(2), "got [2]"),
    ("epsilon", math.nan, "got nan"),
    ("epsilon", torch.ones(2), "got [2]"),
    # background
    ("background", torch.zeros(2), "got [2]"),
    ("background", torch.zeros(2, 3), "got [2, 3]"),
    ("background", torch.zeros(1, 6, 5, 3), "got [1, 6, 5, 3]"),
    ("background", "black", "black"),
    ("background", torch.zeros(3, device="meta"), "meta"),
    # depth range and cutoff
    ("near", scenes.FAR, "far"),
    ("near", math.nan, "nan"),
    ("far", 0.5, "near"),
    ("cutoff", 1.0, "got 1.0"),
    ("cutoff", -0.1, "got -0.1"),
    ("cutoff", math.nan, "got nan"),
    # names
    ("coverage", "gauss", "'gauss'"),
    ("falloff", "linear", "'linear'"),
    ("aggregation", "mean", "'mean'"),
    ("silhouette", "average", "'average'"),
    ("depth", "log", "'log'"),
    ("coverage", None, "got None"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("name", "value", "message"), REFUSED, ids=[f"{name}-{message}" for name, _, message in REFUSED]
)
def test_refused(name: str, value, message: str) -> None:
    with pytest.raises((ValueError, TypeError)) as error:
        sr.soft_rasterize(**arguments(**{name: value}))
    text = str(error.value)
    assert re.match(r"soft_rasterize: (near|far|" + name + r")\b.* must ", text), text
    assert message in text, text


@pytest.mark.parametrize(
    ("name", "allowed"),
    [
        ("coverage", ["squared_distance", "distance", "barycentric", "edge_product", "hard"]),
        ("falloff", ["logistic"]),
        ("aggregation", ["softmax", "additive", "hard"]),
        ("silhouette", ["probabilistic", "max", "sum"]),
        ("depth", ["view", "ndc"]),
    ],
)
def test_an_unknown_name_lists_the_known_ones(name: str, allowed: list[str]) -> None:
    with pytest.raises(ValueError, match=f"soft_rasterize: {name} must be") as error:
        sr.soft_rasterize(**arguments(**{name: "unheard_of"}))
    assert all(word in str(error.value) for word in allowed)


def test_errors_of_soft_silhouette_carry_its_own_name() -> None:
    positions, triangles, _, resolution = cast(scenes.three_faces())
    with pytest.raises(ValueError, match=r"^soft_silhouette: sigma must"):
        sr.soft_silhouette(positions, triangles, resolution, sigma=-1.0)
    with pytest.raises((ValueError, TypeError), match=r"^soft_silhouette: triangles must be \[F, 3\] int32 or int64"):
        sr.soft_silhouette(positions, triangles.float(), resolution)


def test_a_device_without_an_engine_is_named() -> None:
    on_meta = {
        name: value.to("meta") if isinstance(value, torch.Tensor) else value for name, value in arguments().items()
    }
    with pytest.raises((ValueError, TypeError), match=r"^soft_rasterize: positions must .* meta"):
        sr.soft_rasterize(**on_meta)


@pytest.mark.cuda
@pytest.mark.parametrize("name", ["positions", "triangles", "attributes"])
def test_mixed_devices(name: str) -> None:
    mixed = arguments()
    mixed[name] = mixed[name].cuda()
    with pytest.raises(ValueError, match=r"^soft_rasterize: .* must be on"):
        sr.soft_rasterize(**mixed)


@pytest.mark.cuda
def test_float64_on_cuda() -> None:
    exact = cast(scenes.three_faces(), "cuda", torch.float64)
    with pytest.raises((ValueError, TypeError), match=r"^soft_rasterize: positions must .* float64"):
        sr.soft_rasterize(*exact)


def test_an_image_beyond_the_reach_of_slang_is_refused_before_memory_is_taken() -> None:
    positions, triangles = torch.rand(3, 4), torch.tensor([[0, 1, 2]])
    with pytest.raises(ValueError, match=r"^soft_rasterize: resolution must .* got 30000 x 30000, 10\.1 GiB"):
        sr.soft_rasterize(positions, triangles, torch.rand(3, 3), (30000, 30000))
    with pytest.raises(ValueError, match=r"^soft_silhouette: resolution must .* got 30000 x 30000, 6\.7 GiB"):
        sr.soft_silhouette(positions, triangles, (30000, 30000))
