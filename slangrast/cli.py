"""The command line: `slangrast demo`, `fit`, `watch` and `doctor`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

_CAMERAS = """cameras:
  .npy    [N, 3] distance, elevation and azimuth in degrees, around the origin, y up: the eye is at
          d (cos el sin az, sin el, -cos el cos az). Lens by --fov.
  .json   one of
          {"view": [4x4 ...], "projection": [4x4 ...]}                OpenGL, world to view, view to clip
          {"K": [3x3 ...], "R": [3x3 ...], "t": [3 ...], "width": W, "height": H, "pixel_center": 0}   OpenCV
          {"distance": [...], "elevation": [...], "azimuth": [...], "fov": 30, "handedness": "left"}
          A matrix or number may stand once for all images.
results in --out:
  result.obj, result.png (target, result, difference), progress.gif, metrics.json, checkpoint.pt
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; 0 when it succeeded, 2 when the user must change something, 130 after Ctrl-C."""
    options = _parser().parse_args(argv)
    try:
        return options.run(options)
    except KeyboardInterrupt:
        print("slangrast: interrupted", file=sys.stderr)
        return 130
    except (ValueError, TypeError, OSError, RuntimeError) as error:
        print(f"slangrast: {error}", file=sys.stderr)
        return 2


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="slangrast", description="A differentiable rasterizer written in Slang.")
    parser.add_argument("--version", action="version", version=_version())
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")

    demo = commands.add_parser("demo", help="make a mesh, render it, and find it again from its images")
    demo.add_argument("--out", type=Path, default=Path("demo"), help="folder for the results (default: %(default)s)")
    demo.set_defaults(run=_demo)

    fit = commands.add_parser(
        "fit",
        help="find the mesh that is in your images",
        epilog=_CAMERAS,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    fit.add_argument("--images", type=Path, required=True, help="folder of RGBA PNGs (sorted by name), a PNG or a .npy")
    fit.add_argument("--cameras", type=Path, required=True, help=".npy or .json, see below")
    fit.add_argument("--colour", "--color", action="store_true", help="find a colour for each vertex as well")
    fit.add_argument("--template", type=Path, help="mesh to start from (default: a sphere around the object)")
    fit.add_argument("--out", type=Path, default=Path("fit"), help="folder for the results (default: %(default)s)")
    fit.add_argument("--resume", action="store_true", help="go on from the checkpoint in --out")
    fit.add_argument("--steps", type=int, help="steps in all (default: 400)")
    fit.add_argument("--fov", type=float, default=30.0, help="vertical field of view in degrees (default: %(default)s)")
    fit.add_argument(
        "--handedness",
        choices=("left", "right"),
        default="left",
        help="of a camera given by distance, elevation and azimuth: left as SoftRas has it, right as OpenGL has it; "
        "the wrong one gives a mirror image that fits badly (default: %(default)s)",
    )
    fit.add_argument("--seed", type=int, default=0, help="of the order in which images are used (default: %(default)s)")
    fit.set_defaults(run=_fit)

    watch = commands.add_parser(
        "watch",
        help="show a shader on a live page: save it, and see the next frame change",
        description="Serve a page on this machine that renders a mesh with the shader, and its gradient, anew whenever "
        "the shader or anything it imports is saved. Errors appear on the page, with the source line.",
    )
    watch.add_argument(
        "shader",
        metavar="SHADER",
        help="file.slang:Struct, a formula of yours (the name may be left out where the file has one); or a shipped "
        "shader, such as coverage",
    )
    watch.add_argument(
        "--scene", default="sphere", help="sphere, cube, torus, plane or a mesh file (default: %(default)s)"
    )
    watch.add_argument("--size", type=int, default=256, help="of the image in pixels (default: %(default)s)")
    watch.add_argument("--port", type=int, default=8000, help="of 127.0.0.1; 0 takes a free one (default: %(default)s)")
    watch.set_defaults(run=_watch)

    doctor = commands.add_parser(
        "doctor",
        help="say what this machine can do, and how to repair what it cannot",
        description="Look at what is installed, run a kernel with its gradient on each engine, and check slangc's "
        "gradients. Exit code 0 where some engine works.",
    )
    doctor.add_argument("--json", action="store_true", help="print a JSON object, for a bug report")
    doctor.set_defaults(run=_doctor)
    return parser


def _demo(options: argparse.Namespace) -> int:
    from slangrast.demo import run_demo

    return _report(run_demo(options.out), options.out)


def _fit(options: argparse.Namespace) -> int:
    from slangrast.fitting.files import read_cameras, read_images
    from slangrast.fitting.job import run_job
    from slangrast.fitting.settings import FitSettings
    from slangrast.mesh import load_mesh

    images = read_images(options.images)
    height, width = images.shape[1:3]
    cameras = read_cameras(options.cameras, len(images), width / height, options.fov, options.handedness)
    template = None if options.template is None else load_mesh(options.template, keep_uv=False)
    chosen = {} if options.steps is None else {"steps": options.steps}
    settings = FitSettings(seed=options.seed, **chosen)
    result = run_job(
        images,
        cameras,
        options.out,
        template=template,
        with_colors=options.colour,
        settings=settings,
        resume=options.resume,
    )
    return _report(result, options.out)


def _watch(options: argparse.Namespace) -> int:
    from slangrast.viewer import run_viewer

    return run_viewer(options.shader, options.scene, port=options.port, size=options.size)


def _doctor(options: argparse.Namespace) -> int:
    from slangrast.doctor import run_doctor

    return run_doctor(as_json=options.json)


def _report(result: object, out: Path) -> int:
    from slangrast.fitting.run import FitResult

    assert isinstance(result, FitResult)
    print(f"mean IoU {result.iou:.4f} over {len(result.ious)} views after {result.steps} steps: see {out}/")
    if result.interrupted:
        print(f"slangrast: interrupted; {out}/ holds the best so far, and --resume goes on from it", file=sys.stderr)
        return 130
    return 0


def _version() -> str:
    import slangrast

    return f"slangrast {slangrast.__version__}"
