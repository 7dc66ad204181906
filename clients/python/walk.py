"""Walks through the API with grpcio, as clients/conformance/README.md says, with gzip in both directions.

    walk.py <address> <workspace>
"""

import json
import sys
from collections.abc import Callable

import grpc
from google.protobuf.field_mask_pb2 import FieldMask
from google.rpc.error_details_pb2 import ErrorInfo
from google.rpc.status_pb2 import Status
from grpc_status import rpc_status

from cameo.v1.audience_pb2 import Audience, AudienceState
from cameo.v1.audience_service_pb2 import (
    AddAudienceMembersRequest,
    CreateAudienceRequest,
    ListAudienceMembersRequest,
)
from cameo.v1.audience_service_pb2_grpc import AudienceServiceStub
from cameo.v1.event_pb2 import EventFilter
from cameo.v1.event_service_pb2 import ListEventsRequest, SubscribeRequest, SubscribeResponse
from cameo.v1.event_service_pb2_grpc import EventServiceStub
from cameo.v1.identity_service_pb2 import (
    IdentifyProfileRequest,
    MatchReason,
    MergeProfilesRequest,
    UnmergeProfilesRequest,
)
from cameo.v1.identity_service_pb2_grpc import IdentityServiceStub
from cameo.v1.profile_key_pb2 import ProfileKey
from cameo.v1.profile_pb2 import AudienceMembership, Identity, Profile
from cameo.v1.profile_service_pb2 import (
    BatchGetProfilesRequest,
    CreateProfileRequest,
    DeleteProfileRequest,
    EraseProfileRequest,
    ExportSubjectRequest,
    GetProfileRequest,
    ImportProfilesRequest,
    ListProfilesRequest,
    UpdateProfileRequest,
)
from cameo.v1.profile_service_pb2_grpc import ProfileServiceStub
from cameo.v1.write_pb2 import ProfilePatch, WriteOutcome
from cameo_client import connect

MARKY = 9080350317581165000
BUYERS = 9007199254740993  # The first number that a double cannot hold.
BIO = "cameo " * 8000


