"""Events and Controls on the wire."""

import json
from datetime import UTC, datetime
from typing import Any, Final

import pytest

from schemas import ContentType, Control, Duration, Event, EventType, SchemaError, Verb, decode, encode

EVENT: Final = Event(
    id="e1",
    type=EventType.STARTED,
    task_id="t1",
    category="command",
    time=datetime(2026, 11, 23, 10, 0, 0, 5, tzinfo=UTC),
    worker="w1",
    data={"pid": 7},
)


def test_an_event_is_written_with_the_contract_s_fields() -> None:
    """An event has exactly the fields of section 4, and the trace it belongs to."""
    assert json.loads(encode(EVENT)) == {
        "id": "e1",
        "type": "started",
        "task_id": "t1",
        "category": "command",
        "time": "2026-11-23T10:00:00.000005Z",
        "worker": "w1",
        "attempt": 1,
        "data": {"pid": 7},
        "trace_id": None,
    }


@pytest.mark.parametrize("form", list(ContentType))
def test_an_event_is_read_back(form: ContentType) -> None:
    """Both forms keep an event."""
    assert decode(Event, encode(EVENT, form), form) == EVENT


def test_the_types_of_events_are_the_contract_s() -> None:
    """A task's life has these steps."""
    steps = ["received", "started", "progress", "stopping", "retrying", "finished", "dead"]
    assert [type_.value for type_ in EventType] == steps


def test_the_verbs_are_stop_and_kill() -> None:
    """A control asks for one of two things."""
    assert [verb.value for verb in Verb] == ["stop", "kill"]


@pytest.mark.parametrize(
    ("payload", "control"),
    [
        ({}, Control()),
        ({"reason": "too slow", "by": "ops"}, Control(reason="too slow", by="ops")),
        ({"grace": 2}, Control(grace=Duration(2))),
        ({"grace": "1m30s"}, Control(grace=Duration(90))),
        ({"reason": None, "by": None, "grace": None}, Control()),
    ],
)
def test_every_field_of_a_control_is_optional(payload: dict[str, Any], control: Control) -> None:
    """A control may say why, who and with which grace, or nothing."""
    assert decode(Control, json.dumps(payload).encode()) == control


@pytest.mark.parametrize("form", list(ContentType))
def test_a_control_is_read_back(form: ContentType) -> None:
    """Both forms keep a control."""
    control = Control(reason="r", by="b", grace=Duration(0.5))
    assert decode(Control, encode(control, form), form) == control


def test_an_empty_control_is_written_as_an_empty_object() -> None:
    """What was not said is left out."""
    assert encode(Control()) == b"{}"


@pytest.mark.parametrize(
    ("payload", "error"),
    [
        ({"why": "x"}, "unknown field `why`"),
        ({"delay": 1}, "unknown field `delay`"),
        ({"memory": 1}, "unknown field `memory`"),
        ({"image": "x"}, "unknown field `image`"),
        ({"grace": -1}, "`grace`: expected a duration between 0 and ten years, got -1"),
        ({"reason": 1}, "`reason`: expected `str | null`, got `int`"),
    ],
)
def test_what_is_no_control_is_refused_without_a_task_s_hints(payload: dict[str, Any], error: str) -> None:
    """A wrong field is named; where it would belong in a task is not said, for this is none."""
    with pytest.raises(SchemaError) as caught:
        decode(Control, json.dumps(payload).encode())
    assert str(caught.value) == error
