"""What slangc says of an entry point's parameters: names, types and fields, in its JSON form."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from .cache import find_or_build
from .request import BuildRequest
from .slang_compiler import compiler_options, read_depfile, run_slangc, slangc_path
from .slang_service import compile_in_worker


def parameters_of(request: BuildRequest, entry: str) -> dict[str, Any]:
    """The types of the parameters of the compute shader `entry`, by name, as slangc's reflection describes them.

    Raises:
        ShaderError: the file does not compile.
    """

    def build(folder: Path) -> Iterable[str]:
        options = compiler_options(request.defines, request.include_paths)
        arguments = ["-target", "cuda", "-entry", entry, "-stage", "compute", *options]
        if compiled := compile_in_worker(slangc_path(), [request.path, *arguments, "-skip-codegen"], None):
            (folder / "reflection.json").write_text(compiled.text)
            return compiled.dependencies
        with tempfile.TemporaryDirectory(prefix="slangrast-") as scratch:
            depfile = os.path.join(scratch, "deps")
            run_slangc(
                request.path, *arguments, "-o", os.path.join(scratch, "program.cu"), "-depfile", depfile,
                "-reflection-json", str(folder / "reflection.json"),
            )  # fmt: skip
            return read_depfile(depfile)

    folder = find_or_build(request.digest("reflection", entry), request.searched_folders(), build)
    described = json.loads((folder / "reflection.json").read_text())
    (entry_point,) = described["entryPoints"]
    return {parameter["name"]: parameter["type"] for parameter in entry_point["parameters"]}
