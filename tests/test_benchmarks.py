"""The benchmarks: a small case end to end, the comparison before a ratio, and what is read from others' output."""

from __future__ import annotations

import json
import sys
import time
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from benchmarks import __main__ as command
from benchmarks import cases, contenders, cuda, hard, measure, peers, registers, tables, timing
from benchmarks.contenders import (
    PROTOTYPE_TOLERANCE,
    Contender,
    GradientGap,
    Tolerance,
    differentiable,
    gradient_gap,
    render_slangrast,
)
from benchmarks.measure import Plan, admit, admit_peer
from slangrast import icosphere

SMALL = cases.Case("small", partial(cases.icosphere, 0), 16, beside_plain=True)
MACHINE = {"date": "2000-01-01", "cores": "1", "processor": "p", "torch": "1", "slangc": "1", "compiler": "c"}
MACHINE |= {"commit": "abc"}


@pytest.fixture(scope="module")
def row() -> dict:
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(measure.CASES, "small", SMALL)
        threads = torch.get_num_threads()
        try:
            return measure.measure(Plan("small", "silhouette", threads, with_slow=True, seconds=0.01))
        finally:
            torch.set_num_threads(threads)


def test_a_row_has_times_and_memory_and_agrees_with_plain_pytorch(row: dict) -> None:
    assert 0 < row["forward_best_ms"] <= row["forward_ms"] < row["step_ms"] < row["plain_step_ms"]
    assert row["plain_largest_difference"] < 1e-4 and row["plain_share_of_pixels"] == 1
    assert 0 <= row["peak_growth_mib"] < 5 and 0 < row["peak_tensors_mib"] < 0.2
    assert row["faces"] == 20 and row["memory_bar_mib"] == pytest.approx((64 * 16 * 16 + 256 * 20 + 4 * 20) / 2**20)


def test_the_table_shows_ratios_only_of_what_was_timed(row: dict) -> None:
    bests = {"forward_best_ms": 1.0, "step_best_ms": 4.0, "prototype_forward_best_ms": 2.0}
    alone = {**row, **bests, "prototype_step_best_ms": 2.0, "threads": 1, "step_ms": 8.0, "prototype_step_ms": 3.0}
    alone |= {"forward_ms": 1.0, "prototype_forward_ms": 2.0, "plain_step_ms": 1000.0}
    both = {**alone, "threads": 2, "step_ms": 5.0, "prototype_step_ms": 2.0}
    report = {"machine": MACHINE, "load": 0.0, "left_out": {"a peer": "a reason"}, "rows": [alone, both]}
    lines = tables.cpu_table(report).splitlines()
    cells = [cell.strip() for cell in lines[5].split("|")]
    assert cells[4:10] == ["1.00", "5.00", "2.00, 2.00", "0.50, 2.50", "0.50, 2.00", "1.60 (1.50)"]
    assert cells[-3:-1] == ["1,000", "200×"]
    assert lines[-1] == "Left out: a peer (a reason)."
    assert "busy" in tables.cpu_table({**report, "load": 2.0}) and "busy" not in tables.cpu_table(report)
    without = [cell.strip() for cell in tables.cpu_table({**report, "rows": [row]}).splitlines()[4].split("|")]
    assert without[6:9] == ["", "", ""]


def test_another_image_is_not_timed() -> None:
    image, spot = torch.zeros(1, 32, 32), torch.zeros(1, 32, 32)
    spot[0, 3, 5] = 0.01
    row: dict = {}
    same, other = (Contender(name, None, lambda d=d: (image + d,)) for name, d in (("same", 1e-5), ("other", spot)))
    assert admit(same, (image,), PROTOTYPE_TOLERANCE, row) == [same] and "same_left_out" not in row
    assert admit(other, (image,), PROTOTYPE_TOLERANCE, row) == []
    assert row["other_largest_difference"] == pytest.approx(0.01)
    assert "differs by 1.0e-02" in row["other_left_out"]
    assert admit(other, (image,), Tolerance(1.0, 1e-4), row) == [other]
    assert admit(other, (image,), Tolerance(1.0, 1e-6), row) == []  # 1e-5 on average


