"""Where the shipped shaders are: inside an installed package, or at the top of a checkout."""

from __future__ import annotations

from pathlib import Path


def shader_folder() -> Path:
    """The folder that holds the shipped `.slang` files.

    A wheel carries it as `slangrast/shaders/`. A checkout, and so an editable install, has no such
    folder and uses `shaders/` beside the package, where an edit counts at once.
    """
    package = Path(__file__).resolve().parent.parent
    packaged = package / "shaders"
    return packaged if packaged.is_dir() else package.parent / "shaders"
