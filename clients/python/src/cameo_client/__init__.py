"""A client of Cameo.

- `client`: connects, and looks up, lists, changes and imports profiles.
- `subscription`: the stream of changes, which resumes after a break.
- `durable`: the same with a place that the server keeps.
- `cursors`: where a subscriber stores its cursor.
- `errors`: the errors of the service.
- `retry`: which calls are retried, and when.

The messages are generated as `cameo.v1.*_pb2`: see `generate.py`. This package exports the most common ones.
"""

from cameo.v1.event_pb2 import Event, EventFilter
from cameo.v1.profile_pb2 import Identity, Profile
from cameo.v1.subscription_pb2 import OnExpired, Shard
from cameo.v1.write_pb2 import ProfilePatch

from .client import Client, Key, Start, connect
from .cursors import CursorStore, FileCursor
from .durable import DurableDelivery, DurableSubscription
from .errors import CameoError, CursorRefused, FieldViolation, SubscriptionTakenOver, explain
from .subscription import Delivery, Subscription

__all__ = [
    "CameoError",
    "Client",
    "CursorRefused",
    "CursorStore",
    "Delivery",
    "DurableDelivery",
    "DurableSubscription",
    "Event",
    "EventFilter",
    "FieldViolation",
    "FileCursor",
    "Identity",
    "Key",
    "OnExpired",
    "Profile",
    "ProfilePatch",
    "Shard",
    "Start",
    "Subscription",
    "SubscriptionTakenOver",
    "connect",
    "explain",
]
