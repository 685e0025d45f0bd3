"""What a doctor's check finds."""

from typing import Literal

from msgspec import Struct

State = Literal["ok", "warning", "failed"]


class Check(Struct, frozen=True):
    """One check's outcome, and what to do about it unless it is ok."""

    name: str
    state: State
    detail: str
    advice: str = ""
