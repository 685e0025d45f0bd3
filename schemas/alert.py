"""Alert: something that someone should look at has begun, or is over, as published on `P.alerts.<rule>`."""

from datetime import datetime
from enum import StrEnum

from msgspec import Struct


class AlertState(StrEnum):
    """Whether an incident has begun or is over."""

    FIRING = "firing"
    RECOVERED = "recovered"


class Alert(Struct, frozen=True, kw_only=True):
    """One of the two messages about an incident; `id` names the message, and `incident` what both are about."""

    id: str
    incident: str
    rule: str
    category: str
    state: AlertState
    text: str
    """What is the matter, in one sentence; when it is over, what was."""
    since: datetime
    time: datetime
    prefix: str
    """The subject prefix of the tasks in question."""
