"""Checkpoints: a fit under way as one file, written so that a file with this name is always whole."""

from __future__ import annotations

import hashlib
import os
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from slangrast.fitting.loop import Loop
from slangrast.fitting.scene import Scene
from slangrast.fitting.settings import FitSettings
from slangrast.mesh import Mesh

_FORMAT = "slangrast fit 1"


def write_atomically(path: Path, data: bytes) -> None:
    """Write a file so that readers see the old one or the new one, even after a kill or a full disk."""
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        beside.write_bytes(data)
        os.replace(beside, path)
    finally:
        beside.unlink(missing_ok=True)


def fingerprint(scene: Scene, template: Mesh) -> str:
    """A digest of what is fitted to what: a checkpoint of another problem must not be continued."""
    digest = hashlib.sha256()
    tensors = (scene.masks, scene.colors, scene.cameras.matrix, template.vertices, template.triangles)
    for tensor in tensors:
        digest.update(b"none" if tensor is None else _bytes(tensor))
    return digest.hexdigest()


def _bytes(tensor: Tensor) -> bytes:
    array = tensor.detach().cpu().contiguous().numpy()
    return str(array.shape).encode() + array.tobytes()


def save_checkpoint(path: Path, loop: Loop, problem: str) -> None:
    """Write the state of a loop."""
    import io

    buffer = io.BytesIO()
    contents = {"format": _FORMAT, "problem": problem, "settings": asdict(loop.settings), "state": loop.state()}
    torch.save(contents, buffer)
    write_atomically(path, buffer.getvalue())


def load_checkpoint(path: Path, loop: Loop, problem: str) -> None:
    """Put a loop where a checkpoint left off; errors are those of `fit`."""
    if not path.is_file():
        raise FileNotFoundError(f"fit: checkpoint must be an existing file to resume from, got {str(path)!r}")
    try:
        # Tensors and plain values alone: a checkpoint from elsewhere must not be able to run code.
        contents: Any = torch.load(path, map_location="cpu", weights_only=True)
        known = contents["format"] == _FORMAT
    except Exception as error:
        raise ValueError(f"fit: checkpoint must be a file that fit wrote, got {str(path)!r}, unreadable") from error
    if not known:
        raise ValueError(f"fit: checkpoint must be of this version of slangrast, got {contents['format']!r}")
    if contents["problem"] != problem:
        raise ValueError(
            "fit: checkpoint must be of the same images, cameras and template, got one of others: start afresh "
            "without resuming, or give the same ones"
        )
    changed = _changes(contents["settings"], loop.settings)
    if changed:
        raise ValueError(f"fit: checkpoint must be of the same settings, got one with {changed}: give these again")
    loop.restore(contents["state"])


def _changes(stored: dict[str, Any], settings: FitSettings) -> str:
    given = asdict(settings)
    return ", ".join(f"{name}={stored.get(name)}" for name in given if stored.get(name) != given[name])