def test_gradients_are_compared_as_a_whole_by_vertex_and_along_motions() -> None:
    scene = cases.make_scene(SMALL)
    ours = torch.rand_like(scene.positions)
    assert gradient_gap(scene, ours, ours) == GradientGap(0, 0, 0)
    assert gradient_gap(scene, ours, -ours) == GradientGap(*[pytest.approx(2)] * 3)
    spoilt = ours.clone()
    spoilt[0, 3] += 1000
    gap = gradient_gap(scene, ours, spoilt)
    assert gap.whole > 100 and gap.median == 0 and gap.motions > 1
    unseen = ours * (torch.arange(ours.shape[1]) < 2)[:, None]
    assert gradient_gap(scene, unseen, 1.5 * unseen).median == pytest.approx(0.5)  # who has no gradient has no share

    with torch.no_grad():
        scene.positions[0, 1] = 2 * scene.positions[0, 0]  # both at one place of the image
    moved = ours.clone()
    moved[0, 1, [0, 1]] += ours[0, 0, [0, 1]] / 2
    moved[0, 0, [0, 1]] = 0
    gap = gradient_gap(scene, ours, moved)
    assert gap.whole > 0.1 and gap.motions < 1e-6


def test_motions_are_shifts_a_scaling_and_a_turn() -> None:
    scene = cases.make_scene(SMALL)
    amounts = torch.zeros(4, requires_grad=True)
    x, y = (scene.positions[..., :2] / scene.positions[..., 3:]).unbind(-1)
    moved_x = amounts[0] + (1 + amounts[2]) * x - amounts[3] * y
    moved_y = amounts[1] + (1 + amounts[2]) * y + amounts[3] * x
    (torch.linspace(1, 2, x.shape[1]) * (moved_x + moved_x.square() * moved_y)).sum().backward()
    found = contenders._along_motions(scene, scene.positions.grad)
    assert torch.allclose(found.float(), amounts.grad, rtol=1e-4)


def test_a_row_says_whose_gradient_is_another(monkeypatch: pytest.MonkeyPatch) -> None:
    scene = cases.make_scene(SMALL)
    weights = (torch.ones(1, 16, 16),)
    monkeypatch.setitem(peers._APART, ("flat", "silhouette"), peers._Apart("it is flat"))
    monkeypatch.setitem(peers._APART, ("flatter", "silhouette"), peers._Apart("it is flat", motions=0.5))

    def render(scene: cases.Scene, mode: str, share: float = 1.0) -> tuple[torch.Tensor]:
        if scene.positions[0, 0, 1] != first:  # upside down
            scene = replace(scene, positions=scene.positions * torch.tensor([1.0, -1.0, 1.0, 1.0]))
        image = render_slangrast(scene, mode)[0]
        return (share * image + (1 - share) * image.detach(),)

    first = scene.positions[0, 0, 1].item()
    none = {"flat": 0.0, "flatter": 0.0, "other": 0.0}
    monkeypatch.setattr(peers, "load_peer", lambda name, device: partial(render, share=none.get(name, 1.0)))
    ours = differentiable("ours", partial(render, mode="silhouette"), scene, weights)
    row: dict = {}
    for name in ("twin", "nvdiffrast", *none):
        peer = peers.peer_contender(name, "cpu", "silhouette", scene, weights)
        assert admit_peer(peer, ours, "silhouette", row) == [peer]
        assert row[f"{name}_gradient_whole"] == pytest.approx(float(name in none), abs=1e-5)
    assert "twin_gradient_apart" not in row and "nvdiffrast_gradient_apart" not in row
    assert row["flat_gradient_apart"] == "it is flat" and row["other_gradient_apart"] == "not explained"
    assert row["flatter_gradient_apart"].startswith("not explained") and row["flatter_gradient_motions"] == 1
    assert scene.positions.grad is None


