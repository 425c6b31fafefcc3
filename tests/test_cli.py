"""The command line: what it leaves behind, and what it says when it cannot."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import slangrast
from slangrast.cli import main
from slangrast.demo import bumpy_mesh, render_views, run_demo, views_around
from slangrast.fitting import FitSettings
from slangrast.mesh import icosphere, load_mesh, save_mesh

SIZE = 24
RESULTS = {"result.obj", "result.png", "progress.gif", "metrics.json", "checkpoint.pt"}


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with images.npy, cameras.json and sphere.obj."""
    folder = tmp_path_factory.mktemp("inputs")
    cameras = views_around(6)
    np.save(folder / "images.npy", render_views(bumpy_mesh(2), cameras, SIZE).numpy())
    matrices = {"view": cameras.view.tolist(), "projection": cameras.projection[0].tolist()}
    (folder / "cameras.json").write_text(json.dumps(matrices))
    save_mesh(folder / "sphere.obj", icosphere(2, 1.1))
    return folder


@pytest.fixture
def ctrl_c() -> Iterator[None]:
    """SIGINT as in a terminal, for this process and those it starts, also where the tests run in the background."""
    previous = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, previous)


def fit_arguments(inputs: Path, out: Path, *more: str, **paths: Path) -> list[str]:
    files = {"images": inputs / "images.npy", "cameras": inputs / "cameras.json", "template": inputs / "sphere.obj"}
    files.update(paths, out=out)
    return ["fit", *(word for name, path in files.items() for word in (f"--{name}", str(path))), *more]


def refusal(capsys: pytest.CaptureFixture[str], arguments: list[str]) -> str:
    """The one line that a command ends with when it exits with 2."""
    assert main(arguments) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    lines = [line for line in captured.err.replace("\r", "\n").splitlines() if line.strip() and "step/s" not in line]
    assert len(lines) == 1, captured.err
    assert lines[0].startswith("slangrast: ")
    return lines[0]


