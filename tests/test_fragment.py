"""What soft_rasterizer.slang does to one pixel: its tests of a fragment, and the softmax that runs over fragments."""

from __future__ import annotations

import torch
from torch import Tensor

from tests.comparison import in_both_precisions
from tests.probes import generator, pixels_and_faces, probe

ROWS = 200
PATCH = {"TILE": 16, "PATCH": 8}  # what the shader is compiled for


def fragment_rows(near: float, far: float, cutoff: float, sigma: float) -> Tensor:
    """[ROWS, 19] The pixel, near, far, cutoff, the face, sigma, gamma."""
    rows = pixels_and_faces(ROWS, seed=5)
    limits = torch.tensor([near, far, cutoff], dtype=torch.float64).expand(ROWS, 3)
    softness = torch.tensor([sigma, 0.1], dtype=torch.float64).expand(ROWS, 2)
    return torch.cat([rows[:, :2], limits, rows[:, 2:], softness], dim=1)


@in_both_precisions
def test_a_fragment_is_kept_between_the_planes_and_above_the_cutoff(dtype: torch.dtype) -> None:
    rows = fragment_rows(2.0, 5.0, 0.2, 0.05).to(dtype)
    depth = probe("fragment", "make_fragment", rows, 7, **PATCH)[:, 3]
    kept, inside, coverage, wholly = probe("fragment", "test_fragment", rows, 4, **PATCH).unbind(dim=1)
    expected = (depth >= 2) & (depth <= 5) & (coverage >= 0.2)
    assert torch.equal(kept > 0, expected) and 0 < expected.sum() < ROWS
    assert torch.equal(inside > 0, coverage >= 0.5)
    # Where a whole face is in range, no pixel's depth is out of it.
    assert ((depth >= 2) & (depth <= 5))[wholly > 0].all() and 0 < (wholly > 0).sum() < ROWS


@in_both_precisions
def test_gradient_of_a_fragment(dtype: torch.dtype) -> None:
    rows = fragment_rows(1.0, 100.0, 1e-4, 0.5)[:24].to(dtype).requires_grad_()
    found = probe("fragment", "make_fragment", rows, 7, **PATCH)
    cotangent = torch.randn(found.shape, generator=generator(9), dtype=torch.float64).to(dtype)
    (gradient,) = torch.autograd.grad(found, rows, cotangent)
    exact = rows.detach().double()
    step = 1e-6
    for column in range(5, 19):
        move = torch.zeros(19, dtype=torch.float64)
        move[column] = step
        above, below = (probe("fragment", "make_fragment", exact + sign * move, 7, **PATCH) for sign in (1, -1))
        change = above - below
        expected = (change * cotangent.double()).sum(dim=1) / (2 * step)
        scale = expected.abs().max().clamp(min=1e-3)
        allowed = 1e-3 if dtype == torch.float32 else 1e-6
        assert (gradient[:, column].double() - expected).abs().max() <= allowed * scale, column


@in_both_precisions
def test_a_running_softmax_is_the_softmax(dtype: torch.dtype) -> None:
    numbers = generator(11)
    fragments = torch.randn(ROWS, 9, 4, generator=numbers, dtype=torch.float64)
    fragments[..., 0] *= torch.logspace(-1, 3.5, ROWS, dtype=torch.float64)[:, None]  # logits, up to wild ones
    fragments[..., 1] = torch.rand(ROWS, 9, generator=numbers, dtype=torch.float64) + 1e-3  # factors
    fragments[..., 2] = (torch.rand(ROWS, 9, generator=numbers) > 0.3).double()  # kept or not
    rows = torch.cat([torch.randn(ROWS, 2, generator=numbers, dtype=torch.float64), fragments.flatten(1)], dim=1)
    rows = rows.to(dtype)
    log_sum, mean = probe("fragment", "running_softmax", rows, 2, **PATCH).double().unbind(dim=1)

    rows = rows.double()
    fragments = rows[:, 2:].reshape(ROWS, 9, 4)
    logits = torch.where(fragments[..., 2] > 0, fragments[..., 0] + fragments[..., 1].log(), -torch.inf)
    logits = torch.cat([rows[:, :1], logits], dim=1)
    values = torch.cat([rows[:, 1:2], fragments[..., 3]], dim=1)
    tolerance = {torch.float32: 1e-5, torch.float64: 1e-12}[dtype]
    assert torch.allclose(log_sum, logits.logsumexp(dim=1), rtol=tolerance, atol=tolerance)
    assert torch.allclose(mean, (logits.softmax(dim=1) * values).sum(dim=1), rtol=tolerance, atol=10 * tolerance)