def test_estimator_of_edges_gets_the_finished_picture(monkeypatch: pytest.MonkeyPatch) -> None:
    """What drtk interpolates outside of all faces is noise, and the estimator would take its steps for edges."""
    ids = torch.tensor([[[0, -1], [-1, 0]]])
    seen = []

    def estimate(pixels: object, triangles: object, barycentrics: object, image: torch.Tensor, ids: object) -> object:
        seen.append(image)
        return image

    drtk = SimpleNamespace(
        rasterize=lambda *arguments: ids,
        render=lambda *arguments: (None, None),
        interpolate=lambda *arguments: torch.full((1, 3, 2, 2), 0.75),
        edge_grad_estimator=estimate,
    )
    monkeypatch.setitem(sys.modules, "drtk", drtk)
    scene = cases.make_scene(replace(SMALL, size=2))
    (image,) = peers._drtk("cpu")(scene, "edges")
    assert torch.equal(seen[0], 0.75 * (ids >= 0)[:, None].expand(1, 3, 2, 2))
    assert torch.equal(image, seen[0].permute(0, 2, 3, 1))


def test_contenders_take_turns() -> None:
    order = []

    def run(name: str) -> None:
        order.append(name)
        time.sleep(0.025)  # longer than a turn

    times = timing.alternate({"ours": partial(run, "ours"), "theirs": partial(run, "theirs")}, seconds=0.0, fewest=3)
    assert order == ["ours", "theirs"] * 4
    assert times["ours"].median >= times["ours"].best >= 25


def test_what_is_too_slow_runs_once() -> None:
    runs, began = [], time.perf_counter()
    times = timing.alternate({"slow": lambda: runs.append(time.sleep(1.1))}, longest=1.0)
    assert len(runs) == 1 and times["slow"].best >= 1100
    assert time.perf_counter() - began < 1.9, "it went on with nothing to do"


def test_peak_growth_sees_memory_that_is_freed_again() -> None:
    found = timing.peak_growth_mib(lambda: torch.ones(8 * 2**20))
    assert found is None or 31 < found < 48


def test_memory_of_a_step_is_what_a_second_one_takes() -> None:
    """What is needed once, such as loaded code and kept tensors, is not of the scene; what is freed again is."""
    kept: list[torch.Tensor] = []
    left: list[torch.Tensor] = []

    def step() -> None:
        if not kept:
            kept.append(torch.ones(16 * 2**20))
        torch.ones(4 * 2**20)
        left.append(torch.ones(2**20))

    found = timing.memory_of_a_step(step, left.clear)
    assert found["peak_growth_mib"] is None or 15 < found["peak_growth_mib"] < 22
    assert found["peak_tensors_mib"] == pytest.approx(16)  # the first was gone before the second came
    assert timing.peak_of_tensors_mib(lambda: None) == 0


@pytest.mark.parametrize("name", ["S5", "S7", "L1"])
def test_scenes(name: str) -> None:
    scene = cases.make_scene(cases.CASES[name])
    faces = {"S5": 2 * 140 * 139, "S7": 20 * 4**5 + 2, "L1": 12}[name]
    assert scene.triangles.shape == (faces, 3) and int(scene.triangles.max()) == scene.positions.shape[1] - 1
    ndc = scene.positions[..., :2] / scene.positions[..., 3:]
    assert (ndc.abs().max() > 1) == (name == "S7")  # the wall is larger than the image
    assert (scene.positions[..., 3] > 1).all()


def test_uv_sphere_is_closed_and_turned_outwards() -> None:
    sphere = cases.uv_sphere(6, 8)
    corners = sphere.vertices[sphere.triangles.long()]
    volume = torch.linalg.det(corners).sum() / 6
    assert volume > 0 and torch.linalg.det(icosphere(0).vertices[icosphere(0).triangles.long()]).sum() > 0
    edges = torch.cat([sphere.triangles[:, [a, b]] for a, b in ((0, 1), (1, 2), (2, 0))]).tolist()
    assert sorted(map(tuple, edges)) == sorted((b, a) for a, b in edges)


