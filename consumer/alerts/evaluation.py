"""What is the matter, and what has begun or is over since the last look. Pure; times are the server's."""

from collections.abc import Iterator, Mapping
from datetime import datetime, timedelta
from typing import Final

from msgspec import Struct, structs

from schemas.alert import Alert, AlertState

from .settings import AlertsConfig

MAX_INCIDENTS: Final = 200
"""At once: what anybody can publish must not fill the record."""
_LONGEST_TEXT: Final = 500


class Facts(Struct, frozen=True, kw_only=True):
    """What is known of one category; the counts are those of its rules' windows."""

    given_up: int = 0
    last_reason: str = ""
    ended: int = 0
    ended_badly: int = 0
    oldest: datetime | None = None
    """When the task was stored that has waited longest."""
    obstacles: Mapping[str, str] = {}
    """What workers lack, by their names."""


class Incident(Struct, frozen=True, kw_only=True):
    """Something is the matter with a category, by a rule; `told` once it has lasted long enough for an alert."""

    rule: str
    category: str
    text: str
    since: datetime
    told: bool = False

    @property
    def name(self) -> str:
        """What tells it from all others, those of the same rule and category before and after included."""
        return f"{self.rule}-{self.category}-{round(self.since.timestamp() * 1000)}"


class Record(Struct, frozen=True, kw_only=True):
    """What the workers know together: who looks, what is the matter, and which alerts are still to be sent."""

    leader: str = ""
    incidents: tuple[Incident, ...] = ()
    unsent: tuple[Alert, ...] = ()


def look(record: Record, config: AlertsConfig, facts: Mapping[str, Facts], now: datetime, prefix: str) -> Record:
    """Return the record after a look: new incidents, lasting ones and those that are over, and the alerts for them."""
    before = {(each.rule, each.category): each for each in record.incidents}
    alerts: list[Alert] = [*record.unsent]
    incidents: list[Incident] = []
    for rule, category, text in _matters(config, facts, now):
        known = before.pop((rule, category), None)
        if known is None and len(incidents) + len(before) >= MAX_INCIDENTS:
            continue
        known = known or Incident(rule=rule, category=category, text=text, since=now)
        incident = structs.replace(known, text=text[:_LONGEST_TEXT])
        if not incident.told and now - incident.since >= _patience(config, rule):
            incident = structs.replace(incident, told=True)
            alerts.append(_alert(incident, AlertState.FIRING, now, prefix))
        incidents.append(incident)
    alerts += [_alert(over, AlertState.RECOVERED, now, prefix) for over in before.values() if over.told]
    return structs.replace(record, incidents=tuple(incidents), unsent=tuple(alerts))


def _patience(config: AlertsConfig, rule: str) -> timedelta:
    return timedelta(seconds=config.breaker.lasts if rule == "breaker" else 0)


def _matters(config: AlertsConfig, facts: Mapping[str, Facts], now: datetime) -> Iterator[tuple[str, str, str]]:
    """Yield rule, category and a sentence for everything that is the matter."""
    for category, known in sorted(facts.items()):
        for rule, settings, text in (
            ("dead", config.dead, _dead(known)),
            ("breaker", config.breaker, _breaker(known)),
            ("error_rate", config.error_rate, _error_rate(config, known)),
            ("queue_age", config.queue_age, _queue_age(config, known, now)),
        ):
            if text is not None and settings.covers(category):
                yield rule, category, f"{category}: {text}"


def _dead(known: Facts) -> str | None:
    if not known.given_up:
        return None
    return f"{known.given_up} given up, the last one because: {known.last_reason}"


def _breaker(known: Facts) -> str | None:
    if not known.obstacles:
        return None
    worker, obstacle = min(known.obstacles.items())
    others = f" and {len(known.obstacles) - 1} more" if len(known.obstacles) > 1 else ""
    return f"no tasks are taken by {worker}{others}: {obstacle}"


def _error_rate(config: AlertsConfig, known: Facts) -> str | None:
    rule = config.error_rate
    if known.ended < rule.least or known.ended_badly < rule.threshold * known.ended:
        return None
    return f"{known.ended_badly} of {known.ended} tasks ended badly within {rule.window:g} s"


def _queue_age(config: AlertsConfig, known: Facts, now: datetime) -> str | None:
    if known.oldest is None or (waited := (now - known.oldest).total_seconds()) <= config.queue_age.older_than:
        return None
    return f"a task has waited for {waited:.0f} s"


def _alert(incident: Incident, state: AlertState, now: datetime, prefix: str) -> Alert:
    return Alert(
        id=f"{incident.name}-{state}",
        incident=incident.name,
        rule=incident.rule,
        category=incident.category,
        state=state,
        text=incident.text,
        since=incident.since,
        time=now,
        prefix=prefix,
    )
