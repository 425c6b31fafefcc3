"""`slangrast doctor`: right about a machine that works, and useful on one where anything is broken."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

import slangrast
from slangrast.cli import main
from slangrast.doctor import Finding, Report, engines, gradients, machine
from slangrast.doctor.examination import CHECKS, Examiner, run_check
from slangrast.doctor.finding import ABSENT, AFFECTED, ENGINES, GRADIENTS, MACHINE, OK, PROBLEM

CHECKOUT = Path(slangrast.__file__).parents[1]


@pytest.fixture(autouse=True)
def plain_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ziglang", None)  # a machine without compilers is one without this one
    monkeypatch.delenv("SLANGC_PATH", raising=False)


def doctor(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "slangrast", "doctor", *arguments]
    return subprocess.run(command, cwd=CHECKOUT, env={**os.environ, **environment}, capture_output=True, text=True)


def examine_here(*sections: str) -> Report:
    """As `examine`, in this process and without the others' sections."""
    return Report([finding for section in sections for name in CHECKS[section] for finding in run_check(section, name)])


def script(path: Path, text: str) -> Path:
    path.parent.mkdir(exist_ok=True)
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return path


# A machine that works.


@pytest.fixture(scope="module")
def examination() -> dict:
    """What `slangrast doctor --json` says of this machine."""
    result = doctor("--json")
    assert result.returncode == 0, result.stdout + result.stderr
    return json.loads(result.stdout)


def status(examination: dict, name: str) -> str:
    (finding,) = [finding for finding in examination["findings"] if finding["name"] == name]
    return finding["status"]


def test_this_machine_works(examination: dict) -> None:
    assert {"cpu float32", "cpu float64", "simt"} <= set(examination["engines"])
    for name in ("slangrast", "Python", "torch", "slangc", "C++ compiler", "cache", "soft_rasterize"):
        assert status(examination, name) == OK
    assert not [problem for problem in examination["problems"] if problem["section"] != MACHINE]


def test_every_check_is_told(examination: dict) -> None:
    told = {finding["name"] for finding in examination["findings"]}
    assert {*engines.TRIALS, *gradients.TRIALS} - {"canaries (compiling)"} <= told
    assert {"nvcc", "ninja", "NVRTC", "GPU"} <= told


def test_what_is_known_of_this_slangc(examination: dict) -> None:
    """Of the slangc that is pinned. After an update, what changed here may be dropped from shaders' comments."""
    (slangc,) = [finding["text"] for finding in examination["findings"] if finding["name"] == "slangc"]
    if not slangc.startswith("2026.14.1,"):
        pytest.skip(f"known of slangc 2026.14.1 alone, and this is {slangc}")
    found = {f["name"] for f in examination["findings"] if f["section"] == GRADIENTS and f["status"] == AFFECTED}
    assert found == {
        "loop for a vector",
        "loop that counts down",
        "imported function used twice",
        "length() near zero",
        "reverse of a kernel",
    }


def test_the_text_fits_a_terminal_and_ends_with_a_verdict(examination: dict) -> None:
    lines = Report([Finding(**finding) for finding in examination["findings"]]).text().splitlines()
    assert lines[-1].startswith("slangrast works here, on cpu float32, cpu float64")
    assert all(len(line) <= 118 or "/" in line for line in lines)  # paths are not broken


@pytest.mark.cuda
@pytest.mark.parametrize("engine", ["cuda", "nvrtc"])
def test_engines_of_a_gpu(engine: str) -> None:
    (finding,) = engines.try_engine(engine, "float32")
    assert finding.status == OK or "needs n" in finding.text  # nvcc, ninja or NVRTC may be missing


# Machines that are broken.


def assert_one_fix(report: Report, fix: str, name: str = "C++ compiler") -> None:
    (problem,) = [problem for problem in report.problems if problem.name != "GPU"]
    assert (problem.name, problem.fix) == (name, fix)
    assert report.exit_code == 1
    assert f"    Fix: {fix}\n" in report.text()
    assert report.text().endswith("slangrast does not work here: no engine does.")


@pytest.fixture
def cpu_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


@pytest.fixture
def no_compiler(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, cpu_only: None) -> Path:
    """An empty folder that is all of PATH."""
    (tmp_path / "programs").mkdir()
    monkeypatch.setenv("PATH", str(tmp_path / "programs"))
    monkeypatch.delenv("SLANGRAST_CXX", raising=False)
    return tmp_path / "programs"


def test_no_compiler(no_compiler: Path) -> None:
    report = examine_here(MACHINE, ENGINES)
    assert_one_fix(report, "pip install 'slangrast[toolchain]'")
    assert "! cpu float32  does not work, see below" in report.text()
    assert "not checked, since that needs the engine cpu" in report.text()


