"""Files that appear whole or not at all: written under a temporary name, synced to disk, then renamed."""

import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any


def sync_to_disk(path: Path) -> None:
    """Waits until the content of a file, or the renames inside a folder, are on disk and survive a power cut."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_atomic(path: Path, write: Callable[[Path], object]) -> None:
    """Calls `write` with a temporary path beside `path`, then renames the result to `path`."""
    partial = path.with_name(f".partial-{path.name}")
    try:
        write(partial)
        sync_to_disk(partial)
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)
    sync_to_disk(path.parent)


def as_json(content: Any) -> str:
    """Returns `content` as JSON with sorted keys, so that equal content gives equal text."""
    return json.dumps(content, indent=2, sort_keys=True, allow_nan=False) + "\n"


def write_json(path: Path, content: Any) -> None:
    """Writes `content` as JSON, atomically; equal content gives equal bytes."""
    write_text(path, as_json(content))


def write_text(path: Path, text: str) -> None:
    """Writes a text file atomically."""
    write_atomic(path, lambda partial: partial.write_text(text, encoding="utf-8"))


def hash_text(text: str) -> str:
    """Returns the hex SHA-256 of a text."""
    return hashlib.sha256(text.encode()).hexdigest()


def file_sha256(path: Path) -> str:
    """Returns the hex SHA-256 of a file's content."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