class Walk:
    def __init__(self, channel: grpc.Channel, workspace: str) -> None:
        self._workspace = workspace
        self._profiles = ProfileServiceStub(channel)
        self._events = EventServiceStub(channel)
        self._identities = IdentityServiceStub(channel)
        self._audiences = AudienceServiceStub(channel)

    def run(self) -> None:
        created_etag = self._create()
        self._get()
        self._update(created_etag)
        self._retry()
        self._import()
        self._batch()
        self._list()
        self._resume(self._subscribe())
        self._history()
        self._live()
        self._identify()
        self._merge()
        self._audience()
        self._export()
        self._erase()

    def _create(self) -> str:
        profile = Profile(
            mpid=MARKY,
            user_identities=[Identity(type="email", value="Marky@example.com")],
            audience_memberships=[AudienceMembership(audience_id=17918, audience_name="Decor Remarketing")],
        )
        profile.user_attributes.update({"$city": "New York", "ltv": 342.1, "plan": "basic", "bio": BIO})
        request = CreateProfileRequest(workspace=self._workspace, profile=profile)
        created = self._profiles.CreateProfile(request).profile
        print(f"create: {created.mpid}")
        return created.etag

    def _get(self) -> None:
        request = GetProfileRequest(
            workspace=self._workspace,
            key=identity("email", "marky@EXAMPLE.com"),
            read_mask=FieldMask(paths=["mpid", "user_attributes"]),
            user_attribute_keys=["plan"],
        )
        masked = self._profiles.GetProfile(request).profile
        attributes = masked.user_attributes
        print(f"get: {masked.mpid} plan={attributes['plan']} attributes={len(attributes)} etag={masked.etag}")

        whole = self._profiles.GetProfile(self._get_request(MARKY)).profile
        print(f"get: bio={len(whole.user_attributes['bio'])}")

    def _update(self, created_etag: str) -> None:
        patch = patch_setting(plan="pro")
        patch.increment_user_attributes["ltv"] = 20.5
        patch.leave_audiences.append(17918)
        updated = self._profiles.UpdateProfile(self._update_request(patch))
        attributes, audiences = updated.profile.user_attributes, len(updated.profile.audience_memberships)
        plan, ltv = attributes["plan"], attributes["ltv"]
        print(f"update: {name(updated.outcome)} plan={plan} ltv={ltv} audiences={audiences}")

        stale = self._update_request(patch_setting(plan="free"), etag=created_etag)
        print(f"update: {refusal(lambda: self._profiles.UpdateProfile(stale))}")

    def _retry(self) -> None:
        patch = ProfilePatch(increment_user_attributes={"orders": 1})
        for _ in range(2):
            updated = self._profiles.UpdateProfile(self._update_request(patch, request_id="order-7"))
            print(f"retry: orders={updated.profile.user_attributes['orders']:g}")

    def _import(self) -> None:
        email = Identity(type="email", value="marky@example.com")
        customer = Identity(type="customer_id", value="mxr15")
        first = patch_setting(plan="pro", bio=BIO)
        second = patch_setting(plan="basic")
        second.add_identities.append(customer)
        records = [
            ImportProfilesRequest(workspace=self._workspace, silent=True, key=mpid(1), patch=first),
            ImportProfilesRequest(key=mpid(7), patch=second),
            ImportProfilesRequest(key=ProfileKey(identity=email), patch=patch_setting(plan="pro")),
            ImportProfilesRequest(key=mpid(2), patch=ProfilePatch(add_identities=[email])),
        ]
        answer = self._profiles.ImportProfiles(iter(records))
        counts = ("created", "updated", "unchanged", "refused")
        print("import:", *(f"{count}={getattr(answer, count)}" for count in counts))
        for refused in answer.refusals:
            print(f"import: record {refused.position} {reason(refused.error)}")

    def _batch(self) -> None:
        request = BatchGetProfilesRequest(
            workspace=self._workspace,
            keys=[mpid(1), mpid(404), identity("customer_id", "mxr15")],
            user_attribute_keys=["plan"],
        )
        for result in self._profiles.BatchGetProfiles(request).results:
            if result.HasField("error"):
                print(f"batch: {reason(result.error)}")
            else:
                print(f"batch: plan={result.found.user_attributes['plan']}")

    def _list(self) -> None:
        request = ListProfilesRequest(workspace=self._workspace, page_size=2)
        listed = []
        while True:
            page = self._profiles.ListProfiles(request)
            listed += [profile.mpid for profile in page.profiles]
            if not page.next_page_token:
                break
            request.page_token = page.next_page_token
        print("list:", *listed)

    def _subscribe(self) -> str:
        """Returns the cursor of the last event that was read."""
        stream = self._events.Subscribe(SubscribeRequest(workspace=self._workspace, earliest=True))
        for _ in range(3):
            message = next(stream)
            print(f"subscribe: {describe(message)}")
        stream.cancel()
        return message.cursor

    def _resume(self, cursor: str) -> None:
        request = SubscribeRequest(workspace=self._workspace, cursor=cursor, until_caught_up=True)
        for message in self._events.Subscribe(request):
            print(f"resume: {describe(message)}")

    def _history(self) -> None:
        request = ListEventsRequest(workspace=self._workspace, filter=EventFilter(mpids=[MARKY]))
        print("history:", *(event.sequence for event in self._events.ListEvents(request).events))

    def _live(self) -> None:
        stream = self._events.Subscribe(SubscribeRequest(workspace=self._workspace))
        print(f"live: {describe(next(stream))}")
        request = DeleteProfileRequest(workspace=self._workspace, key=identity("customer_id", "mxr15"))
        print(f"delete: {name(self._profiles.DeleteProfile(request).outcome)}")
        event = next(message for message in stream if message.HasField("event"))
        print(f"live: {describe(event)}")
        stream.cancel()
        print(f"get: {refusal(lambda: self._profiles.GetProfile(self._get_request(7)))}")

    def _identify(self) -> None:
        identities = [Identity(type="customer_id", value="mxr15"), Identity(type="email", value="marky@EXAMPLE.com")]
        request = IdentifyProfileRequest(
            workspace=self._workspace, identities=identities, patch=patch_setting(plan="gold")
        )
        found = self._identities.IdentifyProfile(request)
        match = f"{found.match.index} {found.match.type} {MatchReason.Name(found.match.reason)}"
        print(f"identify: {name(found.outcome)} {found.profile.mpid} match={match} linked={found.linked[0]}")

    def _merge(self) -> None:
        request = MergeProfilesRequest(workspace=self._workspace, into=mpid(1), **{"from": mpid(MARKY)})
        merged = self._identities.MergeProfiles(request)
        conflicts = ",".join(f"{conflict.field}={str(conflict.from_absorbed).lower()}" for conflict in merged.conflicts)
        print(f"merge: {merged.profile.mpid} absorbed={merged.merged_mpid} conflicts={conflicts}")

        found = self._profiles.GetProfile(self._get_request(MARKY))
        print(f"get: {found.profile.mpid} redirected from {found.redirected_from}")

        undo = UnmergeProfilesRequest(workspace=self._workspace, merged_mpid=MARKY)
        undone = self._identities.UnmergeProfiles(undo)
        print(f"unmerge: {undone.profile.mpid} survivor={undone.survivor_mpid} kept={len(undone.kept_fields)}")

    def _audience(self) -> None:
        audience = Audience(audience_id=BUYERS, name="Buyers")
        create = CreateAudienceRequest(workspace=self._workspace, audience=audience)
        created = self._audiences.CreateAudience(create).audience
        print(f"audience: {created.audience_id} {AudienceState.Name(created.state)}")

        keys = [mpid(MARKY), mpid(404)]
        add = AddAudienceMembersRequest(workspace=self._workspace, audience_id=BUYERS, keys=keys)
        for result in self._audiences.AddAudienceMembers(add).results:
            failure = reason(result.error) if result.HasField("error") else None
            print(f"members: {failure or f'{result.mpid} {name(result.outcome)}'}")
        list_members = ListAudienceMembersRequest(workspace=self._workspace, audience_id=BUYERS)
        print("members:", *(member.mpid for member in self._audiences.ListAudienceMembers(list_members).members))

    def _export(self) -> None:
        request = ExportSubjectRequest(workspace=self._workspace, key=mpid(MARKY))
        document = json.loads("".join(part.document for part in self._profiles.ExportSubject(request)))
        print(f"export: {document['mpid']} history={len(document['history'])}")

    def _erase(self) -> None:
        request = EraseProfileRequest(workspace=self._workspace, key=mpid(MARKY))
        erased = self._profiles.EraseProfile(request)
        print(f"erase: {name(erased.outcome)} {erased.mpids[0]} events={erased.events}")
        events = ListEventsRequest(workspace=self._workspace, filter=EventFilter(mpids=[MARKY]))
        for event in self._events.ListEvents(events).events:
            redacted = str(event.redacted).lower()
            print(f"erased: {event.sequence} {event.type} {event.mpid} merged={event.merged_mpid} redacted={redacted}")

    def _get_request(self, number: int) -> GetProfileRequest:
        return GetProfileRequest(workspace=self._workspace, key=mpid(number))

    def _update_request(self, patch: ProfilePatch, etag: str = "", request_id: str = "") -> UpdateProfileRequest:
        return UpdateProfileRequest(
            workspace=self._workspace, key=mpid(MARKY), patch=patch, etag=etag, request_id=request_id
        )