@pytest.mark.parametrize("command", ["false", "no-such-program", "'", "/dev/null", "true"])
def test_a_broken_variable_is_unset(command: str, monkeypatch: pytest.MonkeyPatch, cpu_only: None) -> None:
    monkeypatch.setenv("SLANGRAST_CXX", command)
    assert_one_fix(examine_here(MACHINE, ENGINES), "unset SLANGRAST_CXX")


def test_a_compiler_that_works_is_named_where_the_preferred_one_does_not(no_compiler: Path) -> None:
    script(no_compiler / "clang++", '[ "$1" = --version ] && exit 0; echo "x.cpp:1:1: error: no thread" >&2; exit 1')
    script(no_compiler / "g++", "while [ $# -gt 0 ]; do [ $1 = -o ] && : >$2; shift; done")
    report = Report(machine.look_at_compilers())
    assert_one_fix(report, "export SLANGRAST_CXX=g++")
    assert "clang++ does not work: no thread" in report.text() and "also found: g++" in report.text()
    (no_compiler / "g++").unlink()
    assert_one_fix(Report(machine.look_at_compilers()), "pip install 'slangrast[toolchain]'")


@pytest.mark.parametrize("says", ["exit 3", "echo hello", "kill -9 $$"])
def test_a_slangc_that_does_not_work(
    says: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, cpu_only: None
) -> None:
    monkeypatch.setenv("SLANGC_PATH", str(script(tmp_path / "slangc", says)))
    assert_one_fix(examine_here(MACHINE, ENGINES), "unset SLANGC_PATH", "slangc")


def test_a_slangc_that_is_not_there(monkeypatch: pytest.MonkeyPatch, cpu_only: None) -> None:
    monkeypatch.setitem(sys.modules, "slangtorch", None)
    fix = "pip install --force-reinstall --no-deps 'slangtorch>=1.3.22,<1.4'"
    assert_one_fix(examine_here(MACHINE, ENGINES), fix, "slangc")


def test_a_cache_that_cannot_be_written(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, cpu_only: None) -> None:
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("SLANGRAST_CACHE", str(tmp_path / "file" / "cache"))
    assert_one_fix(examine_here(MACHINE, ENGINES), "unset SLANGRAST_CACHE", "cache")


@pytest.mark.parametrize("built_for", [None, "13.0"])
def test_a_gpu_that_torch_cannot_use(built_for: str | None, monkeypatch: pytest.MonkeyPatch, cpu_only: None) -> None:
    monkeypatch.setattr(machine, "_GPU_FILE", Path("/dev/null"))
    monkeypatch.setattr(torch.version, "cuda", built_for)
    gpu = machine.look_at_torch()[-1]
    assert gpu.status == PROBLEM and gpu.fix.startswith("nvidia-smi" if built_for else "pip install")
    report = Report([gpu, Finding(ENGINES, "cpu float32", OK, "works")])
    assert report.problems == [gpu] and report.exit_code == 0
    monkeypatch.setattr(machine, "_GPU_FILE", Path("/nonexistent"))
    assert machine.look_at_torch()[-1].status == ABSENT


