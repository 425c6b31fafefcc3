"""`slangrast watch`: a page on this machine that renders a shader anew whenever it is saved."""

from .run import run_viewer

__all__ = ["run_viewer"]
