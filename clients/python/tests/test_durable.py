"""Durable subscriptions: the server keeps the place."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest

from cameo_client import (
    CameoError,
    Client,
    DurableSubscription,
    EventFilter,
    Shard,
    SubscriptionTakenOver,
)
from harness import DEADLINE, Program, Reader, Server, Writer, count_up, setting

NAME = "crm"
EXAMPLE = Path(__file__).parents[1] / "examples/durable.py"
ROUNDS = 4
STEPS_A_ROUND = 40
STEPS = ROUNDS * STEPS_A_ROUND

Run = Callable[..., Program]


class Acknowledging:
    """A subscription whose deliveries are acknowledged, `batch` at a time."""

    def __init__(self, subscription: DurableSubscription, batch: int) -> None:
        self._subscription = subscription
        self._batch = batch
        self.stop = subscription.stop

    def __iter__(self):
        for delivery in self._subscription:
            yield delivery
            if delivery.event.sequence % self._batch == 0:
                self._subscription.acknowledge(delivery)


def events_of(subscription: DurableSubscription) -> list[int]:
    return [delivery.event.sequence for delivery in subscription]


def drained(client: Client) -> list[int]:
    """The sequences that are not acknowledged."""
    return events_of(client.subscription(NAME, until_caught_up=True))


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL], ids=lambda how: how.name)
@pytest.mark.parametrize("batch", [1, 7])
def test_a_reader_survives_server_restarts_without_gap_or_repeat(
    server: Server, client: Client, how: signal.Signals, batch: int
) -> None:
    client.create_subscription(NAME, start="earliest")
    reader = Reader(Acknowledging(client.subscription(NAME), batch))
    writer = Writer(client, STEPS)
    reader.start()
    writer.start()
    for already in range(0, STEPS, STEPS_A_ROUND):
        writer.allow(STEPS_A_ROUND)
        reader.wait_for(already + STEPS_A_ROUND // 2)
        server.stop(how)
        server.start()
    writer.finish()
    reader.wait_for(STEPS)
    reader.end()
    assert reader.sequences == list(range(1, STEPS + 1))
    assert drained(client) == list(range(STEPS // batch * batch + 1, STEPS + 1))


def test_a_new_process_continues_after_what_a_killed_one_acknowledged(server: Server, client: Client, run: Run) -> None:
    """No gap, and no repeat of what was acknowledged: at most the one event that the dead process was working on."""
    command = [sys.executable, EXAMPLE, "--address", server.address, "--name", NAME]
    writer = Writer(client, STEPS)
    writer.start()
    acknowledged = 0
    for already in range(0, STEPS, STEPS_A_ROUND):
        writer.allow(STEPS_A_ROUND)
        acknowledged = read_and_kill(run(*command), acknowledged, at=already + STEPS_A_ROUND // 2)
        if already == STEPS_A_ROUND:
            server.stop(signal.SIGKILL)
            server.start()
    writer.finish()
    last = drained(client)
    assert last == list(range(last[0], STEPS + 1))
    assert last[0] in (acknowledged + 1, acknowledged + 2)


def read_and_kill(reader: Program, acknowledged: int, at: int) -> int:
    """Kills the reader once it has acknowledged an event. Returns the last event that it said it had acknowledged."""
    expected = None
    was_killed = False
    while line := reader.lines.next():
        words = line.split()
        if len(words) < 2:
            assert was_killed, f"a line is cut only by the kill: {line}"
            continue
        first, second = words[:2]
        if first == "acknowledged":
            acknowledged = int(second)
            if acknowledged == at:
                reader.stop(signal.SIGKILL)
                was_killed = True
            continue
        if expected is None:  # The place may be one further than the previous process could say.
            expected = int(first)
            assert expected in (acknowledged + 1, acknowledged + 2)
        assert int(first) == expected
        expected += 1
    assert expected is not None, "the reader got nothing"
    return acknowledged


def test_the_newer_reader_wins_and_the_older_one_is_told(client: Client) -> None:
    client.create_subscription(NAME, start="earliest")
    count_up(client, 42)
    older = client.subscription(NAME)
    deliveries = iter(older)
    first = next(deliveries)
    newer = client.subscription(NAME)
    again = next(iter(newer))
    assert again.event.sequence == 1, "it was not acknowledged"
    with pytest.raises(SubscriptionTakenOver) as taken:
        next(deliveries)
    assert taken.value.reason == "SUBSCRIPTION_TAKEN_OVER"
    with pytest.raises(SubscriptionTakenOver):
        older.acknowledge(first)
    newer.acknowledge(again)
    assert drained(client) == []


def test_a_reader_that_leaves_a_delivery_unacknowledged_gets_it_again(client: Client) -> None:
    client.create_subscription(NAME, start="earliest")
    for _ in range(4):
        count_up(client, 42)
    subscription = client.subscription(NAME)
    for delivery in subscription:
        if delivery.event.sequence == 3:
            break
        subscription.acknowledge(delivery)
    assert events_of(client.subscription(NAME, until_caught_up=True)) == [3, 4]
    assert next(iter(subscription)).event.sequence == 3, "the same object may be iterated again"


def test_a_reader_without_a_stream_acknowledges_nothing(client: Client) -> None:
    client.create_subscription(NAME, start="earliest")
    count_up(client, 42)
    delivery = next(iter(client.subscription(NAME)))
    with pytest.raises(CameoError) as refused:
        client.subscription(NAME).acknowledge(delivery)
    assert refused.value.reason == "FIELD_INVALID"


def test_skipped_events_are_listed_and_not_delivered_again(client: Client) -> None:
    client.create_subscription(NAME, start="earliest")
    for _ in range(5):
        count_up(client, 42)
    subscription = client.subscription(NAME, until_caught_up=True)
    for delivery in subscription:
        if delivery.event.sequence in (2, 4):
            subscription.skip(delivery, "HTTP 410")
        else:
            subscription.acknowledge(delivery)
    skipped = list(client.list_skipped_events(NAME, page_size=1))
    assert [(event.sequence, event.reason) for event in skipped] == [(2, "HTTP 410"), (4, "HTTP 410")]
    assert client.get_event(2).sequence == 2
    assert drained(client) == []


def test_a_seek_ends_the_reader_and_the_next_one_starts_there(client: Client) -> None:
    client.create_subscription(NAME, start="earliest")
    for _ in range(4):
        count_up(client, 42)
    subscription = client.subscription(NAME)
    deliveries = iter(subscription)
    for _ in range(3):
        subscription.acknowledge(next(deliveries))
    assert client.seek_subscription(NAME, "earliest", validate_only=True).replayed_events == 3
    client.seek_subscription(NAME, "earliest")
    with pytest.raises(SubscriptionTakenOver):
        for _ in deliveries:
            pass
    assert drained(client) == [1, 2, 3, 4]
    assert client.seek_subscription(NAME, "now").passed_events == 4
    assert drained(client) == []
    client.seek_subscription(NAME, client.get_event(2).time.ToDatetime(tzinfo=timezone.utc))
    assert drained(client) == [2, 3, 4]


def test_a_seek_while_no_stream_is_open_repeats_what_it_should(server: Server, client: Client) -> None:
    """A reader leaves out what it delivered before a break. It must not leave out what a seek brings back."""
    client.create_subscription(NAME, start="earliest")
    for _ in range(3):
        count_up(client, 42)
    subscription = client.subscription(NAME)
    sequences = []
    for delivery in subscription:
        sequences.append(delivery.event.sequence)
        if sequences == [1, 2]:
            subscription.acknowledge(delivery)
            server.stop(signal.SIGKILL)
            server.start()
            client.seek_subscription(NAME, "earliest", timeout=DEADLINE)
        if sequences[3:] and delivery.event.sequence == 3:
            subscription.stop()
    assert sequences in ([1, 2, 1, 2, 3], [1, 2, 3, 1, 2, 3]), "the third may have arrived before the break"


def test_a_seek_while_no_stream_is_open_repeats_what_an_earlier_reader_acknowledged(
    server: Server, client: Client
) -> None:
    client.create_subscription(NAME, start="earliest")
    for _ in range(3):
        count_up(client, 42)
    earlier = client.subscription(NAME)
    deliveries = iter(earlier)
    next(deliveries)
    earlier.acknowledge(next(deliveries))
    deliveries.close()

    sequences = []
    for delivery in (subscription := client.subscription(NAME)):
        sequences.append(delivery.event.sequence)
        if sequences == [3]:
            server.stop(signal.SIGKILL)
            server.start()
            client.seek_subscription(NAME, "earliest", timeout=DEADLINE)
        elif delivery.event.sequence == 3:
            subscription.stop()
    assert sequences == [3, 1, 2, 3]


def test_a_subscription_may_start_with_a_snapshot(client: Client) -> None:
    for mpid in (1, 2, 3):
        client.update_profile(mpid, setting(plan="pro"), allow_missing=True)
    client.create_subscription(NAME, start="snapshot")
    count_up(client, 2)
    subscription = client.subscription(NAME)
    deliveries = iter(subscription)
    subscription.acknowledge(next(deliveries))
    deliveries.close()

    got, snapshots = [], []
    for delivery in client.subscription(NAME, until_caught_up=True):
        snapshots.append(delivery.snapshot_sequence)
        profile, event = delivery.snapshot_profile, delivery.event
        got.append(profile.mpid if profile else "complete" if delivery.is_snapshot_complete else f"event {event.mpid}")
    assert got == [2, 3, "complete", "event 2"]
    assert snapshots == [3, 3, 3, None], "it goes on as of the event that it began with"


def test_a_snapshot_survives_a_server_restart_without_gap_or_repeat(server: Server, client: Client) -> None:
    expected = list(range(1, 2_001))
    client.import_profiles((mpid, setting(bio="x" * 1_000)) for mpid in expected)  # More than the client buffers.
    client.create_subscription(NAME, start="snapshot")
    subscription = client.subscription(NAME, until_caught_up=True)
    mpids = []
    for delivery in subscription:
        mpids.append(delivery.snapshot_profile.mpid if delivery.snapshot_profile else None)
        if len(mpids) == 100:
            subscription.acknowledge(delivery)
        if len(mpids) == 200:
            server.stop(signal.SIGKILL)
            server.start()
    assert mpids == [*expected, None]


def test_the_place_moves_past_what_does_not_match(client: Client) -> None:
    client.create_subscription(NAME, start="earliest", filter=EventFilter(types=["profile.deleted"]))
    count_up(client, 42)
    assert client.get_subscription(NAME).lag_events == 1
    assert drained(client) == []
    assert client.get_subscription(NAME).lag_events == 0


def test_the_place_does_not_move_past_what_was_not_acknowledged(client: Client) -> None:
    client.create_subscription(NAME, start="earliest")
    count_up(client, 42)
    assert drained(client) == [1]
    assert client.get_subscription(NAME).lag_events == 1


def test_settings_are_kept_listed_changed_and_deleted(client: Client) -> None:
    start = datetime.now(timezone.utc) - timedelta(hours=1)
    created = client.create_subscription(NAME, start=start, shard=Shard(index=1, count=2), read_mask=["mpid"])
    assert (created.shard.count, created.acknowledged_sequence) == (2, 0)
    with pytest.raises(CameoError) as refused:
        client.create_subscription(NAME)
    assert refused.value.reason == "SUBSCRIPTION_EXISTS"
    created.read_mask.paths.append("etag")
    assert client.update_subscription(created, ["read_mask"]).read_mask.paths == ["mpid", "etag"]
    client.create_subscription("erp")
    assert [each.name for each in client.list_subscriptions(page_size=1)] == [NAME, "erp"]
    client.delete_subscription("erp")
    assert [each.name for each in client.list_subscriptions()] == [NAME]
    with pytest.raises(CameoError) as missing:
        events_of(client.subscription("erp"))
    assert missing.value.reason == "SUBSCRIPTION_NOT_FOUND"


def test_a_reader_stops_when_told(client: Client) -> None:
    client.create_subscription(NAME, start="earliest")
    count_up(client, 42)
    reader = Reader(client.subscription(NAME))
    reader.start()
    reader.wait_for(1)
    reader.end()