def test_every_mode_has_peers_and_a_missing_peer_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    assert set(cases.MODES) <= set(peers.PEERS) == set(cuda.MODES)
    assert peers.load_peer("softras", "cpu") is None
    for broken in (lambda device: __import__("no_such_package"), lambda device: device.no_such_function):
        monkeypatch.setitem(peers._FACTORIES, "drtk", broken)
        assert peers.load_peer.__wrapped__("drtk", "cpu") is None
    scene = cases.make_scene(SMALL)
    assert peers.peer_contender("softras", "cpu", "color", scene, ()) is None


def test_a_peer_whose_rows_run_upwards_gets_the_scene_upside_down(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that it is not charged for turning its image."""
    scene = cases.make_scene(SMALL)
    seen = []

    def render(scene: cases.Scene, mode: str) -> tuple[torch.Tensor]:
        seen.append(scene)
        return (scene.positions[..., 1].sum() * torch.ones(1),)

    monkeypatch.setattr(peers, "load_peer", lambda name, device: render)
    peer = peers.peer_contender("nvdiffrast", "cuda", "interior", scene, (torch.ones(1),))
    peer.step()
    assert torch.equal(seen[0].positions[..., 1], -scene.positions[..., 1]) and scene.positions.grad is None
    assert torch.equal(peer.scene.positions.grad[..., 1], torch.ones(scene.positions.shape[:2]))
    peer = peers.peer_contender("drtk", "cpu", "interior", scene, (torch.ones(1),))
    assert peer.scene is scene


def test_a_peer_is_differentiated_with_the_same_upstream_gradient() -> None:
    scene = cases.make_scene(replace(SMALL, size=8))
    upstream = (torch.rand(1, 8, 8),)
    peer = differentiable("peer", lambda scene: (scene.positions.sum() * torch.ones(1, 8, 8),), scene, upstream)
    assert not peer.forward()[0].requires_grad
    peer.step()
    peer.step()  # gradients do not add up
    assert torch.allclose(scene.positions.grad, upstream[0].sum().expand(scene.positions.shape))


@pytest.fixture
def on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a row for a GPU be measured here, apart from what needs one. A forward "takes" no time, a step 1 ms."""

    def run_once(runs: dict, seconds: float) -> dict[str, float]:
        return {name: float(run()[0].requires_grad) for name, run in runs.items()}

    monkeypatch.setitem(cuda.CASES, "small", SMALL)
    monkeypatch.setattr(cases.Scene, "to", lambda scene, device: scene)
    monkeypatch.setattr(cuda, "_alternate_events", run_once)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "NVIDIA H100 80GB HBM3")


