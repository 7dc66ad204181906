"""What events mean for a copy of the profiles: a table, an index or a cache that a subscriber keeps."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from cameo.v1.event_pb2 import FILTER_MATCH_LEFT, Event
from cameo.v1.profile_pb2 import Profile

_KNOWN = frozenset(
    {
        "profile.created",
        "profile.updated",
        "profile.deleted",
        "profile.erased",
        "profile.merged",
        "profile.unmerged",
    }
)


class Change(NamedTuple):
    """A profile of a copy: what it is now, or None if it must be removed."""

    mpid: int
    profile: Profile | None


def changes_of(event: Event) -> Iterator[Change]:
    """Returns what to change in a copy, in order. A change may be made again, and may remove what is not there.

    - A profile that was deleted or erased, or that left the filter, is removed.
    - A profile that was absorbed by another is removed, and the survivor is replaced.
    - What an erasure has left of a merge still says which profile was absorbed, so that one is removed too.
    - A redacted event may have no profile. Then the copy keeps what it has: a later event has the whole profile.
    - Events of types that this version does not know change nothing.

    A copy of what a filter selects stays right only if the filter does not leave out events: see
    docs/subscriptions.md.
    """
    if event.type not in _KNOWN:
        return
    if event.merged_mpid and event.type in ("profile.merged", "profile.erased"):
        yield Change(event.merged_mpid, None)
    if event.match == FILTER_MATCH_LEFT or event.type in ("profile.deleted", "profile.erased"):
        yield Change(event.mpid, None)
    elif event.HasField("profile"):
        yield Change(event.mpid, event.profile)
