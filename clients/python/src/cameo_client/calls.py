"""What the calls of a client have in common."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from typing import Any

from cameo.v1.profile_key_pb2 import ProfileKey
from cameo.v1.profile_pb2 import Identity

from .retry import call

Key = int | Identity
"""The key of a profile: its mpid, or any identity that it owns."""

TIMEOUT_SECONDS = 10.0


def profile_key(key: Key) -> ProfileKey:
    return ProfileKey(mpid=key) if isinstance(key, int) else ProfileKey(identity=key)


def new_request_id() -> str:
    return str(uuid.uuid4())


def pages(rpc: Callable[..., Any], request: Any) -> Iterator[Any]:
    """Requests page after page. One without items is not necessarily the last."""
    while True:
        page = call(rpc, request, TIMEOUT_SECONDS)
        yield page
        if not page.next_page_token:
            return
        request.page_token = page.next_page_token
