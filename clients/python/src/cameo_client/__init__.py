"""A client of Cameo.

- `client`: connects, and looks up, lists, changes, imports and erases profiles.
- `identities`: finds the profile of a person, and merges profiles.
- `audiences`: registers audiences, and changes their members.
- `subscription`: the stream of changes, which resumes after a break.
- `durable`: the same with a place that the server keeps.
- `copies`: what events mean for a copy of the profiles.
- `cursors`: where a subscriber stores its cursor.
- `errors`: the errors of the service.
- `retry`: which calls are retried, and when.

The messages are generated as `cameo.v1.*_pb2`: see `generate.py`. This package exports the most common ones.
"""

from cameo.v1.audience_pb2 import Audience
from cameo.v1.event_pb2 import Event, EventFilter
from cameo.v1.identity_service_pb2 import IdentitySettings, OnConflict
from cameo.v1.profile_pb2 import Identity, Profile
from cameo.v1.subscription_pb2 import OnExpired, Shard
from cameo.v1.write_pb2 import ProfilePatch

from .calls import Key
from .client import Client, Start, connect
from .copies import Change, changes_of
from .cursors import CursorStore, FileCursor
from .durable import DurableDelivery, DurableSubscription
from .errors import CameoError, CursorRefused, FieldViolation, SubscriptionTakenOver, explain
from .subscription import Delivery, Subscription

__all__ = [
    "Audience",
    "CameoError",
    "Change",
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
    "IdentitySettings",
    "Key",
    "OnConflict",
    "OnExpired",
    "Profile",
    "ProfilePatch",
    "Shard",
    "Start",
    "Subscription",
    "SubscriptionTakenOver",
    "changes_of",
    "connect",
    "explain",
]
