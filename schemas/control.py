"""Control: the payload of a stop or kill; empty is fine."""

from enum import StrEnum

from msgspec import Struct

from .quantity import Duration


class Verb(StrEnum):
    """What a control asks for: SIGTERM and a grace, or SIGKILL at once."""

    STOP = "stop"
    KILL = "kill"


class Control(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """Why, by whom, and with which grace (None: the task's own)."""

    reason: str | None = None
    by: str | None = None
    grace: Duration | None = None