def test_a_row_of_a_gpu_times_only_peers_that_render_the_same(on_a_gpu: None, monkeypatch: pytest.MonkeyPatch) -> None:
    def render(scene: cases.Scene, mode: str, offset: float) -> tuple[torch.Tensor]:
        return (render_slangrast(scene, mode)[0] + offset,)

    def fail(scene: cases.Scene, mode: str) -> tuple[torch.Tensor]:
        raise TypeError("no such argument\nand more")

    def describe(contender: Contender) -> dict:
        if contender.name == "forward":
            raise ValueError("no gradient")
        return {"launches": len(contender.name)}

    def capture(step: object) -> object:
        try:
            raise RuntimeError("a sync\nand more")
        finally:
            raise RuntimeError("the capture was invalidated")

    stand_ins = {"twin": partial(render, offset=1e-5), "other": partial(render, offset=0.1), "missing": None}
    stand_ins |= {"broken": fail, "forward": partial(render, offset=0.0)}
    monkeypatch.setattr(peers, "load_peer", lambda name, device: stand_ins[name])
    monkeypatch.setitem(peers.PEERS, "silhouette", tuple(stand_ins))
    monkeypatch.setattr(cuda, "_describe", describe)
    monkeypatch.setattr(cuda, "_captured", capture)
    row = cuda.measure_cuda("small", "silhouette")
    assert (row["forward_ms"], row["step_ms"], row["twin_forward_ms"], row["twin_step_ms"]) == (0.0, 1.0, 0.0, 1.0)
    assert row["launches"] == 9 and row["twin_launches"] == 4
    assert row["graph_left_out"] == row["twin_graph_left_out"] == "cannot be captured: a sync"
    assert row["missing_left_out"] == "it cannot be imported" and "differs by 1.0e-01" in row["other_left_out"]
    assert row["broken_left_out"] == "it fails: TypeError: no such argument"
    assert row["forward_left_out"] == "its step fails: ValueError: no gradient"
    assert not any(f"{name}_step_ms" in row for name in ("other", "missing", "broken", "forward"))
    assert "times_the_floor" not in row


def test_a_graph_whose_gradient_is_another_is_not_timed(on_a_gpu: None, monkeypatch: pytest.MonkeyPatch) -> None:
    scene = cases.make_scene(SMALL)
    upstream = (torch.ones(1, 16, 16),)
    ours = differentiable("slangrast", partial(render_slangrast, mode="silhouette"), scene, upstream)
    monkeypatch.setattr(cuda, "_captured", lambda step: step)
    assert cuda._replay(ours, 0.0) == {"graph_ms": 1.0}
    monkeypatch.setattr(cuda, "_captured", lambda step: lambda: scene.positions.grad.mul_(2))
    assert cuda._replay(ours, 0.0) == {"graph_left_out": "its gradient differs from that of the step by 1.0e+00"}
    assert scene.positions.grad is None


def test_the_floor_is_that_of_this_gpu(on_a_gpu: None, monkeypatch: pytest.MonkeyPatch) -> None:
    processors = SimpleNamespace(multi_processor_count=66)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: processors)
    row = {"case": "S4-512", "mode": "color", "step_ms": 6.4, "graph_ms": 3.2}
    expected = {"times_the_floor": pytest.approx(10), "graph_times_the_floor": pytest.approx(5)}
    assert cuda._times_the_floor(row) == expected
    assert cuda._times_the_floor({**row, "mode": "silhouette"}) == {}
    del row["graph_ms"]
    assert list(cuda._times_the_floor(row)) == ["times_the_floor"]
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "another")
    assert cuda._times_the_floor(row) == {}


