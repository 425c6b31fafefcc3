"""python -m benchmarks.reload: how long a save takes to become an image; write JSON and a table."""

from __future__ import annotations

import argparse
import os
import queue
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

import slangrast as sr
from slangrast.runtime.module import loaded_modules

from .report import add_out, describe_machine, heading, write_report

_IMPORTED = "[Differentiable] public float rippled(float x, float r) {{ return x + r * sin({number}f * x); }}\n"
_FORMULA = """import falloff;
import rippled;

struct Rippled : IFalloff
{{
    float ripple;{field}

    [Differentiable]
    CoverageValue evaluate(float x)
    {{
        return coverage_of(0.5f + 0.5f * tanh({number}f * rippled(x, ripple){use}));
    }}
}};
"""
_LONGEST_SECONDS = 120.0


class Author:
    """Somebody who edits a falloff in a running program that renders with it."""

    def __init__(self, folder: Path, faces: int, size: int, device: str = "cpu") -> None:
        self._folder, self._size = folder, size
        mesh = sr.icosphere({1280: 3, 5120: 4}[faces])
        self._positions = sr.Camera.orbit(4.0, 25.0, 30.0, fov_degrees=35).project(mesh.vertices).to(device)
        self._triangles, self._colors = mesh.triangles.to(device), (0.5 + 0.5 * mesh.vertices).to(device)
        self._parameters: dict[str, Any] = {"ripple": 0.2}
        self._numbers = iter(range(1000))
        # What is saved was never seen before, so that nothing is found in the cache.
        self._seed = int.from_bytes(os.urandom(3), "little")
        self.save_constant()
        self.save_import()

    def _number(self) -> str:
        return f"1.{next(self._numbers):03d}{self._seed:08d}"

    def save_constant(self) -> None:
        text = _FORMULA.format(number=self._number(), field="", use="")
        (self._folder / "own.slang").write_text(text)

    def save_import(self) -> None:
        (self._folder / "rippled.slang").write_text(_IMPORTED.format(number=self._number()))

    def save_signature(self) -> None:
        name = f"shift{next(self._numbers)}"
        self._parameters = {"ripple": 0.2, name: torch.tensor(0.1, device=self._positions.device).requires_grad_()}
        text = _FORMULA.format(number=self._number(), field=f"\n    float {name};", use=f" + {name}")
        (self._folder / "own.slang").write_text(text)

    def render(self) -> torch.Tensor:
        positions = self._positions.detach().requires_grad_()
        falloff = sr.Formula(f"{self._folder / 'own.slang'}:Rippled", **self._parameters)
        image = sr.soft_rasterize(
            positions, self._triangles, self._colors, (self._size, self._size), sigma=1e-3, falloff=falloff
        )
        image.color.square().mean().backward()
        if positions.device.type == "cuda":
            torch.cuda.synchronize()
        return image.color.detach()


def measure_saves(author: Author, folder: Path, save: Callable[[], None], repeats: int) -> dict[str, float]:
    """Medians of the seconds from the save to the kernels and to the first image with its gradient, and of a frame."""
    events: queue.Queue[tuple[str, Any]] = queue.Queue()
    rows: list[dict[str, float]] = []
    author.render()
    with sr.watch(
        folder / "own.slang",
        on_reload=lambda modules: events.put(("reload", modules)),
        on_error=lambda error: events.put(("error", error)),
    ):
        time.sleep(1.0)
        for _ in range(repeats):
            before = author.render()
            started = time.perf_counter()
            save()
            kind, what = events.get(timeout=_LONGEST_SECONDS)
            built = time.perf_counter() - started
            if kind == "error":
                raise what
            image = author.render()
            rows.append({"kernels_s": built, "image_s": time.perf_counter() - started, "frame_ms": _frame_ms(author)})
            if torch.equal(image, before):
                raise RuntimeError("the image did not change")
    return {name: statistics.median(row[name] for row in rows) for name in rows[0]}


def measure_unchanged(author: Author, device: str) -> dict[str, float]:
    """The longest reload of an unchanged module, and an identical load, in milliseconds."""
    author.render()
    reloads, loads = [], []
    for module in loaded_modules():
        reloads.append(statistics.median(_milliseconds(module.reload) for _ in range(5)))
        request = module.request
        loads.append(
            statistics.median(
                _milliseconds(
                    lambda request=request: sr.load_module(
                        request.path, device=device, defines=dict(request.defines), include_paths=request.include_paths
                    )
                )
                for _ in range(5)
            )
        )
    return {"unchanged_reload_ms": max(reloads), "identical_load_ms": max(loads)}


def _frame_ms(author: Author) -> float:
    return statistics.median(_milliseconds(author.render) for _ in range(5))


def _milliseconds(step: Callable[[], Any]) -> float:
    started = time.perf_counter()
    step()
    return 1e3 * (time.perf_counter() - started)


def table(report: dict[str, Any]) -> str:
    scene = report["scene"]
    lines = [
        heading(report["machine"], f"python -m benchmarks.reload --device {report['device']}")
        + f" Load of the machine before: {report['load']:.1f}. {scene['faces']:,} faces, {scene['size']}², colour, "
        "forward and backward.",
        "",
        "| saved | new kernels after, s | first image after, s | frame, ms |",
        "|---|---|---|---|",
    ]
    for name, row in report["saves"].items():
        lines.append(f"| {name} | {row['kernels_s']:.2f} | {row['image_s']:.2f} | {row['frame_ms']:.1f} |")
    unchanged = report["unchanged"]
    lines += [
        "",
        f"Unchanged reload: {unchanged['unchanged_reload_ms']:.1f} ms. "
        f"Identical load: {unchanged['identical_load_ms']:.1f} ms. (The slowest of the modules.)",
    ]
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.reload", description=__doc__)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--faces", type=int, choices=[1280, 5120], default=1280)
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--repeats", type=int, default=5)
    add_out(parser)
    options = parser.parse_args()
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name).resolve()
        author = Author(folder, options.faces, options.size, options.device)
        kinds = {
            "a constant": author.save_constant,
            "an imported file": author.save_import,
            "a signature": author.save_signature,
        }
        saves = {kind: measure_saves(author, folder, save, options.repeats) for kind, save in kinds.items()}
        unchanged = measure_unchanged(author, options.device)
    scene = {"faces": options.faces, "size": options.size}
    report = {"machine": describe_machine(options.device), "device": options.device, "load": load, "scene": scene}
    report |= {"saves": saves, "unchanged": unchanged}
    write_report(options.out, "reload" if options.device == "cpu" else "reload-cuda", report, table(report))


if __name__ == "__main__":
    main()
