"""Where the shipped shaders are: inside an installed package, or at the top of a checkout."""

from __future__ import annotations

import os
from pathlib import Path


def shader_folder() -> Path:
    """The folder that holds the shipped `.slang` files.

    A wheel carries it as `slangrast/shaders/`. A checkout, and so an editable install, has no such
    folder and uses `shaders/` beside the package, where an edit counts at once.
    """
    package = Path(__file__).resolve().parent.parent
    packaged = package / "shaders"
    return packaged if packaged.is_dir() else package.parent / "shaders"


def find_shader(path: str | os.PathLike[str]) -> Path:
    """The file of that path, or the shipped shader of that name.

    Raises:
        FileNotFoundError: there is neither.
    """
    given = Path(path)
    if given.is_file():
        return given.resolve()
    if given.suffix in ("", ".slang"):
        shipped = shader_folder() / given.with_suffix(".slang")
        if len(given.parts) == 1 and shipped.is_file():
            return shipped.resolve()
    names = sorted(shader.stem for shader in shader_folder().glob("*.slang"))
    raise FileNotFoundError(f"load_module: no file {given}, and no shipped shader of that name; shipped are {names}")