def describe(message: SubscribeResponse) -> str:
    match message.WhichOneof("message"):
        case "opened":
            return f"opened after={message.opened.after_sequence} head={message.opened.head_sequence}"
        case "event":
            event = message.event
            return f"{event.sequence} {event.type} {event.mpid} {','.join(event.changed_user_attributes)}"
        case "caught_up":
            return f"caught up head={message.caught_up.head_sequence}"
        case other:
            return str(other)


def refusal(call: Callable[[], object]) -> str:
    """The code and the reason of a call that must fail."""
    try:
        return f"not refused: {call()}"
    except grpc.RpcError as error:
        return reason(rpc_status.from_call(error))


def reason(status: Status) -> str:
    """The code and the reason of an error: that of a call, or of one key or record."""
    for packed in status.details:
        info = ErrorInfo()
        if packed.Unpack(info):
            return f"refused {status.code} {info.domain} {info.reason}"
    return f"refused {status.code} without a reason: {status.message}"


def mpid(number: int) -> ProfileKey:
    return ProfileKey(mpid=number)


def identity(kind: str, value: str) -> ProfileKey:
    return ProfileKey(identity=Identity(type=kind, value=value))


def patch_setting(**attributes: str) -> ProfilePatch:
    patch = ProfilePatch()
    patch.set_user_attributes.update(attributes)
    return patch


def name(outcome: int) -> str:
    return WriteOutcome.Name(outcome).removeprefix("WRITE_OUTCOME_")


if __name__ == "__main__":
    with connect(sys.argv[1], compression=grpc.Compression.Gzip) as opened:
        Walk(opened, sys.argv[2]).run()
