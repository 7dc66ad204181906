"""The calls that register audiences, and that change and list their members."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import datetime

from cameo.v1.audience_pb2 import Audience, AudienceMember
from cameo.v1.audience_service_pb2 import (
    AddAudienceMembersRequest,
    AddAudienceMembersResponse,
    CreateAudienceRequest,
    DeleteAudienceRequest,
    DeleteAudienceResponse,
    GetAudienceRequest,
    ListAudienceMembersRequest,
    ListAudiencesRequest,
    RemoveAudienceMembersRequest,
    RemoveAudienceMembersResponse,
)
from cameo.v1.audience_service_pb2_grpc import AudienceServiceStub

from .calls import TIMEOUT_SECONDS, Key, new_request_id, pages, profile_key
from .retry import call


class AudienceCalls:
    """The part of a `Client` that calls `AudienceService`."""

    workspace: str
    audiences: AudienceServiceStub

    def create_audience(
        self,
        name: str,
        *,
        audience_id: int = 0,
        description: str = "",
        request_id: str = "",
        timeout: float = TIMEOUT_SECONDS,
    ) -> Audience:
        """Registers an audience. Without an `audience_id`, the service chooses one.

        Raises AUDIENCE_EXISTS if the id is registered.
        """
        request = CreateAudienceRequest(
            workspace=self.workspace,
            audience=Audience(audience_id=audience_id, name=name, description=description),
            request_id=request_id or new_request_id(),
        )
        return call(self.audiences.CreateAudience, request, timeout).audience

    def get_audience(self, audience_id: int, *, timeout: float = TIMEOUT_SECONDS) -> Audience:
        """Returns a registered audience: its name, the number of its members, and what the service does with it."""
        request = GetAudienceRequest(workspace=self.workspace, audience_id=audience_id)
        return call(self.audiences.GetAudience, request, timeout).audience

    def list_audiences(self, *, page_size: int = 0) -> Iterator[Audience]:
        """Returns all registered audiences in the order of their ids."""
        request = ListAudiencesRequest(workspace=self.workspace, page_size=page_size)
        for page in pages(self.audiences.ListAudiences, request):
            yield from page.audiences

    def delete_audience(
        self,
        audience_id: int,
        *,
        allow_missing: bool = False,
        request_id: str = "",
        timeout: float = TIMEOUT_SECONDS,
    ) -> DeleteAudienceResponse:
        """Deletes an audience. Its members leave it in the background: `get_audience` shows the progress."""
        request = DeleteAudienceRequest(
            workspace=self.workspace,
            audience_id=audience_id,
            allow_missing=allow_missing,
            request_id=request_id or new_request_id(),
        )
        return call(self.audiences.DeleteAudience, request, timeout)

    def add_audience_members(
        self,
        audience_id: int,
        keys: Iterable[Key],
        *,
        expire_time: datetime | None = None,
        request_id: str = "",
        timeout: float = TIMEOUT_SECONDS,
    ) -> AddAudienceMembersResponse:
        """Makes profiles members of a registered audience, or changes when their memberships end.

        `expire_time` is when they end; None means never, and a time without a time zone is UTC. All of it is one write.
        The response has a result for each key in order. A key that names no profile has an `error`, which does not
        fail the others; `explain` gives the reason. The service refuses more than 1,000 keys.
        """
        request = AddAudienceMembersRequest(
            workspace=self.workspace,
            audience_id=audience_id,
            keys=[profile_key(key) for key in keys],
            request_id=request_id or new_request_id(),
        )
        if expire_time is not None:
            request.expire_time.FromDatetime(expire_time)
        return call(self.audiences.AddAudienceMembers, request, timeout)

    def remove_audience_members(
        self,
        audience_id: int,
        keys: Iterable[Key],
        *,
        request_id: str = "",
        timeout: float = TIMEOUT_SECONDS,
    ) -> RemoveAudienceMembersResponse:
        """Ends memberships of a registered audience, in one write. The response is as `add_audience_members` has it."""
        request = RemoveAudienceMembersRequest(
            workspace=self.workspace,
            audience_id=audience_id,
            keys=[profile_key(key) for key in keys],
            request_id=request_id or new_request_id(),
        )
        return call(self.audiences.RemoveAudienceMembers, request, timeout)

    def list_audience_members(self, audience_id: int, *, page_size: int = 0) -> Iterator[AudienceMember]:
        """Returns the members of an audience in the order of their mpids: each its mpid, and when it leaves.

        The audience need not be registered. `list_profiles` with an `audience_id` returns the profiles themselves.
        """
        request = ListAudienceMembersRequest(
            workspace=self.workspace, audience_id=audience_id, page_size=page_size
        )
        for page in pages(self.audiences.ListAudienceMembers, request):
            yield from page.members
