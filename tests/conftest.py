"""What every test starts from: the same seeds, no display, and no CUDA test without a CUDA device."""

from __future__ import annotations

import os
import random

os.environ["MPLBACKEND"] = "Agg"  # before anything imports matplotlib

import hypothesis
import numpy as np
import pytest
import torch

# The same examples in every run, and no deadline: the first example may wait for a compiler.
hypothesis.settings.register_profile("fixed", derandomize=True, deadline=None, database=None)
hypothesis.settings.load_profile("fixed")


@pytest.fixture(autouse=True)
def fixed_seeds() -> None:
    """Random numbers do not depend on which tests ran before."""
    torch.manual_seed(0)
    np.random.seed(0)
    random.seed(0)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip tests marked `cuda` where there is no CUDA device, and say why there is none."""
    if torch.cuda.is_available():
        return
    why = "this torch is built without CUDA" if torch.version.cuda is None else "torch sees no CUDA device"
    skip = pytest.mark.skip(reason=f"needs a CUDA device, and {why}")
    for item in items:
        if item.get_closest_marker("cuda") is not None:
            item.add_marker(skip)
