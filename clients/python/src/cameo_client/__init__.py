"""A client of Cameo.

- `client`: connects, and looks up, lists, changes and imports profiles.
- `subscription`: the stream of changes, which resumes after a break.
- `cursors`: where a subscriber stores its cursor.
- `errors`: the errors of the service.
- `retry`: which calls are retried, and when.

The messages are generated as `cameo.v1.*_pb2`: see `generate.py`. This package exports the most common ones.
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
