"""When an alert is due, and when it is over."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from consumer.alerts.evaluation import MAX_INCIDENTS, Facts, Record, look
from consumer.alerts.settings import AlertsConfig
from consumer.alerts.window import MAX_CATEGORIES, Window
from schemas import convert
from schemas.alert import Alert, AlertState

NOW = datetime(2026, 11, 24, tzinfo=UTC)
CALM = Facts()
DEAD = Facts(given_up=2, last_reason="the task is invalid")


def config(**rules: dict[str, Any]) -> AlertsConfig:
    return convert({name: {"enabled": True, **rule} for name, rule in rules.items()}, AlertsConfig)


def looked(record: Record, settings: AlertsConfig, known: Facts, *, after: float = 0) -> Record:
    return look(record, settings, {"command": known}, NOW + timedelta(seconds=after), "p")


def sent(record: Record) -> Record:
    return Record(leader=record.leader, incidents=record.incidents)


def texts(record: Record) -> list[str]:
    return [alert.text for alert in record.unsent]


@pytest.mark.parametrize(
    ("rule", "settings", "known", "text"),
    [
        ("dead", {}, DEAD, "command: 2 given up, the last one because: the task is invalid"),
        (
            "breaker",
            {"lasts": 0},
            Facts(obstacles={"b": "y", "a": "x"}),
            "command: no tasks are taken by a and 1 more: x",
        ),
        ("error_rate", {}, Facts(ended=10, ended_badly=5), "command: 5 of 10 tasks ended badly within 300 s"),
        ("queue_age", {}, Facts(oldest=NOW - timedelta(seconds=301)), "command: a task has waited for 301 s"),
    ],
)
def test_each_rule_fires_once_and_recovers_once(rule: str, settings: dict[str, Any], known: Facts, text: str) -> None:
    """However often it is looked at in between; both alerts are about the same incident."""
    rules = config(**{rule: settings})
    begun = looked(Record(), rules, known)
    lasting = looked(sent(begun), rules, known, after=10)
    over = looked(sent(lasting), rules, CALM, after=20)
    calm = looked(sent(over), rules, CALM, after=30)
    assert texts(begun) == [text]
    assert not lasting.unsent
    assert not calm.unsent
    (firing,), (recovered,) = begun.unsent, over.unsent
    assert (firing.state, recovered.state) == (AlertState.FIRING, AlertState.RECOVERED)
    assert (firing.rule, firing.category, firing.since, firing.time) == (rule, "command", NOW, NOW)
    assert (recovered.incident, recovered.since) == (firing.incident, NOW)
    assert recovered.id != firing.id


@pytest.mark.parametrize(
    ("rule", "settings", "known"),
    [
        ("dead", {"categories": ["http"]}, DEAD),
        ("dead", {"enabled": False}, DEAD),
        ("error_rate", {}, Facts(ended=9, ended_badly=9)),
        ("error_rate", {"threshold": 0.6}, Facts(ended=10, ended_badly=5)),
        ("queue_age", {}, Facts(oldest=NOW - timedelta(seconds=300))),
    ],
)
def test_what_is_below_a_rule_is_no_incident(rule: str, settings: dict[str, Any], known: Facts) -> None:
    """Too few, too young, of another category, or not asked for."""
    assert not looked(Record(), config(**{rule: settings}), known).incidents


def test_an_obstacle_that_does_not_last_is_nobody_s_business() -> None:
    """It has to be there for some time; a new one begins from zero."""
    rules, known = config(breaker={"lasts": 30}), Facts(obstacles={"a": "x"})
    young = looked(Record(), rules, known)
    gone = looked(young, rules, CALM, after=10)
    again = looked(gone, rules, known, after=20)
    assert not (young.unsent)
    assert not (gone.unsent)
    assert not (again.unsent)
    assert not (looked(again, rules, known, after=49).unsent)
    assert len(looked(again, rules, known, after=50).unsent) == 1


def test_alerts_that_were_not_sent_are_kept() -> None:
    """Whoever looks next sends them first."""
    rules = config(dead={})
    begun = looked(Record(), rules, DEAD)
    over = looked(begun, rules, CALM, after=10)
    states = [alert.state for alert in over.unsent]
    assert states == [AlertState.FIRING, AlertState.RECOVERED]


def test_a_second_incident_has_another_name() -> None:
    """It may be told from the first one by whoever gets both."""
    rules = config(dead={})
    first = looked(Record(), rules, DEAD)
    second = looked(sent(looked(sent(first), rules, CALM, after=1)), rules, DEAD, after=2)
    assert first.unsent[0].incident != second.unsent[0].incident


def test_incidents_are_bounded_and_those_that_are_known_stay() -> None:
    """Anybody may invent categories."""
    rules = config(dead={})
    many = {f"c{number:04}": DEAD for number in range(MAX_INCIDENTS + 5)}
    full = look(Record(), rules, many, NOW, "p")
    assert len(full.incidents) == MAX_INCIDENTS
    more = look(sent(full), rules, {"a": DEAD, **many}, NOW, "p")
    assert more.incidents == full.incidents
    assert not more.unsent


def test_an_alert_says_nothing_at_length() -> None:
    """What others wrote is cut."""
    (alert,) = looked(Record(), config(dead={}), Facts(given_up=1, last_reason="x" * 10_000)).unsent
    assert isinstance(alert, Alert)
    assert len(alert.text) <= 500


def test_a_window_forgets() -> None:
    """What is older than its length counts no more."""
    window = Window(60)
    for at in (0.0, 30.0, 59.0):
        window.add("a", at)
    window.add("b", 59.0)
    assert window.counts(59.0) == {"a": 3, "b": 1}
    assert window.counts(80.0) == {"a": 2, "b": 1}
    assert not window.counts(200.0)


def test_a_window_is_bounded() -> None:
    """However much happens, and to however many categories."""
    window = Window(60)
    for number in range(5 * MAX_CATEGORIES):
        window.add(f"c{number}", 1.0)
    for at in range(10_000):
        window.add("a", float(at))
    assert len(window.counts(10_000.0)) <= MAX_CATEGORIES
    assert len(window._slices) <= 62