def test_everything_is_broken_at_once(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    result = doctor(
        PATH=str(tmp_path), SLANGRAST_CXX="false", SLANGC_PATH="/dev/null", SLANGRAST_CACHE=f"{tmp_path}/file"
    )
    assert result.returncode == 1
    assert result.stderr == ""
    assert "- not checked, since that needs the engine cpu" in result.stdout
    for fix in ("unset SLANGRAST_CXX", "unset SLANGC_PATH", "unset SLANGRAST_CACHE"):
        assert result.stdout.count(f"    Fix: {fix}\n") == 1


def test_either_engine_of_a_gpu_will_do() -> None:
    findings = [Finding(ENGINES, "cuda", PROBLEM, "needs nvcc", "fix"), Finding(ENGINES, "nvrtc", OK, "works")]
    assert Report(findings).problems == [] and Report(findings).exit_code == 0
    assert "! cuda   needs nvcc" in Report(findings).text()
    assert Report(findings[:1]).problems == findings[:1]


# What slangc differentiates.


def canary_verdict(folder: Path, monkeypatch: pytest.MonkeyPatch, body: str, declarations: str = "") -> Finding:
    marks = "[AutoPyBindCUDA][CUDAKernel][Differentiable]\n"
    kernel = f"{marks}void canary(DiffTensorView x, DiffTensorView out_y)\n{{\n{body}\n}}\n"
    (folder / "bird.slang").write_text(declarations + kernel)
    monkeypatch.setattr(gradients, "CANARIES", folder)
    gradients._load.cache_clear()
    (finding,) = gradients.try_gradient(gradients.Canary("bird", "bird", "sing"))
    gradients._load.cache_clear()
    return finding


def test_a_right_gradient_is_told_from_a_wrong_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    body = "uint i = cudaThreadIdx().x; out_y.storeOnce(i, f(x[3 * i] * x[3 * i + 2]));"
    square = "[Differentiable] float f(float v) { return v * v; }\n"
    assert canary_verdict(tmp_path, monkeypatch, body, square).status == OK
    wrong = square.replace("v * v", "v * detach(v)")
    finding = canary_verdict(tmp_path, monkeypatch, body, wrong)
    assert finding.status == AFFECTED
    assert finding.text == "affected: off by 50 %. Instead: sing"


def test_a_derivative_that_does_not_compile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "its derivative does not compile" in canary_verdict(tmp_path, monkeypatch, "nothing").text


def test_a_shipped_formula_that_is_wrong_is_a_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    def render(detached: bool) -> Report:
        def soft_rasterize(positions, triangles, colors, resolution, *, sigma, gamma, cutoff) -> slangrast.SoftImage:
            factor = (sigma + sigma.detach()) / 2 if detached else sigma
            image = torch.outer(positions.sin().sum(1), colors.exp().sum(1)).mean() * factor + gamma**2
            return slangrast.SoftImage(image.expand(1, 7, 9, 2), image.expand(1, 7, 9), image.expand(1, 7, 9))

        monkeypatch.setattr(slangrast, "soft_rasterize", soft_rasterize)
        return Report([Finding(ENGINES, "cpu float32", OK, "works"), *run_check(GRADIENTS, "soft_rasterize")])

    assert render(detached=False).exit_code == 0
    report = render(detached=True)
    assert report.exit_code == 1
    assert report.problems[0].fix.startswith("pip install --force-reinstall --no-deps slangtorch==")
    assert report.text().endswith("do not trust its gradients.")


def test_a_warp_of_another_size_is_a_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engines, "_lanes", lambda module, device: 7)
    (finding,) = engines.try_engine("cpu", "float32")
    assert (finding.status, finding.text) == (PROBLEM, "gives wrong numbers: a warp of 7 lanes, not 1")


# Checks that do not come back.


def _fate(section: str, name: str) -> list[Finding]:
    if name == "crashes":
        os.kill(os.getpid(), signal.SIGSEGV)
    if name == "hangs":
        time.sleep(600)
    if name == "leaves":
        os._exit(3)
    return [Finding(section, name, OK, str(os.getpid()))]


@pytest.fixture(scope="module")
def examiner() -> Iterator[Examiner]:
    examiner = Examiner(_fate, patience=60)
    yield examiner
    examiner.close()


def test_a_check_that_crashes_costs_its_own_answer_alone(examiner: Examiner) -> None:
    first, second = (examiner.ask(ENGINES, name)[0] for name in ("a", "b"))
    assert first.text == second.text != str(os.getpid())
    (crash,) = examiner.ask(ENGINES, "crashes")
    assert (crash.status, crash.text) == (PROBLEM, "crashed (signal 11)")
    (end,) = examiner.ask(GRADIENTS, "leaves")
    assert (end.status, end.text) == (AFFECTED, "ended its process (3)")
    (after,) = examiner.ask(ENGINES, "c")
    assert after.status == OK and after.text != first.text


def test_a_check_that_hangs_is_ended(examiner: Examiner) -> None:
    assert examiner.ask(ENGINES, "a")[0].status == OK  # its process has started
    examiner._patience = 0.2
    (finding,) = examiner.ask(ENGINES, "hangs")
    examiner._patience = 60
    assert finding.status == PROBLEM and "gave no answer in" in finding.text
    assert examiner._running is None


def test_a_check_that_raises_is_a_finding(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(CHECKS[ENGINES], "odd", lambda: 1 // 0)  # type: ignore[arg-type, return-value]
    (finding,) = run_check(ENGINES, "odd")
    assert finding.status == PROBLEM and finding.text.startswith("ZeroDivisionError: ")


def test_a_terminal_is_told_what_is_being_done(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("slangrast.doctor.examine", lambda announce: announce("cache") or [])
    main(["doctor"])
    assert capsys.readouterr().err == ""  # in a file it would be noise
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    main(["doctor"])
    assert capsys.readouterr().err == "\r\033[Kchecking cache ...\r\033[K"


def test_the_command_returns_the_verdict(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    found = [Finding(ENGINES, "cpu float32", OK, "works")]
    monkeypatch.setattr("slangrast.doctor.examine", lambda announce: found)
    assert main(["doctor"]) == 0
    found[:] = [Finding(ENGINES, "cpu float32", PROBLEM, "does not", "pray")]
    assert main(["doctor", "--json"]) == 1
    text, _, listed = capsys.readouterr().out.partition("works here, on cpu float32.\n")
    assert text and json.loads(listed)["problems"] == [{**vars(found[0])}]
