"""`BuildRequest`: what a module is built from, and how."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .cache import digest
from .slang_compiler import slangc_version

# engine -> the device that it serves
ENGINES = {"cpu": "cpu", "simt": "cpu", "cuda": "cuda", "nvrtc": "cuda"}


@dataclass(frozen=True)
class BuildRequest:
    """All that decides what a module becomes, but for the contents of its files."""

    path: str
    defines: Mapping[str, str] = field(default_factory=dict)
    include_paths: tuple[str, ...] = ()
    precision: str = "float32"
    fast_math: bool = False
    debug: bool = False  # check every access (CPU engines)
    simt: bool = False  # a block's threads as warps of 32 lanes (CPU engines)
    sanitizer: str = ""  # "address", "undefined" or "thread": instrument the host code (CPU engines)
    quick: bool = False  # soon ready rather than fast: what a hot reload shows first
    attachment: Any = field(default=None, compare=False)  # what the asker wants to find with what was built

    @property
    def float64(self) -> bool:
        return self.precision == "float64"

    @property
    def is_checked(self) -> bool:
        """Whether a launch may find faults."""
        return self.debug or self.simt

    def searched_folders(self) -> list[str]:
        return [str(Path(self.path).parent), *self.include_paths]

    def digest(self, *more: str) -> str:
        return digest(
            self.path, json.dumps(dict(self.defines), sort_keys=True), "\0".join(self.include_paths), self.precision,
            str((self.fast_math, self.debug, self.simt, self.sanitizer, self.quick)), slangc_version(), *more,
        )  # fmt: skip
