"""Configuration: one typed Struct per section, defaults written once (contract section 7)."""

from typing import Annotated, Literal

from msgspec import Meta, Struct, field

from schemas import Duration, Limits
from schemas.subjects import DEFAULT_REPLY_PREFIXES
from schemas.task import Category


class NatsConfig(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where the server is, and how streams and consumers are made there."""

    url: str | None = None
    """Server URLs, separated by commas; None: a context, `NATS_URL`, or the embedded server."""
    context: str | None = None
    replicas: Annotated[int, Meta(ge=1, le=5)] = 1
    ack_wait: Duration = field(default_factory=lambda: Duration(30))


class WorkerConfig(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a worker takes on, and how it ends."""

    categories: tuple[Category, ...] | None = None
    """None: every registered category."""
    max_concurrency: Annotated[int, Meta(ge=1, le=10_000)] | None = None
    """Tasks of all categories at once; None: no bound but the categories' own."""
    grace: Duration = field(default_factory=lambda: Duration(10))
    drain_timeout: Duration = field(default_factory=lambda: Duration(30))
    drain_window: Duration = field(default_factory=lambda: Duration(2))
    keeper: bool = True


class RunnerConfig(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How much of a category runs at once, for how long, and what it may do."""

    max_concurrency: Annotated[int, Meta(ge=1, le=10_000)] = 8
    default_timeout: Duration = field(default_factory=lambda: Duration(3600))
    max_timeout: Duration = field(default_factory=lambda: Duration(86400))
    resource_limits: Limits = Limits()
    allow: tuple[str, ...] = ()
    script_roots: tuple[str, ...] = ()
    volume_roots: tuple[str, ...] = ()
    allow_hosts: tuple[str, ...] = ()
    allow_cidrs: tuple[str, ...] = ()


class Config(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The whole configuration."""

    subject_prefix: Annotated[str, Meta(pattern=r"^[A-Za-z0-9_-]+$(?!\n)")] = "jetrunner"
    profile: Literal["open", "standard", "strict"] = "standard"
    plugins: tuple[str, ...] = ()
    reply_prefixes: tuple[str, ...] = DEFAULT_REPLY_PREFIXES
    manage_streams: bool = True
    unknown_category_after: Duration = field(default_factory=lambda: Duration(10))
    nats: NatsConfig = field(default_factory=NatsConfig)
    worker: WorkerConfig = field(default_factory=WorkerConfig)
    runners: dict[Category, RunnerConfig] = {}

    def runner(self, category: str) -> RunnerConfig:
        """Return the settings of a category."""
        return self.runners.get(category) or _DEFAULT_RUNNER


_DEFAULT_RUNNER = RunnerConfig()
