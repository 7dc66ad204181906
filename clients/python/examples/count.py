"""Counts the changes of a workspace by type, in SQLite, each exactly once.

A change that was counted twice would make the sum wrong forever. So the count and the cursor are stored in one
transaction: after a crash, the database holds both or neither.
"""

import argparse
import os
import sqlite3
import sys
from contextlib import closing

from cameo_client import CameoError, Client, Event, connect

_SCHEMA = """
    CREATE TABLE IF NOT EXISTS counts (type TEXT PRIMARY KEY, changes INTEGER NOT NULL);
    CREATE TABLE IF NOT EXISTS place (only INTEGER PRIMARY KEY CHECK (only = 1), cursor TEXT NOT NULL);
"""


class Counts:
    """The counts, and a `CursorStore` with the cursor up to which changes are counted."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._database = sqlite3.connect(path)
        self._database.executescript(_SCHEMA)

    def close(self) -> None:
        self._database.close()

    def add(self, event: Event, cursor: str) -> None:
        with self._database:
            self._database.execute(
                "INSERT INTO counts VALUES (?, 1) ON CONFLICT DO UPDATE SET changes = changes + 1", (event.type,)
            )
            self._move(cursor)

    def total(self) -> int:
        return self._database.execute("SELECT coalesce(sum(changes), 0) FROM counts").fetchone()[0]

    def load(self) -> str | None:
        row = self._database.execute("SELECT cursor FROM place").fetchone()
        return row and row[0]

    def save(self, cursor: str) -> None:
        with self._database:
            self._move(cursor)

    def _move(self, cursor: str) -> None:
        self._database.execute("INSERT OR REPLACE INTO place VALUES (1, ?)", (cursor,))


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--address", default="127.0.0.1:50051")
    parser.add_argument("--workspace", default="acme/main/web")
    parser.add_argument("--database", default="counts.sqlite")
    return parser.parse_args()


def main() -> None:
    args = arguments()
    with closing(Counts(args.database)) as counts, connect(args.address) as channel:
        for event, cursor in Client(channel, args.workspace).subscribe(counts, earliest=True):
            counts.add(event, cursor)
            print(f"{counts.total()} changes", flush=True)


if __name__ == "__main__":
    try:
        main()
    except CameoError as error:
        sys.exit(str(error))
    except KeyboardInterrupt:
        pass
