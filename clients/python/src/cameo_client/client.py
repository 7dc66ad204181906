"""A client of one workspace: it looks up, lists, changes and imports profiles, and subscribes to their changes.

`identities` and `audiences` hold the parts of the client that call those services.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import datetime, timedelta
from typing import Any

import grpc
from google.protobuf.field_mask_pb2 import FieldMask

from cameo.v1.audience_service_pb2_grpc import AudienceServiceStub
from cameo.v1.event_pb2 import Event, EventFilter
from cameo.v1.event_service_pb2 import (
    CreateSubscriptionRequest,
    DeleteSubscriptionRequest,
    GetEventRequest,
    GetSubscriptionRequest,
    ListSkippedEventsRequest,
    ListSubscriptionsRequest,
    SeekSubscriptionRequest,
    SeekSubscriptionResponse,
    SubscribeRequest,
    UpdateSubscriptionRequest,
)
from cameo.v1.event_service_pb2_grpc import EventServiceStub
from cameo.v1.identity_service_pb2_grpc import IdentityServiceStub
from cameo.v1.profile_pb2 import Profile
from cameo.v1.profile_service_pb2 import (
    BatchGetProfilesRequest,
    BatchGetProfilesResult,
    DeleteProfileRequest,
    DeleteProfileResponse,
    EraseProfileRequest,
    EraseProfileResponse,
    ExportSubjectRequest,
    GetProfileRequest,
    ImportProfilesRequest,
    ImportProfilesResponse,
    ListProfilesRequest,
    UpdateProfileRequest,
    UpdateProfileResponse,
)
from cameo.v1.profile_service_pb2_grpc import ProfileServiceStub
from cameo.v1.subscription_pb2 import OnExpired, Shard, SkippedEvent
from cameo.v1.subscription_pb2 import Subscription as Settings
from cameo.v1.write_pb2 import ProfilePatch

from .audiences import AudienceCalls
from .calls import TIMEOUT_SECONDS, Key, new_request_id, pages, profile_key
from .cursors import CursorStore
from .durable import DurableSubscription
from .errors import CameoError, explain, translate
from .identities import IdentityCalls
from .retry import call
from .subscription import Subscription
from .tokens import Token, TokenInterceptor

Start = str | datetime
"""Where a durable subscription starts: `now`, `earliest`, `snapshot`, the first event at or after a time, or after a
cursor. A time without a time zone is UTC."""

_PLACES = ("now", "earliest", "snapshot")
_ERASE_SECONDS = 60.0  # A profile with many events is erased in several commits.
_EDIT_ATTEMPTS = 10

_CHANNEL_OPTIONS = (
    # Detects within 30 s that the server is gone, even on a stream that only receives.
    ("grpc.keepalive_time_ms", 20_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.http2.ping_timeout_ms", 10_000),  # Without it, pings time out after a minute, despite the line above.
    ("grpc.http2.max_pings_without_data", 0),
    # By default, a channel waits up to two minutes between attempts to connect, and fails every call until then.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 5_000),
    ("grpc.max_reconnect_backoff_ms", 5_000),
)


def connect(
    address: str,
    compression: grpc.Compression | None = None,
    *,
    token: Token | None = None,
    tls: grpc.ChannelCredentials | None = None,
) -> grpc.Channel:
    """Opens a channel to `host:port`. Close it after use, or use it in a `with` statement.

    `token` is presented with every call. `tls` is `grpc.ssl_channel_credentials(...)`, with a client certificate if the
    server asks for one; without it, the channel has no TLS. `grpc.Compression.Gzip` compresses requests. Responses are
    compressed in any case, unless they are small.
    """
    if tls is None:
        channel = grpc.insecure_channel(address, options=_CHANNEL_OPTIONS, compression=compression)
    else:
        channel = grpc.secure_channel(address, tls, options=_CHANNEL_OPTIONS, compression=compression)
    return channel if token is None else grpc.intercept_channel(channel, TokenInterceptor(token))


class Client(IdentityCalls, AudienceCalls):
    """A client of one workspace. It is thread-safe, like the channel.

    Methods raise `CameoError`. If the service cannot be reached or asks for a retry, they retry for at most `timeout`
    seconds. A write carries a `request_id`, so retries do not apply it twice. `import_profiles` has neither retries nor
    request ids.
    """

    def __init__(self, channel: grpc.Channel, workspace: str) -> None:
        self.workspace = workspace
        # For calls that have no method here. `retry.call` adds retries and readable errors.
        self.profiles = ProfileServiceStub(channel)
        self.events = EventServiceStub(channel)
        self.identities = IdentityServiceStub(channel)
        self.audiences = AudienceServiceStub(channel)

    def get_profile(
        self,
        key: Key,
        *,
        read_mask: Sequence[str] = (),
        user_attribute_keys: Sequence[str] = (),
        min_cursor: str = "",
        timeout: float = TIMEOUT_SECONDS,
    ) -> Profile:
        """Returns a profile, or only its fields in `read_mask` and its attributes in `user_attribute_keys`.

        The mpid of a profile that was merged into another names the survivor: compare the `mpid` of what is returned.
        """
        request = GetProfileRequest(
            workspace=self.workspace,
            key=profile_key(key),
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
        timeout: float = TIMEOUT_SECONDS,
    ) -> list[Profile | CameoError]:
        """Returns, for each key in order, what `get_profile` would return or raise, all from one state of the store.

        The service refuses more than 1,000 keys. This method does not split them, because several batches would come
        from several states. Keys that would make the response too large get LIMIT_EXCEEDED with the code
        RESOURCE_EXHAUSTED: ask for them in another call.
        """
        request = BatchGetProfilesRequest(
            workspace=self.workspace,
            keys=[profile_key(key) for key in keys],
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
        audience_id: int = 0,
    ) -> Iterator[Profile]:
        """Returns all profiles in the order of their mpids. Fetches a page when the previous one is used up.

        With an `audience_id`, only the members of that audience. A `page_size` of 0 leaves the size to the service. A profile that exists from the first page to the last is
        returned exactly once, regardless of other writes. The pages do not come from one state of the store.
        """
        request = ListProfilesRequest(
            workspace=self.workspace,
            page_size=page_size,
            read_mask=FieldMask(paths=read_mask),
            user_attribute_keys=user_attribute_keys,
            audience_id=audience_id,
        )
        for page in pages(self.profiles.ListProfiles, request):
            yield from page.profiles

    def update_profile(
        self,
        key: Key,
        patch: ProfilePatch,
        *,
        etag: str = "",
        allow_missing: bool = False,
        request_id: str = "",
        timeout: float = TIMEOUT_SECONDS,
    ) -> UpdateProfileResponse:
        """Changes a profile. Returns the profile after the change, the outcome, and the cursor of the event.

        If this raises UNAVAILABLE or DEADLINE_EXCEEDED, it is unknown whether the change was made. To be able to find
        out, pass your own `request_id`, and call again with the same one.
        """
        request = UpdateProfileRequest(
            workspace=self.workspace,
            key=profile_key(key),
            patch=patch,
            etag=etag,
            allow_missing=allow_missing,
            request_id=request_id or new_request_id(),
        )
        return call(self.profiles.UpdateProfile, request, timeout)

    def delete_profile(
        self,
        key: Key,
        *,
        etag: str = "",
        allow_missing: bool = False,
        request_id: str = "",
        timeout: float = TIMEOUT_SECONDS,
    ) -> DeleteProfileResponse:
        """Deletes a profile. Its events stay in the log, with their values: see `erase_profile`."""
        request = DeleteProfileRequest(
            workspace=self.workspace,
            key=profile_key(key),
            etag=etag,
            allow_missing=allow_missing,
            request_id=request_id or new_request_id(),
        )
        return call(self.profiles.DeleteProfile, request, timeout)

    def erase_profile(
        self,
        key: Key,
        *,
        etag: str = "",
        allow_missing: bool = False,
        validate_only: bool = False,
        request_id: str = "",
        timeout: float = _ERASE_SECONDS,
    ) -> EraseProfileResponse:
        """Deletes a profile, and removes every value of the person from what the service can return.

        A profile that was deleted can be erased too, by its mpid. If this raises UNAVAILABLE or DEADLINE_EXCEEDED, call
        again with `allow_missing`: an erasure that was interrupted may have removed only a part. docs/privacy.md says
        what is left to do, such as `cameo compact` and the copies that subscribers keep.
        """
        request = EraseProfileRequest(
            workspace=self.workspace,
            key=profile_key(key),
            etag=etag,
            allow_missing=allow_missing,
            validate_only=validate_only,
            request_id=request_id or new_request_id(),
        )
        return call(self.profiles.EraseProfile, request, timeout)

    def export_subject(self, key: Key, *, timeout: float | None = None) -> Iterator[str]:
        """Returns everything that the service holds on a person, as the parts of one JSON document.

        Write the parts one after another into a file, or pass `"".join(parts)` to `json.loads`. The call is retried
        until the first part has arrived. After that a broken stream raises, and the parts are useless: begin again.
        """
        request = ExportSubjectRequest(workspace=self.workspace, key=profile_key(key))
        for_all = timeout

        def begin(request: ExportSubjectRequest, timeout: float) -> tuple[Any, Any]:
            stream = self.profiles.ExportSubject(request, timeout=for_all)
            return next(stream), stream

        first, rest = call(begin, request, TIMEOUT_SECONDS if for_all is None else for_all)
        yield first.document
        try:
            for part in rest:
                yield part.document
        except grpc.RpcError as rpc_error:
            raise translate(rpc_error) from rpc_error

    def edit_profile(self, key: Key, edit: Callable[[Profile], ProfilePatch]) -> UpdateProfileResponse:
        """Changes a profile by a patch that depends on its current content, without overwriting other changes.

        `edit` receives the profile and returns the patch. If another write happens in between, `edit` is called again
        with the newer profile. After ten attempts this raises the last ETAG_MISMATCH.
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
        """Applies patches in order, and creates the profiles that do not exist. Returns counts and refusals.

        Another thread iterates over `records`, as fast as the service reads them. If `records` raises, the import ends
        after the previous record, and this method raises the same exception. A refused record changes nothing, and the
        import continues; `explain` gives the reason. `silent` marks the events for subscribers that leave out silent
        ones.

        An import is never retried, because `records` cannot be rewound. If this raises, every record was applied whole
        or not at all, and in order. `metadata["records"]`, if the service could still send it, is the number of records
        whose outcome is known. Importing everything again is safe, because a patch that is already applied changes
        nothing. Records that increment are the exception: give each of them a `request_id`, with
        `profiles.ImportProfiles`.
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
        """Subscribes to the changes after the stored cursor.

        If no cursor is stored yet, it starts with the oldest event that the log holds (`earliest`) or from now. See
        `Subscription`.
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

    def subscription(
        self, name: str, *, heartbeat_interval: timedelta | None = None, until_caught_up: bool = False
    ) -> DurableSubscription:
        """Reads a durable subscription, after what was acknowledged. See `DurableSubscription`."""
        request = SubscribeRequest(workspace=self.workspace, subscription=name, until_caught_up=until_caught_up)
        if heartbeat_interval is not None:
            request.heartbeat_interval.FromTimedelta(heartbeat_interval)
        return DurableSubscription(self.events, request)

    def create_subscription(
        self,
        name: str,
        *,
        start: Start = "now",
        filter: EventFilter | None = None,
        read_mask: Sequence[str] = (),
        user_attribute_keys: Sequence[str] = (),
        shard: Shard | None = None,
        on_expired: OnExpired = OnExpired.ON_EXPIRED_UNSPECIFIED,
        request_id: str = "",
        timeout: float = TIMEOUT_SECONDS,
    ) -> Settings:
        """Creates a durable subscription. Raises SUBSCRIPTION_EXISTS if there is one of this name."""
        settings = Settings(
            name=name,
            filter=filter,
            read_mask=FieldMask(paths=read_mask),
            user_attribute_keys=user_attribute_keys,
            shard=shard,
            on_expired=on_expired,
        )
        request = CreateSubscriptionRequest(
            workspace=self.workspace, subscription=settings, request_id=request_id or new_request_id()
        )
        if start != "now":  # Unset means now.
            _set_place(request, start)
        return call(self.events.CreateSubscription, request, timeout).subscription

    def get_subscription(self, name: str, *, timeout: float = TIMEOUT_SECONDS) -> Settings:
        """Returns the settings of a subscription, how far it is behind, and its open stream."""
        request = GetSubscriptionRequest(workspace=self.workspace, name=name)
        return call(self.events.GetSubscription, request, timeout).subscription

    def list_subscriptions(self, *, page_size: int = 0) -> Iterator[Settings]:
        """Returns all subscriptions in the order of their names."""
        request = ListSubscriptionsRequest(workspace=self.workspace, page_size=page_size)
        for page in pages(self.events.ListSubscriptions, request):
            yield from page.subscriptions

    def update_subscription(
        self,
        subscription: Settings,
        update_mask: Sequence[str],
        *,
        request_id: str = "",
        timeout: float = TIMEOUT_SECONDS,
    ) -> Settings:
        """Changes the settings that `update_mask` names. An open stream ends with `SubscriptionTakenOver`."""
        request = UpdateSubscriptionRequest(
            workspace=self.workspace,
            subscription=subscription,
            update_mask=FieldMask(paths=update_mask),
            request_id=request_id or new_request_id(),
        )
        return call(self.events.UpdateSubscription, request, timeout).subscription

    def delete_subscription(
        self,
        name: str,
        *,
        allow_missing: bool = False,
        request_id: str = "",
        timeout: float = TIMEOUT_SECONDS,
    ) -> None:
        """Deletes a subscription and the list of its skipped events. An open stream ends."""
        request = DeleteSubscriptionRequest(
            workspace=self.workspace,
            name=name,
            allow_missing=allow_missing,
            request_id=request_id or new_request_id(),
        )
        call(self.events.DeleteSubscription, request, timeout)

    def seek_subscription(
        self,
        name: str,
        to: Start,
        *,
        validate_only: bool = False,
        request_id: str = "",
        timeout: float = TIMEOUT_SECONDS,
    ) -> SeekSubscriptionResponse:
        """Moves the acknowledged place. An open stream ends with `SubscriptionTakenOver`.

        With `validate_only` it changes nothing. The response says how many events are replayed or passed over.
        """
        request = SeekSubscriptionRequest(
            workspace=self.workspace,
            name=name,
            validate_only=validate_only,
            request_id=request_id or new_request_id(),
        )
        _set_place(request, to)
        return call(self.events.SeekSubscription, request, timeout)

    def list_skipped_events(self, name: str, *, page_size: int = 0) -> Iterator[SkippedEvent]:
        """Returns the events that readers of a subscription gave up on. `get_event` returns the event itself."""
        request = ListSkippedEventsRequest(workspace=self.workspace, subscription=name, page_size=page_size)
        for page in pages(self.events.ListSkippedEvents, request):
            yield from page.skipped_events

    def get_event(
        self,
        sequence: int,
        *,
        read_mask: Sequence[str] = (),
        user_attribute_keys: Sequence[str] = (),
        timeout: float = TIMEOUT_SECONDS,
    ) -> Event:
        """Returns one event of the log."""
        request = GetEventRequest(
            workspace=self.workspace,
            sequence=sequence,
            read_mask=FieldMask(paths=read_mask),
            user_attribute_keys=user_attribute_keys,
        )
        return call(self.events.GetEvent, request, timeout).event

    def _edit_once(self, key: Key, edit: Callable[[Profile], ProfilePatch]) -> UpdateProfileResponse:
        profile = self.get_profile(key)
        return self.update_profile(key, edit(profile), etag=profile.etag)


def _set_place(request: CreateSubscriptionRequest | SeekSubscriptionRequest, place: Start) -> None:
    if isinstance(place, datetime):
        request.time.FromDatetime(place)
    elif place in _PLACES:
        setattr(request, place, True)
    else:
        request.cursor = place


def _found(result: BatchGetProfilesResult) -> Profile | CameoError:
    return explain(result.error) if result.HasField("error") else result.found


def _import_requests(
    workspace: str, records: Iterable[tuple[Key, ProfilePatch]], silent: bool, failures: list[BaseException]
) -> Iterator[ImportProfilesRequest]:
    """A message for each record. If `records` raises, it ends and puts the exception into `failures`."""
    head: dict[str, Any] = {"workspace": workspace, "silent": silent}  # In the first message, it applies to all.
    try:
        for key, patch in records:
            yield ImportProfilesRequest(key=profile_key(key), patch=patch, **head)
            head = {}
    except GeneratorExit:  # The call is over.
        raise
    except BaseException as failure:  # grpcio would log it instead of raising it, or hang if it is a SystemExit.
        failures.append(failure)
