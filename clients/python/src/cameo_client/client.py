"""Looks profiles up, lists, changes and imports them, and subscribes to their changes, in one workspace."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import timedelta
from typing import Any

import grpc
from google.protobuf.field_mask_pb2 import FieldMask

from cameo.v1.event_pb2 import EventFilter
from cameo.v1.event_service_pb2 import SubscribeRequest
from cameo.v1.event_service_pb2_grpc import EventServiceStub
from cameo.v1.profile_key_pb2 import ProfileKey
from cameo.v1.profile_pb2 import Identity, Profile
from cameo.v1.profile_service_pb2 import (
    BatchGetProfilesRequest,
    BatchGetProfilesResult,
    GetProfileRequest,
    ImportProfilesRequest,
    ImportProfilesResponse,
    ListProfilesRequest,
    UpdateProfileRequest,
    UpdateProfileResponse,
)
from cameo.v1.profile_service_pb2_grpc import ProfileServiceStub
from cameo.v1.write_pb2 import ProfilePatch

from .cursors import CursorStore
from .errors import CameoError, explain, translate
from .retry import call
from .subscription import Subscription

Key = int | Identity
"""What names a profile: its mpid, or any identity that it owns."""

_TIMEOUT_SECONDS = 10.0
_EDIT_ATTEMPTS = 10

_CHANNEL_OPTIONS = (
    # A peer that vanished without a word is noticed within 30 s, also on a stream on which we only listen.
    ("grpc.keepalive_time_ms", 20_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.http2.ping_timeout_ms", 10_000),  # Without it a ping has a minute, whatever the line above says.
    ("grpc.http2.max_pings_without_data", 0),
    # By default a channel waits up to two minutes between attempts to connect, and fails every call meanwhile.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 5_000),
    ("grpc.max_reconnect_backoff_ms", 5_000),
)


def connect(address: str) -> grpc.Channel:
    """A channel in the clear to `host:port`. Close it when done, or use it in a `with` statement."""
    return grpc.insecure_channel(address, options=_CHANNEL_OPTIONS)


class Client:
    """One workspace. Thread-safe, as the channel is.

    Methods raise `CameoError`. They ask again, for at most `timeout` seconds, where the service cannot be reached or
    says when to come back; a write has a `request_id`, so that it is applied once. `import_profiles` does neither.
    """

    def __init__(self, channel: grpc.Channel, workspace: str) -> None:
        self.workspace = workspace
        # For what has no method here; `retry.call` adds retries and readable errors.
        self.profiles = ProfileServiceStub(channel)
        self.events = EventServiceStub(channel)

    def get_profile(
        self,
        key: Key,
        *,
        read_mask: Sequence[str] = (),
        user_attribute_keys: Sequence[str] = (),
        min_cursor: str = "",
        timeout: float = _TIMEOUT_SECONDS,
    ) -> Profile:
        """The profile: whole, or only the fields of `read_mask` and the attributes of `user_attribute_keys`."""
        request = GetProfileRequest(
            workspace=self.workspace,
            key=_profile_key(key),
            read_mask=FieldMask(paths=read_mask),
            user_attribute_keys=user_attribute_keys,
            min_cursor=min_cursor,
        )
        return call(self.profiles.GetProfile, request, timeout).profile

    def batch_get_profiles(
        self,
        keys: Iterable[Key],
        *,
        read_mask: Sequence[str] = (),
        user_attribute_keys: Sequence[str] = (),
        min_cursor: str = "",
        timeout: float = _TIMEOUT_SECONDS,
    ) -> list[Profile | CameoError]:
        """For each key, in order, what `get_profile` would return or raise, all in one state of the store.

        The service refuses more than 1,000 keys: several batches are several states, which only the caller can allow.
        Where the answer would grow too large, a key has LIMIT_EXCEEDED, with code RESOURCE_EXHAUSTED: ask for it again.
        """
        request = BatchGetProfilesRequest(
            workspace=self.workspace,
            keys=[_profile_key(key) for key in keys],
            read_mask=FieldMask(paths=read_mask),
            user_attribute_keys=user_attribute_keys,
            min_cursor=min_cursor,
        )
        return [_found(result) for result in call(self.profiles.BatchGetProfiles, request, timeout).results]

    def list_profiles(
        self,
        *,
        page_size: int = 0,
        read_mask: Sequence[str] = (),
        user_attribute_keys: Sequence[str] = (),
    ) -> Iterator[Profile]:
        """All profiles, by mpid. A page is fetched when the one before is used up; 0 leaves its size to the service.

        A profile that exists throughout comes exactly once, whatever is written meanwhile. The pages are not one state
        of the store.
        """
        request = ListProfilesRequest(
            workspace=self.workspace,
            page_size=page_size,
            read_mask=FieldMask(paths=read_mask),
            user_attribute_keys=user_attribute_keys,
        )
        while True:
            page = call(self.profiles.ListProfiles, request, _TIMEOUT_SECONDS)
            yield from page.profiles  # It may have none, and yet not be the last.
            if not page.next_page_token:
                return
            request.page_token = page.next_page_token

    def update_profile(
        self,
        key: Key,
        patch: ProfilePatch,
        *,
        etag: str = "",
        allow_missing: bool = False,
        request_id: str = "",
        timeout: float = _TIMEOUT_SECONDS,
    ) -> UpdateProfileResponse:
        """Changes the profile; answers it as it is now, what was done, and the cursor of the event.

        If this raises UNAVAILABLE or DEADLINE_EXCEEDED, nobody knows whether the change was made. Whoever must know
        passes a `request_id` of their own, and calls again with the same one.
        """
        request = UpdateProfileRequest(
            workspace=self.workspace,
            key=_profile_key(key),
            patch=patch,
            etag=etag,
            allow_missing=allow_missing,
            request_id=request_id or str(uuid.uuid4()),
        )
        return call(self.profiles.UpdateProfile, request, timeout)

    def edit_profile(self, key: Key, edit: Callable[[Profile], ProfilePatch]) -> UpdateProfileResponse:
        """Changes the profile by a patch that depends on what it holds, as if nobody else wrote meanwhile.

        `edit` gets the profile and answers the patch. If another write comes in between, it is asked again with the
        newer profile; after ten times the last ETAG_MISMATCH is raised.
        """
        for _ in range(_EDIT_ATTEMPTS - 1):
            try:
                return self._edit_once(key, edit)
            except CameoError as error:
                if error.reason != "ETAG_MISMATCH":
                    raise
        return self._edit_once(key, edit)

    def import_profiles(
        self,
        records: Iterable[tuple[Key, ProfilePatch]],
        *,
        silent: bool = False,
        timeout: float | None = None,
    ) -> ImportProfilesResponse:
        """Applies the patches in order, and creates the profiles that do not exist. Answers counts and refusals.

        `records` is iterated over in another thread, as the service takes them. What it raises ends the import after
        the record before, and is raised here. A record that is refused changes nothing, and the others go on: `explain`
        says why. `silent` marks the events for subscribers that omit such.

        It is never repeated, as `records` cannot be rewound. If this raises, each record was applied whole or not at
        all, in order; `metadata["records"]`, where the service could still say it, is how many it dealt with for
        certain. To import everything again is safe, since what is there already changes nothing, unless it increments:
        then give each record a `request_id`, through `profiles.ImportProfiles`.
        """
        failures: list[BaseException] = []
        requests = _import_requests(self.workspace, records, silent, failures)
        try:
            answer = self.profiles.ImportProfiles(requests, timeout=timeout)
        except grpc.RpcError as rpc_error:
            raise translate(rpc_error) from rpc_error
        if failures:
            raise failures[0]
        return answer

    def subscribe(
        self,
        cursor: CursorStore | None = None,
        *,
        earliest: bool = False,
        types: Sequence[str] = (),
        mpids: Sequence[int] = (),
        omit_silent: bool = False,
        read_mask: Sequence[str] = (),
        user_attribute_keys: Sequence[str] = (),
        heartbeat_interval: timedelta | None = None,
        until_caught_up: bool = False,
    ) -> Subscription:
        """The changes after the stored cursor.

        If none is stored yet: from the oldest event held with `earliest`, else from now. See `Subscription`.
        """
        request = SubscribeRequest(
            workspace=self.workspace,
            filter=EventFilter(types=types, mpids=mpids, omit_silent=omit_silent),
            read_mask=FieldMask(paths=read_mask),
            user_attribute_keys=user_attribute_keys,
            until_caught_up=until_caught_up,
        )
        if earliest:
            request.earliest = True
        if heartbeat_interval is not None:
            request.heartbeat_interval.FromTimedelta(heartbeat_interval)
        return Subscription(self.events, request, cursor)

    def _edit_once(self, key: Key, edit: Callable[[Profile], ProfilePatch]) -> UpdateProfileResponse:
        profile = self.get_profile(key)
        return self.update_profile(key, edit(profile), etag=profile.etag)


def _profile_key(key: Key) -> ProfileKey:
    return ProfileKey(mpid=key) if isinstance(key, int) else ProfileKey(identity=key)


def _found(result: BatchGetProfilesResult) -> Profile | CameoError:
    return explain(result.error) if result.HasField("error") else result.found


def _import_requests(
    workspace: str, records: Iterable[tuple[Key, ProfilePatch]], silent: bool, failures: list[BaseException]
) -> Iterator[ImportProfilesRequest]:
    """A message for each record. Ends where `records` raises, which it leaves in `failures`."""
    head: dict[str, Any] = {"workspace": workspace, "silent": silent}  # The first message says it for all.
    try:
        for key, patch in records:
            yield ImportProfilesRequest(key=_profile_key(key), patch=patch, **head)
            head = {}
    except GeneratorExit:  # The call is over.
        raise
    except BaseException as failure:  # grpcio would log it and not raise it, or wait for ever if it is a SystemExit.
        failures.append(failure)
