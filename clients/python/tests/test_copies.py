"""A copy that applies the events is the profiles, wherever it begins and whatever was merged or erased."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable
from contextlib import closing
from itertools import islice
from pathlib import Path

import pytest
from google.protobuf.json_format import Parse

from cameo.v1.event_pb2 import FILTER_MATCH_LEFT, Event
from cameo.v1.subscription_pb2 import SUBSCRIPTION_STATE_LOST
from cameo_client import Client, EventFilter, Identity, OnExpired, Profile, ProfilePatch, changes_of
from harness import Program, Server, setting
from mirror import Mirror

SECRET = "canary"


def email(name: str) -> Identity:
    return Identity(type="email", encoding="none", value=f"{name}@example.com")


def person(client: Client, mpid: int, name: str) -> None:
    patch = setting(name=name)
    patch.add_identities.append(email(name))
    client.update_profile(mpid, patch, allow_missing=True)


def live_a_little(client: Client) -> None:
    """Every type of event, with persons who were part of others when they were erased."""
    for mpid, name in enumerate(("ada", "grace", "alan", f"{SECRET}-kurt", f"{SECRET}-emmy"), 1):
        person(client, mpid, name)
    client.merge_profiles(1, 2)
    client.update_profile(1, ProfilePatch(add_identities=[email("alan")], take_identities=True))
    client.merge_profiles(3, 4)  # Kurt is a part of Alan for a time.
    client.update_profile(3, setting(color="blue"))
    client.unmerge_profiles(4)
    client.merge_profiles(5, 1)  # Ada is a part of Emmy for a time.
    client.unmerge_profiles(1)
    person(client, 6, "gone")
    person(client, 7, f"{SECRET}-lise")
    client.merge_profiles(6, 7)  # Lise is a part of who is deleted.
    client.delete_profile(6)


def fold(copy: dict[int, Profile], client: Client, after: int = 0) -> None:
    for event, _ in client.subscribe(earliest=True, until_caught_up=True):
        if event.sequence > after:
            apply(copy, event)


def apply(copy: dict[int, Profile], event: Event) -> None:
    for mpid, profile in changes_of(event):
        if profile is None:
            copy.pop(mpid, None)
        else:
            copy[mpid] = profile


def stored(client: Client) -> dict[int, Profile]:
    return {profile.mpid: profile for profile in client.list_profiles()}


def test_a_copy_is_right_wherever_it_was_when_persons_were_erased(client: Client) -> None:
    live_a_little(client)
    events = [event for event, _ in client.subscribe(earliest=True, until_caught_up=True)]
    for mpid in (4, 5, 7):
        client.erase_profile(mpid)
    for already in range(len(events) + 1):
        copy: dict[int, Profile] = {}
        for event in events[:already]:
            apply(copy, event)
        fold(copy, client, after=already)
        assert copy == stored(client), f"a copy that had {already} events"
        assert SECRET not in str(copy)


def test_a_mirror_forgets_who_was_erased(server: Server, client: Client, run: Callable[..., Program], tmp_path: Path) -> None:
    live_a_little(client)
    database = tmp_path / "mirror.sqlite"
    command = [sys.executable, Path(__file__).parents[1] / "examples/mirror.py", "--address", server.address]
    command += ["--database", database, "--until-caught-up"]
    assert run(*command).wait() == 0
    assert mirrored(database) == stored(client)
    assert SECRET in database.read_bytes().decode(errors="replace")

    for mpid in (4, 5, 7):
        client.erase_profile(mpid)
    assert run(*command).wait() == 0
    assert mirrored(database) == stored(client)
    assert SECRET not in database.read_bytes().decode(errors="replace")


def mirrored(database: Path) -> dict[int, Profile]:
    with closing(Mirror(database)) as mirror:
        return {mpid: Parse(profile, Profile()) for mpid, profile in mirror.profiles().items()}


def test_a_mirror_that_is_killed_goes_on(server: Server, client: Client, run: Callable[..., Program], tmp_path: Path) -> None:
    live_a_little(client)
    database = tmp_path / "mirror.sqlite"
    command = [sys.executable, Path(__file__).parents[1] / "examples/mirror.py", "--address", server.address]
    command += ["--database", database]
    killed = run(*command)
    assert killed.lines.next() == "1 profiles"
    killed.stop(signal.SIGKILL)
    client.erase_profile(4)
    assert run(*command, "--until-caught-up").wait() == 0
    assert mirrored(database) == stored(client)


def test_a_mirror_forgets_who_was_only_in_a_snapshot_that_broke_off(
    server: Server, client: Client, tmp_path: Path
) -> None:
    """Retention overtakes it, so the next stream begins another snapshot."""
    live_a_little(client)
    client.create_subscription("mirror", start="snapshot", on_expired=OnExpired.ON_EXPIRED_SNAPSHOT)
    database = tmp_path / "mirror.sqlite"
    follow(client, database, deliveries=3)
    first, second, _ = mirrored(database)
    client.erase_profile(first)
    client.delete_profile(second)
    server.stop()
    server.start("--retention-age", "1ms", "--subscription-hold-age", "1ms")
    while client.get_subscription("mirror").state != SUBSCRIPTION_STATE_LOST:
        pass
    follow(client, database, deliveries=1)  # This one breaks off too, and then goes on.
    follow(client, database)
    assert mirrored(database) == stored(client)


def follow(client: Client, database: Path, deliveries: int | None = None) -> None:
    """Applies and acknowledges what a mirror has not had yet: all of it, or a number of deliveries."""
    subscription = client.subscription("mirror", until_caught_up=True)
    with closing(Mirror(database)) as mirror:
        for delivery in islice(subscription, deliveries):
            mirror.take(delivery)
            subscription.acknowledge(delivery)


def test_a_filtered_copy_learns_of_merges_and_erasures(client: Client) -> None:
    for mpid, plan in ((1, "basic"), (2, "pro"), (3, "pro")):
        client.update_profile(mpid, setting(plan=plan), allow_missing=True)
    pro = EventFilter(expression='profile.user_attributes.plan == "pro"')
    client.create_subscription("pro", start="earliest", filter=pro)
    client.merge_profiles(1, 2)
    client.erase_profile(3)
    copy: dict[int, Profile] = {}
    for delivery in client.subscription("pro", until_caught_up=True):
        assert delivery.event is not None
        apply(copy, delivery.event)
    assert copy == {}


@pytest.mark.parametrize("kind", ["profile.renamed", ""])
def test_an_unknown_type_changes_nothing(kind: str) -> None:
    assert list(changes_of(Event(type=kind, mpid=1, profile=Profile(mpid=1)))) == []


def test_a_redacted_event_without_a_profile_keeps_what_the_copy_has() -> None:
    event = Event(type="profile.updated", mpid=1, redacted=True)
    assert list(changes_of(event)) == []
    event.match = FILTER_MATCH_LEFT
    assert list(changes_of(event)) == [(1, None)]
