"""The rules: when something is worth an alert. Each is off until it is enabled."""

from typing import Annotated

from msgspec import Meta, Struct, field

from schemas import Duration
from schemas.task import Category

_Webhook = Annotated[str, Meta(pattern=r"^https?://[^\s/]+(/\S*)?$(?!\n)", description="an http or https URL")]


class Rule(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What all rules have."""

    enabled: bool = False
    categories: tuple[Category, ...] | None = None
    """None: all of them."""

    def covers(self, category: str) -> bool:
        """Tell whether the rule is about a category."""
        return self.enabled and (self.categories is None or category in self.categories)


class DeadRule(Rule, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A task was given up; over when there was no other for `window`."""

    window: Duration = field(default_factory=lambda: Duration(300))


class BreakerRule(Rule, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A worker takes no tasks of a category, since what they need is missing, for at least `lasts`."""

    lasts: Duration = field(default_factory=lambda: Duration(30))


class ErrorRateRule(Rule, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Of the tasks that ended within `window`, at least `least`, a share of `threshold` or more ended badly."""

    window: Duration = field(default_factory=lambda: Duration(300))
    threshold: Annotated[float, Meta(gt=0, le=1)] = 0.5
    least: Annotated[int, Meta(ge=1)] = 10


class QueueAgeRule(Rule, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A task has waited for a worker for longer than `older_than`."""

    older_than: Duration = field(default_factory=lambda: Duration(300))


class AlertsConfig(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is worth an alert, and who is told besides `P.alerts.<rule>`."""

    webhooks: tuple[_Webhook, ...] = ()
    """They get each alert as a POST of JSON."""
    interval: Duration = field(default_factory=lambda: Duration(10))
    """Between two looks; another worker takes over after three that did not come."""
    dead: DeadRule = field(default_factory=DeadRule)
    breaker: BreakerRule = field(default_factory=BreakerRule)
    error_rate: ErrorRateRule = field(default_factory=ErrorRateRule)
    queue_age: QueueAgeRule = field(default_factory=QueueAgeRule)

    @property
    def enabled(self) -> bool:
        """Whether there is anything to look for."""
        return any(rule.enabled for rule in (self.dead, self.breaker, self.error_rate, self.queue_age))
