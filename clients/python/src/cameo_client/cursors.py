"""Where a subscriber remembers how far it came."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Protocol


class CursorStore(Protocol):
    """Remembers one cursor of one subscriber. A cursor is an opaque ASCII string of at most 64 characters."""

    def load(self) -> str | None:
        """The cursor that was saved last; None if there never was one."""

    def save(self, cursor: str) -> None:
        """Replaces the cursor. When this returns, it must survive whatever the subscriber's work survives."""


class FileCursor:
    """A cursor in a file of its own, which holds the old cursor or the new one whole, also after a power failure.

    One subscriber at a time may use the file. Its folder must exist.
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
            os.fsync(draft.fileno())  # Before the rename, which could otherwise outlive the content.
        self._draft.replace(self._path)
        _sync_folder(self._path.parent)


def _sync_folder(folder: Path) -> None:
    """Makes a rename durable: the name belongs to the folder, not to the file."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
