"""Where a subscriber stores its cursor."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Protocol


class CursorStore(Protocol):
    """Stores the cursor of one subscriber. A cursor is an opaque ASCII string of at most 64 characters."""

    def load(self) -> str | None:
        """Returns the cursor that was saved last; None if none was saved."""

    def save(self, cursor: str) -> None:
        """Replaces the cursor. When this returns, the cursor must be as durable as the results of the subscriber."""


class FileCursor:
    """Stores a cursor in a file. Even after a power failure, the file holds the complete old or new cursor.

    Only one subscriber at a time may use the file. Its folder must exist.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._path = Path(path)
        self._draft = self._path.with_name(f"{self._path.name}.draft")

    def load(self) -> str | None:
        try:
            return self._path.read_text(encoding="ascii").strip()
        except FileNotFoundError:
            return None

    def save(self, cursor: str) -> None:
        with self._draft.open("w", encoding="ascii") as draft:
            draft.write(cursor)
            draft.flush()
            os.fsync(draft.fileno())  # Before the rename, which could otherwise become durable before the content.
        self._draft.replace(self._path)
        _sync_folder(self._path.parent)


def _sync_folder(folder: Path) -> None:
    """Makes a rename durable: the folder holds the name, so the folder must be synced."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