@in_both_precisions
def test_sum_of(dtype: torch.dtype) -> None:
    rows = torch.randn(ROWS, 16, generator=generator(1), dtype=torch.float64).to(dtype)
    assert torch.allclose(probe("fragment", "sum_of", rows, 1, **PATCH)[:, 0], rows.sum(dim=1), atol=1e-5)


@in_both_precisions
def test_pixels_of_a_patch(dtype: torch.dtype) -> None:
    """Block by block of 4 x 4 from the patch's corner; the last patch reaches beyond an image of 53 x 37."""
    pixels = [(4 * (block % 2) + x, 4 * (block // 2) + y) for block in range(4) for y in range(4) for x in range(4)]
    rows = torch.tensor([48.0, 32.0, 53.0, 37.0]).expand(64, 4)
    index = torch.arange(64)[:, None]
    found = probe("fragment", "patch", torch.cat([rows, index], dim=1).to(dtype), 3, **PATCH)
    assert [(x - 48, y - 32) for x, y in found[:, :2].tolist()] == pixels
    assert (found[:, 2] > 0).tolist() == [x < 5 and y < 5 for x, y in pixels]


@in_both_precisions
def test_blocks_that_a_face_may_reach(dtype: torch.dtype) -> None:
    """Every block with a pixel within the margin of all three edges' lines, and no block that is far outside of one."""
    width, height, margin = 53, 37, 0.05
    corners = torch.tensor([[0, 0], [8, 0], [48, 32], [24, 16]]).repeat(ROWS // 4, 1)
    faces = pixels_and_faces(ROWS, seed=6)[:, 2:]
    head = torch.cat([corners, torch.tensor([width, height]).expand(ROWS, 2)], dim=1)
    rows = torch.cat([head, faces, torch.full((ROWS, 1), margin)], dim=1)
    found = probe("fragment", "reached_blocks", rows.to(dtype), 1, **PATCH)[:, 0].long()

    block, y, x = torch.meshgrid(torch.arange(4), torch.arange(4), torch.arange(4), indexing="ij")
    across, down = 4 * (block % 2) + x, 4 * (block // 2) + y
    column, row = corners[:, 0, None, None, None] + across, corners[:, 1, None, None, None] + down
    pixels = torch.stack([2 * column + 1 - width, height - 1 - 2 * row], dim=-1).double() / min(width, height)
    v = faces.reshape(ROWS, 3, 4)[..., :2]
    edges = v.roll(-1, dims=1) - v
    winding = torch.sign(edges[:, 0, 0] * edges[:, 1, 1] - edges[:, 0, 1] * edges[:, 1, 0])
    inside = []
    for k in range(3):
        from_start = pixels - v[:, k, None, None, None]
        along = (winding[:, None] * edges[:, k] / edges[:, k].norm(dim=-1, keepdim=True))[:, None, None, None]
        inside.append(along[..., 0] * from_start[..., 1] - along[..., 1] * from_start[..., 0])
    nearest = torch.stack(inside, dim=-1)  # [ROWS, 4, 4, 4, 3] how far inside each edge's line
    needed = ((nearest >= -margin).all(dim=-1)).flatten(2).any(dim=2)
    hopeless = (nearest.amax(dim=(2, 3)) < -margin - 0.01).any(dim=2)
    reached = found[:, None] >> torch.arange(4) & 1
    assert (reached[needed] == 1).all() and (reached[hopeless] == 0).all()
    assert needed.any() and hopeless.any() and not needed.all()
