"""Keeps a copy of the profiles of a workspace in SQLite, as JSON.

A durable subscription fills it with a snapshot, and then follows every change. A change may arrive again after a crash,
and is then made again. What the copy must forget (profiles that were deleted, merged into others, or erased) is removed
from it, and `secure_delete` overwrites it in the file.
"""

import argparse
import os
import sqlite3
import sys
from collections.abc import Iterable
from contextlib import closing

from google.protobuf.json_format import MessageToJson

from cameo_client import CameoError, Change, Client, DurableDelivery, OnExpired, changes_of, connect

_SCHEMA = """
    PRAGMA secure_delete = ON;
    CREATE TABLE IF NOT EXISTS profiles (mpid INTEGER PRIMARY KEY, profile TEXT NOT NULL);
    CREATE TABLE IF NOT EXISTS snapshot (mpid INTEGER PRIMARY KEY, sequence INTEGER NOT NULL);
"""


class Mirror:
    """The copy."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._database = sqlite3.connect(path)
        self._database.executescript(_SCHEMA)

    def close(self) -> None:
        self._database.close()

    def take(self, delivery: DurableDelivery) -> None:
        """Applies a delivery, in one transaction."""
        with self._database:
            if delivery.event is not None:
                self._apply(changes_of(delivery.event))
            elif delivery.snapshot_profile is not None:
                profile, sequence = delivery.snapshot_profile, delivery.snapshot_sequence
                self._apply([Change(profile.mpid, profile)])
                self._database.execute("INSERT OR REPLACE INTO snapshot VALUES (?, ?)", (profile.mpid, sequence))
            elif delivery.is_snapshot_complete:
                self._forget_all_but(delivery.snapshot_sequence)

    def profiles(self) -> dict[int, str]:
        return dict(self._database.execute("SELECT mpid, profile FROM profiles"))

    def _forget_all_but(self, sequence: int | None) -> None:
        """Removes what the snapshot as of this sequence does not have: an earlier run left it, or a snapshot that broke
        off and did not go on."""
        had = "SELECT mpid FROM snapshot WHERE sequence = ?"
        self._database.execute(f"DELETE FROM profiles WHERE mpid NOT IN ({had})", (sequence,))
        self._database.execute("DELETE FROM snapshot")

    def _apply(self, changes: Iterable[Change]) -> None:
        for mpid, profile in changes:
            if profile is None:
                self._database.execute("DELETE FROM profiles WHERE mpid = ?", (mpid,))
            else:
                self._database.execute("INSERT OR REPLACE INTO profiles VALUES (?, ?)", (mpid, MessageToJson(profile)))


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--address", default="127.0.0.1:50051")
    parser.add_argument("--workspace", default="acme/main/web")
    parser.add_argument("--database", default="mirror.sqlite")
    parser.add_argument("--subscription", default="mirror")
    parser.add_argument("--until-caught-up", action="store_true")
    return parser.parse_args()


def main() -> None:
    args = arguments()
    with closing(Mirror(args.database)) as mirror, connect(args.address) as channel:
        client = Client(channel, args.workspace)
        try:
            client.create_subscription(
                args.subscription, start="snapshot", on_expired=OnExpired.ON_EXPIRED_SNAPSHOT
            )
        except CameoError as error:
            if error.reason != "SUBSCRIPTION_EXISTS":
                raise
        subscription = client.subscription(args.subscription, until_caught_up=args.until_caught_up)
        for delivery in subscription:
            mirror.take(delivery)
            subscription.acknowledge(delivery)
            print(f"{len(mirror.profiles())} profiles", flush=True)


if __name__ == "__main__":
    try:
        main()
    except CameoError as error:
        sys.exit(str(error))
    except KeyboardInterrupt:
        pass