def test_a_run_on_a_gpu_outlives_what_fails(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A row that fails is tried without peers; each row is written as soon as it is there."""
    written = []

    def measure_row(measure: object, case: str, mode: str, seconds: float, with_peers: bool) -> dict:
        written.append(len(list(tmp_path.iterdir())))
        if mode == "color" or (mode == "silhouette" and with_peers):
            raise RuntimeError("an illegal address\nand more")
        row = {"case": case, "faces": 2, "size": 4, "images": 1, "sigma": 1e-4, "mode": mode, "forward_ms": seconds}
        return row | {"step_ms": 1.0, "graph_ms": 1.0, "launches": 8, "host_syncs": 2, "peak_growth_mib": 3.0}

    machine = {**MACHINE, "gpu": "GPU", "cuda": "13.0"}
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(command, "describe_machine", lambda device: machine)
    monkeypatch.setattr(command, "in_own_process", measure_row)
    arguments = ["--device", "cuda", "--cases", "S1", "--modes", "color", "silhouette", "edges", "--seconds", "0.25"]
    monkeypatch.setattr("sys.argv", ["benchmarks", *arguments, "--out", str(tmp_path)])
    command.main()
    assert written == [0, 0, 2, 2, 2]
    report = json.loads((tmp_path / "cuda-2000-01-01.json").read_text())
    assert [(row["mode"], row["forward_ms"]) for row in report["rows"]] == [("silhouette", 0.25), ("edges", 0.25)]
    why = "RuntimeError: an illegal address"
    assert report["failed"] == {
        "S1, color, with peers": why, "S1, color": why, "S1, silhouette, with peers": why
    }  # fmt: skip


def test_calls_are_those_of_the_step_and_not_of_the_profiler() -> None:
    x = torch.ones(3, requires_grad=True)
    names = cuda._calls_during(lambda: x.mul(2).sum().backward())
    assert {"aten::mul", "aten::sum", "autograd::engine::evaluate_function: MulBackward0"} <= set(names)


def test_launches_and_syncs_are_counted() -> None:
    names = ["cudaLaunchKernel", "aten::add", "cuLaunchKernelEx", "cudaStreamSynchronize", "cudaMemcpyAsync"]
    assert cuda.count_calls(names) == {"launches": 2, "host_syncs": 1}
    assert cuda.count_calls(names[1:2]) == {"launches": None, "host_syncs": None}  # CUPTI was not allowed to look


def test_table_of_a_gpu() -> None:
    row = {"case": "S3", "faces": 2, "size": 4, "images": 1, "sigma": 1e-4, "mode": "color", "forward_ms": 0.5}
    row |= {"step_ms": 1.0, "graph_ms": 0.25, "times_the_floor": 31.25, "launches": 8, "host_syncs": 2}
    row |= {"peak_growth_mib": 3.0, "memory_bar_mib": 4.0, "gendr_left_out": "it cannot be imported"}
    row |= {"softras_step_ms": 12.0, "softras_largest_difference": 0.1, "softras_mean_difference": 1e-4}
    row |= {"softras_launches": 5, "graph_times_the_floor": 7.8125, "softras_gradient_apart": "a reason"}
    row |= {"softras_gradient_whole": 0.5, "softras_gradient_median": 1e-6, "softras_gradient_motions": 0.25}
    blind = {**row, "case": "S4", "launches": None, "host_syncs": None}
    report = {"machine": {**MACHINE, "gpu": "GPU", "cuda": "13.0"}, "rows": [row, blind], "failed": {"S5": "a reason"}}
    text = tables.cuda_table(report)
    assert "| S3: 2 faces, 4² | color | 0.500 | 1.00 | 0.250 | 31.2 (7.8) | 8 | 2 | 3.0 (4.0) |" in text
    assert "| ? | ? | 3.0 (4.0) |" in text and "Failed: S5 (a reason)." in text
    assert "| 5 |" in text and "| 12.0×" in text and "GPU (CUDA 13.0)" in text
    assert "gendr was left out, it cannot be imported: S3 color, S4 color." in text
    assert "| 5e-01 (1e-06) | 12.0× |" in text and "softras is not ours: a reason." in text
    assert "S3 color 5e-01 (2e-01), S4 color 5e-01 (2e-01)." in text


def test_what_ptxas_says_is_read() -> None:
    said = """ptxas info    : Compiling entry function '_Z17__kernel__project16DiffTensorView_0S_ii' for 'sm_90'
    0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Used 21 registers, used 0 barriers
ptxas info    : Compiling entry function '__kernel__project_bwd_diff' for 'sm_90'
    40 bytes stack frame, 8 bytes spill stores, 4 bytes spill loads
ptxas info    : Used 168 registers, used 1 barriers, 128 bytes smem, 40 bytes cumulative stack size
"""
    forward, backward = registers.read_report(said)
    assert forward == {
        "kernel": "project", "registers": 21, "spilled_bytes": 0, "stack_bytes": 0, "shared_bytes": 0, "warps": 64
    }  # fmt: skip
    assert backward["kernel"] == "project.bwd"
    assert [backward[name] for name in ("registers", "spilled_bytes", "stack_bytes", "shared_bytes", "warps")] == [
        168, 8, 40, 128, 12
    ]  # fmt: skip


def test_hard_cases_make_scenes() -> None:
    assert cases.make_scene(hard.CASES["H3"]).resolution == (2048, 2048)


def test_tables_of_the_hard_path_have_their_peers() -> None:
    row = {"case": "H1", "faces": 2, "size": 4, "threads": 1, "rasterize_ms": 1.0, "render_ms": 2.0, "step_ms": 3.0}
    row |= {"peak_growth_mib": 5.0, "peak_tensors_mib": 0.25, "edges_ms": 4.0, "drtk_ms": 16.0}
    alone = {**row, "threads": 2, "drtk_left_out": "it fails"}
    del alone["drtk_ms"]
    text = hard.table({"machine": MACHINE, "rows": [row, alone]})
    assert "| 3.00 | 5.0, 0.25 | 4.00 | 16.00 | 0.25 |" in text and "| 4.00 | it fails |  |" in text
    row = {"case": "H1", "faces": 2, "size": 4, "threads": 1, "interior_ms": 3.0, "pytorch3d_ms": 9000.0}
    text = hard.pytorch3d_table({"machine": MACHINE, "rows": [row]})
    assert "| 1 | 3.00 | 9,000.00 | 3,000× |" in text


def test_rows_of_the_hard_path_have_ours_and_the_peer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(hard.CASES, "small", SMALL)
    monkeypatch.setattr(peers, "load_peer", lambda name, device: render_slangrast)
    monkeypatch.setattr(hard, "alternate", partial(timing.alternate, seconds=0.01))
    threads = torch.get_num_threads()
    try:
        row, beside_pytorch3d = hard.measure("small", 1), hard.measure_beside_pytorch3d("small", 1)
    finally:
        torch.set_num_threads(threads)
    assert 0 < row["rasterize_ms"] < row["step_ms"] and row["render_ms"] > 0 and 0.2 < row["covered"] < 0.5
    assert row["edges_ms"] > 0 and row["drtk_ms"] > 0 and row["drtk_gradient_whole"] == 0
    assert hard.table({"machine": MACHINE, "rows": [row]}).count("\n") == 7
    assert beside_pytorch3d["interior_ms"] > 0 and beside_pytorch3d["pytorch3d_ms"] > 0
    assert hard.pytorch3d_table({"machine": MACHINE, "rows": [beside_pytorch3d]}).count("\n") == 7


def test_the_hard_path_is_measured_in_pieces(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """`--add` keeps other rows of the same commit, in the order of cases."""
    values = iter(range(9))

    def measure_row(measure: object, case: str, threads: int) -> dict:
        return {"case": case, "faces": 2, "size": 4, "threads": threads, "interior_ms": float(next(values))}

    def run(*arguments: str) -> list:
        monkeypatch.setattr("sys.argv", ["hard", "--pytorch3d", "--out", str(tmp_path), *arguments])
        hard.main()
        rows = json.loads((tmp_path / "hard-cpu-pytorch3d-2000-01-01.json").read_text())["rows"]
        return [(row["case"], row["threads"], row["interior_ms"]) for row in rows]

    machine = dict(MACHINE)
    monkeypatch.setattr(hard, "describe_machine", lambda: machine)
    monkeypatch.setattr(hard, "in_own_process", measure_row)
    assert run("--cases", "H1-512") == [("H1-512", 1, 0.0), ("H1-512", 2, 1.0)]
    assert run("--cases", "H1-256", "--threads", "2", "--add") == [
        ("H1-256", 2, 2.0), ("H1-512", 1, 0.0), ("H1-512", 2, 1.0)
    ]  # fmt: skip
    assert run("--cases", "H1-512", "--threads", "1", "--add")[1:] == [("H1-512", 1, 3.0), ("H1-512", 2, 1.0)]
    machine["commit"] = "def"
    assert run("--cases", "H1-256", "H2", "--threads", "1", "--add") == [("H1-256", 1, 4.0)]
