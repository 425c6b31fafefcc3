"""coincident_vertices.slang where it meets what should not be. Elsewhere: tests/test_antialias.py."""

from __future__ import annotations

import torch

import slangrast as sr


def test_a_vertex_that_is_not_in_the_table_is_its_own() -> None:
    """Where threads do not agree on what is equal, a search may end without it. It must not go on past the table."""
    positions = torch.arange(24.0).reshape(1, 6, 4)
    table, first = torch.full((16,), -1, dtype=torch.int32), torch.empty(6, dtype=torch.int32)
    module = sr.load_module("edge_rings", device="cpu", debug=True)
    module.launch(module.look_up_positions(positions=positions, table=table, out_first=first), over=(6,))
    assert first.tolist() == list(range(6))
