"""Meshes from images: `fit` deforms a template until its silhouettes, and if asked its colours, match."""

from slangrast.fitting.loop import FitProgress
from slangrast.fitting.run import FitResult, fit
from slangrast.fitting.settings import FitSettings

__all__ = ["FitProgress", "FitResult", "FitSettings", "fit"]
