"""A client of Cameo.

- `client`: connecting, looking up, listing, changing, importing.
- `subscription`: the stream of changes, which resumes.
- `cursors`: where a subscriber remembers how far it came.
- `errors`: what the service refuses, and why.
- `retry`: waiting and asking again.

The messages are generated, as `cameo.v1.*_pb2`: see `generate.py`. The most used are here too.
"""

from cameo.v1.event_pb2 import Event
from cameo.v1.profile_pb2 import Identity, Profile
from cameo.v1.write_pb2 import ProfilePatch

from .client import Client, Key, connect
from .cursors import CursorStore, FileCursor
from .errors import CameoError, CursorRefused, FieldViolation, explain
from .subscription import Delivery, Subscription

__all__ = [
    "CameoError",
    "Client",
    "CursorRefused",
    "CursorStore",
    "Delivery",
    "Event",
    "FieldViolation",
    "FileCursor",
    "Identity",
    "Key",
    "Profile",
    "ProfilePatch",
    "Subscription",
    "connect",
    "explain",
]
