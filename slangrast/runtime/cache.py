"""The per-user cache of compiled modules, keyed by content.

    <cache>/index/<request>.json      for a request (path, defines, flags, compilers): the files that took part in each
                                      build, by content, and the entry that came of it
    <cache>/entries/<key>/            the files of one build, with their checksums; written aside, then renamed
    <cache>/locks/<request>.lock      held (by the kernel, so a killed process lets go) while one process builds

A reader takes no lock. An entry whose checksums do not hold is set aside and built again.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import tempfile
import time
import uuid
from collections.abc import Callable, Iterable
from pathlib import Path

from filelock import FileLock

_CHECKSUMS = "checksums.json"
_BUILDS_REMEMBERED = 16
_STALE_SECONDS = 24 * 3600


def cache_folder() -> Path:
    """`SLANGRAST_CACHE`, else the user's cache folder, else (where that cannot be written) a temporary one."""
    if override := os.environ.get("SLANGRAST_CACHE"):
        folder = Path(override).expanduser()
        folder.mkdir(parents=True, exist_ok=True)
        return folder
    base = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    for folder in (Path(base, "slangrast"), Path(tempfile.gettempdir(), f"slangrast-{os.getuid()}")):
        with contextlib.suppress(OSError):
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            # A compiled module is code that will run: never load one from a folder that somebody else owns.
            if os.access(folder, os.W_OK) and folder.stat().st_uid == os.getuid():
                return folder
    raise OSError(f"no cache folder can be written: set SLANGRAST_CACHE to one (tried {base}/slangrast)")


def digest(*parts: str | bytes) -> str:
    """A hash of the parts, in which their borders count."""
    state = hashlib.sha256()
    for part in parts:
        data = part.encode() if isinstance(part, str) else part
        state.update(len(data).to_bytes(8, "little"))
        state.update(data)
    return state.hexdigest()[:32]


def find_or_build(request: str, searched: Iterable[str], build: Callable[[Path], Iterable[str]]) -> Path:
    """The folder of the entry for `request`, built where it is not there yet.

    `request` is a digest of all but the files' contents. `searched` are the folders in which imports are looked for:
    a file that appears there can change what an import means. `build(folder)` writes the entry's files and returns
    the paths of the files that took part.
    """
    cache = cache_folder()
    searched = sorted(set(searched))
    if found := _find(cache, request, searched):
        return found
    locks = cache / "locks"
    locks.mkdir(parents=True, exist_ok=True)
    with FileLock(locks / f"{request}.lock"):
        return _find(cache, request, searched) or _build(cache, request, searched, build)


def _find(cache: Path, request: str, searched: list[str]) -> Path | None:
    listing = _listing(searched)
    for record in _read_index(cache, request):
        if record["listing"] == listing and all(_file_digest(path) == known for path, known in record["files"]):
            entry = cache / "entries" / record["entry"]
            if _is_sound(entry):
                return entry
            if entry.exists():  # written by a machine that crashed, or damaged since
                aside = cache / "broken"
                aside.mkdir(exist_ok=True)
                with contextlib.suppress(OSError):
                    os.rename(entry, aside / uuid.uuid4().hex)
                shutil.rmtree(aside, ignore_errors=True)
    return None


def _build(cache: Path, request: str, searched: list[str], build: Callable[[Path], Iterable[str]]) -> Path:
    entries = cache / "entries"
    entries.mkdir(parents=True, exist_ok=True)
    _remove_stale(cache / "building")
    for _ in range(5):
        folder = cache / "building" / uuid.uuid4().hex
        folder.mkdir(parents=True)
        try:
            started = time.time_ns()
            files = [(path, _file_digest(path)) for path in build(folder)]
            if any(_modified_since(path, started) for path, _ in files):
                continue  # saved while it was being compiled: what was built may be neither version
            key = digest(request, *(f"{path}\0{content}" for path, content in files))
            sums = {name: _file_digest(str(folder / name)) for name in sorted(os.listdir(folder))}
            (folder / _CHECKSUMS).write_text(json.dumps(sums))
            entry = entries / key
            with contextlib.suppress(OSError):  # the same content under another name may have got there first
                os.rename(folder, entry)
            _write_index(cache, request, {"entry": key, "files": files, "listing": _listing(searched)})
            return entry
        finally:
            shutil.rmtree(folder, ignore_errors=True)
    raise OSError("the shader kept changing while it was being compiled")


def _read_index(cache: Path, request: str) -> list[dict]:
    try:
        records = json.loads((cache / "index" / f"{request}.json").read_text())
        return [record for record in records if {"entry", "files", "listing"} <= record.keys()]
    except (OSError, ValueError, AttributeError, TypeError):
        return []


def _write_index(cache: Path, request: str, record: dict) -> None:
    index = cache / "index"
    index.mkdir(exist_ok=True)
    records = [other for other in _read_index(cache, request) if other["entry"] != record["entry"]]
    aside = index / f"{request}.{uuid.uuid4().hex}.tmp"
    aside.write_text(json.dumps([record, *records][:_BUILDS_REMEMBERED]))
    os.replace(aside, index / f"{request}.json")


def _is_sound(entry: Path) -> bool:
    try:
        sums = json.loads((entry / _CHECKSUMS).read_text())
        return bool(sums) and all(_file_digest(str(entry / name)) == known for name, known in sums.items())
    except (OSError, ValueError, AttributeError):
        return False


def _file_digest(path: str) -> str:
    try:
        with open(path, "rb") as file:
            return digest(file.read())
    except OSError:
        return "missing"


def _modified_since(path: str, moment_ns: int) -> bool:
    try:
        return os.stat(path).st_mtime_ns >= moment_ns
    except OSError:
        return True


def _listing(folders: list[str]) -> str:
    names = []
    for folder in folders:
        with contextlib.suppress(OSError):
            names.append(folder + "\0" + "\0".join(sorted(n for n in os.listdir(folder) if n.endswith(".slang"))))
    return digest(*names)


def _remove_stale(folder: Path) -> None:
    """Remove what builds that were killed left behind."""
    with contextlib.suppress(OSError):
        for item in folder.iterdir():
            if time.time() - item.stat().st_mtime > _STALE_SECONDS:
                shutil.rmtree(item, ignore_errors=True)
