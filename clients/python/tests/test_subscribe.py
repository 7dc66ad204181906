from __future__ import annotations

import signal
from datetime import timedelta
from pathlib import Path

import pytest

from cameo_client import Client, CursorRefused, FileCursor, ProfilePatch, connect
from conftest import WORKSPACE
from harness import DEADLINE, Reader, Server, Writer, count_up

SECOND = timedelta(seconds=1)


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL], ids=lambda how: how.name)
def test_subscriber_survives_a_server_restart_without_gap_or_repeat(
    server: Server, client: Client, tmp_path: Path, how: signal.Signals
) -> None:
    half = 150
    steps = 2 * half
    cursor = FileCursor(tmp_path / "cursor")
    reader = Reader(client.subscribe(cursor, earliest=True))
    writer = Writer(client, steps)
    reader.start()
    writer.start()

    writer.allow(half)
    reader.wait_for(half // 2)
    exit_code = server.stop(how)
    assert exit_code == (0 if how is signal.SIGTERM else -signal.SIGKILL)
    writer.allow(half)
    server.start()

    writer.finish()
    reader.wait_for(steps)
    reader.end()
    assert reader.sequences == list(range(1, steps + 1))
    # Each step was applied once, although the writer could not know which of its requests had succeeded.
    counted = [event.profile.user_attributes["steps"] for event, _ in reader.deliveries]
    assert counted == reader.sequences
    assert cursor.load() == reader.deliveries[-1].cursor


def test_a_subscriber_that_was_away_resumes_after_its_cursor(client: Client, tmp_path: Path) -> None:
    cursor = FileCursor(tmp_path / "cursor")
    for _ in range(3):
        count_up(client, 42)
    drained = client.subscribe(cursor, earliest=True, until_caught_up=True)
    assert [event.sequence for event, _ in drained] == [1, 2, 3]

    for _ in range(2):
        count_up(client, 42)
    drained = client.subscribe(cursor, earliest=True, until_caught_up=True)
    assert [event.sequence for event, _ in drained] == [4, 5]


def test_an_event_that_was_not_handled_arrives_again(client: Client, tmp_path: Path) -> None:
    cursor = FileCursor(tmp_path / "cursor")
    for _ in range(3):
        count_up(client, 42)
    for event, _ in client.subscribe(cursor, earliest=True):
        if event.sequence == 2:
            break  # As if the program had died while it handled the event.
    first, _ = next(iter(client.subscribe(cursor)))
    assert first.sequence == 2


def test_stop_counts_the_current_event_as_handled(client: Client, tmp_path: Path) -> None:
    cursor = FileCursor(tmp_path / "cursor")
    for _ in range(3):
        count_up(client, 42)
    subscription = client.subscribe(cursor, earliest=True)
    for event, _ in subscription:
        if event.sequence == 2:
            subscription.stop()
    first, _ = next(iter(client.subscribe(cursor)))
    assert first.sequence == 3


def test_a_subscriber_that_received_no_event_has_a_cursor(client: Client, tmp_path: Path) -> None:
    """It started from now. It must not lose events while it is away, although it never received one."""
    cursor = FileCursor(tmp_path / "cursor")
    count_up(client, 42)
    assert list(client.subscribe(cursor, until_caught_up=True)) == []
    count_up(client, 42)
    drained = client.subscribe(cursor, until_caught_up=True)
    assert [event.sequence for event, _ in drained] == [2]


def test_a_heartbeat_moves_the_stored_cursor_past_what_does_not_match(client: Client, tmp_path: Path) -> None:
    class Watched(FileCursor):
        def save(self, cursor: str) -> None:
            super().save(cursor)
            if cursor == written:
                subscription.stop()

    written = ""
    cursor = Watched(tmp_path / "cursor")
    subscription = client.subscribe(cursor, types=["profile.deleted"], heartbeat_interval=SECOND)
    reader = Reader(subscription)
    written = count_up(client, 42)
    reader.start()
    reader.join(DEADLINE)
    assert cursor.load() == written
    assert reader.sequences == []


def test_a_waiting_subscription_stops_when_told(client: Client) -> None:
    reader = Reader(client.subscribe(earliest=True))
    count_up(client, 42)
    reader.start()
    reader.wait_for(1)
    reader.end()


def test_a_cursor_of_another_log_is_refused(client: Client, tmp_path: Path) -> None:
    cursor = FileCursor(tmp_path / "cursor")
    other_folder = tmp_path / "other"
    other_folder.mkdir()
    other = Server(other_folder)
    other.start()
    try:
        with connect(other.address) as channel:
            cursor.save(count_up(Client(channel, WORKSPACE), 42))
    finally:
        other.reap()

    before = cursor.load()
    with pytest.raises(CursorRefused) as refused:
        list(client.subscribe(cursor, earliest=True))
    assert refused.value.reason == "CURSOR_FOREIGN"
    assert cursor.load() == before, "only the application may discard the cursor"


def test_a_malformed_cursor_is_refused(client: Client, tmp_path: Path) -> None:
    cursor = FileCursor(tmp_path / "cursor")
    cursor.save("garbage")
    with pytest.raises(CursorRefused) as refused:
        list(client.subscribe(cursor, earliest=True))
    assert refused.value.reason == "CURSOR_MALFORMED"


def test_an_empty_cursor_starts_with_the_oldest_event(client: Client, tmp_path: Path) -> None:
    client.update_profile(1, ProfilePatch(), allow_missing=True)
    cursor = FileCursor(tmp_path / "cursor")
    cursor.save("")
    deliveries = list(client.subscribe(cursor, until_caught_up=True))
    assert [delivery.event.sequence for delivery in deliveries] == [1]