def test_fit_leaves_its_results(inputs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "deep" / "out"
    assert main(fit_arguments(inputs, out, "--steps", "8", "--seed", "5")) == 0
    captured = capsys.readouterr()
    assert captured.out.startswith("mean IoU 0.") and f"after 8 steps: see {out}/" in captured.out
    assert {path.name for path in out.iterdir()} == RESULTS
    metrics = json.loads((out / "metrics.json").read_text())
    assert metrics["steps"] == 8
    assert metrics["settings"]["steps"] == 8
    assert metrics["settings"]["seed"] == 5
    assert len(metrics["ious"]) == 6
    assert metrics["mean_iou"] == pytest.approx(sum(metrics["ious"]) / 6, abs=1e-4)
    assert metrics["lowest_iou"] == pytest.approx(min(metrics["ious"]), abs=1e-4)
    assert 0.6 < metrics["mean_iou"] <= 1
    assert metrics["interrupted"] is False
    mesh = load_mesh(out / "result.obj")
    assert (len(mesh.vertices), len(mesh.triangles)) == (metrics["vertices"], metrics["triangles"]) == (162, 320)
    with Image.open(out / "progress.gif") as film:
        assert 5 <= film.n_frames <= 9  # one for each step and the result; a GIF joins frames alike
        assert film.size == (2 * 192, 192)
    with Image.open(out / "result.png") as picture:
        assert np.asarray(picture.convert("L")).std() > 10


@pytest.mark.parametrize("spelling", ["--colour", "--color"])
def test_fit_finds_colours(inputs: Path, tmp_path: Path, spelling: str) -> None:
    assert main(fit_arguments(inputs, tmp_path, "--steps", "2", spelling)) == 0
    colors = load_mesh(tmp_path / "result.obj").vertex_colors
    assert colors is not None
    assert float(colors.std(0).max()) > 0


def test_orbits_take_the_lens_and_the_hand(inputs: Path, tmp_path: Path) -> None:
    index = np.arange(6)
    rows = np.stack([np.full(6, 4.2), np.array([-35.0, 0, 35])[index % 3], index * 60.0], axis=1)
    np.save(tmp_path / "cameras.npy", rows)
    found = {}
    for name, options in {
        "right": ("--fov", "40", "--handedness", "right"),
        "wide": ("--fov", "60", "--handedness", "right"),
        "left": ("--fov", "40"),
    }.items():
        out = tmp_path / name
        arguments = fit_arguments(inputs, out, "--steps", "2", *options, cameras=tmp_path / "cameras.npy")
        assert main(arguments) == 0
        found[name] = load_mesh(out / "result.obj").vertices
    # The orbit of the inputs: the same result as from its matrices.
    assert main(fit_arguments(inputs, tmp_path / "json", "--steps", "2")) == 0
    expected = load_mesh(tmp_path / "json" / "result.obj").vertices
    torch.testing.assert_close(found["right"], expected, atol=1e-3, rtol=0)
    assert (found["left"] - expected).abs().max() > 0.01
    assert (found["wide"] - expected).abs().max() > 0.01


def test_resume(inputs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    assert "resume: " in refusal(capsys, fit_arguments(inputs, out, "--steps", "3", "--resume"))
    assert not out.exists()
    assert main(fit_arguments(inputs, out, "--steps", "3")) == 0
    first = (out / "result.obj").read_bytes()
    (out / "result.obj").unlink()
    assert main(fit_arguments(inputs, out, "--steps", "3", "--resume")) == 0
    assert (out / "result.obj").read_bytes() == first
    capsys.readouterr()
    message = refusal(capsys, fit_arguments(inputs, out, "--steps", "4", "--resume"))
    assert "checkpoint must be of the same settings, got one with steps=3" in message
    (out / "checkpoint.pt").write_bytes(b"cut short")
    assert "checkpoint must be a file that fit wrote" in refusal(
        capsys, fit_arguments(inputs, out, "--steps", "3", "--resume")
    )


def test_ctrl_c_keeps_what_was_found(inputs: Path, tmp_path: Path, ctrl_c: None) -> None:
    out = tmp_path / "out"
    command = [sys.executable, "-m", "slangrast", *fit_arguments(inputs, out, "--steps", "2000")]
    root = str(Path(slangrast.__file__).parents[1])
    environment = {**os.environ, "PYTHONPATH": root, "OMP_NUM_THREADS": "1"}
    with (tmp_path / "stderr").open("w") as errors:
        running = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=errors)
        try:
            deadline = time.monotonic() + 120
            while not (out / "checkpoint.pt").exists() and running.poll() is None and time.monotonic() < deadline:
                time.sleep(0.05)
            running.send_signal(signal.SIGINT)
            status = running.wait(timeout=60)
        finally:
            running.kill()
            running.wait()
    said = (tmp_path / "stderr").read_text()
    assert status == 130, said
    assert "Traceback" not in said
    assert said.splitlines()[-1].startswith("slangrast: interrupted; ")
    assert {path.name for path in out.iterdir()} == RESULTS
    metrics = json.loads((out / "metrics.json").read_text())
    assert metrics["interrupted"] is True
    assert 20 <= metrics["steps"] < 2000


def test_ctrl_c_outside_a_fit(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def interrupted(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("slangrast.demo.run_demo", interrupted)
    assert main(["demo"]) == 130
    assert capsys.readouterr().err == "slangrast: interrupted\n"


def test_what_is_wrong_is_said_before_a_folder_is_made(
    inputs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    images = np.load(inputs / "images.npy")
    np.save(tmp_path / "few.npy", images[:5])
    np.save(tmp_path / "empty.npy", 0 * images)
    np.save(tmp_path / "bright.npy", 255 * images)
    far = icosphere(1)
    save_mesh(tmp_path / "far.obj", slangrast.Mesh(far.vertices + 50, far.triangles))
    (tmp_path / "text.obj").write_text("no mesh in here\n")
    missing = tmp_path / "missing"
    cases: list[tuple[dict[str, Path], tuple[str, ...], str]] = [
        ({"images": missing}, (), "images: "),
        ({"images": tmp_path / "few.npy"}, (), "one camera for each of the 5 images, got 6"),
        ({"images": tmp_path / "empty.npy"}, (), "6 empty silhouettes"),
        ({"images": tmp_path / "bright.npy"}, (), "images must be finite and in [0, 1]"),
        ({"cameras": missing}, (), "cameras: "),
        ({"cameras": inputs / "sphere.obj"}, (), "cameras: "),
        ({"template": missing}, (), "load_mesh: path must be an existing file"),
        ({"template": tmp_path / "text.obj"}, (), "load_mesh: path must be a"),
        ({"template": tmp_path / "far.obj"}, (), "template must overlap the object"),
        ({}, ("--steps", "0"), "FitSettings: steps must be at least 1, got 0"),
        ({}, ("--seed", "-1"), "FitSettings: seed must be at least 0, got -1"),
    ]
    for paths, more, message in cases:
        assert message in refusal(capsys, fit_arguments(inputs, out, *more, **paths))
        assert not out.exists(), message


def test_an_output_folder_that_cannot_be_made(inputs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("in the way")
    for out in (tmp_path / "file", tmp_path / "file" / "out"):
        assert "must be a folder that can be written" in refusal(capsys, fit_arguments(inputs, out, "--steps", "2"))
        assert "must be a folder that can be written" in refusal(capsys, ["demo", "--out", str(out)])


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_an_output_folder_without_permission(inputs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tmp_path.chmod(0o500)
    assert "must be a folder that can be written" in refusal(capsys, fit_arguments(inputs, tmp_path, "--steps", "2"))


@pytest.mark.parametrize(
    "arguments, message",
    [
        ([], "arguments are required: COMMAND"),
        (["polish"], "invalid choice: 'polish'"),
        (["fit"], "arguments are required: --images, --cameras"),
        (["fit", "--images", "a", "--cameras", "b", "--steps", "many"], "--steps: invalid int value: 'many'"),
        (["fit", "--images", "a", "--cameras", "b", "--handedness", "both"], "--handedness: invalid choice: 'both'"),
    ],
)
def test_arguments_that_are_refused(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2
    assert message in capsys.readouterr().err


def test_version_and_help(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments, words in ((["--version"], slangrast.__version__), (["fit", "--help"], "result.obj, result.png")):
        with pytest.raises(SystemExit) as ended:
            main(arguments)
        assert ended.value.code == 0
        assert words in capsys.readouterr().out


def test_the_demo_finds_its_mesh_again(tmp_path: Path) -> None:
    settings = FitSettings(levels=1, steps=20, coarse_size=32, views_per_step=6)
    result = run_demo(tmp_path / "demo", size=32, settings=settings)
    assert result.iou > 0.92
    assert result.mesh.vertex_colors is not None
    assert {path.name for path in (tmp_path / "demo").iterdir()} == {*RESULTS, "target.png"}
    with Image.open(tmp_path / "demo" / "target.png") as picture:
        assert picture.size == (4 * 32, 32)
    assert json.loads((tmp_path / "demo" / "metrics.json").read_text())["mean_iou"] == pytest.approx(result.iou)
