"""What all deliveries of a worker share, and how it is put together."""

from anyio.abc import TaskGroup
from msgspec import Struct

from runners.context import Watcher
from runners.process import KeeperLink
from runners.registry import Registry
from schemas import Subjects

from .cache import Cache
from .claims import Claims
from .conclusion import Conclusions
from .config import Config
from .connection import Connection
from .dead import DeadLetters
from .deadman import DeadMansSwitch
from .events import Events
from .lease import Leases
from .objects import Objects
from .outbox import Outbox
from .output import OutputPublisher
from .requeue import Requeue
from .results import Results
from .telemetry import SILENT, Telemetry
from .whole import WholeOutputs


class Services(Struct, frozen=True, kw_only=True):
    """One worker's services; `tasks` owns what they begin in the background."""

    config: Config
    registry: Registry
    subjects: Subjects
    worker: str
    tasks: TaskGroup
    connection: Connection
    leases: Leases
    claims: Claims
    results: Results
    conclusions: Conclusions
    requeue: Requeue
    cache: Cache
    events: Events
    output: OutputPublisher
    keeper: Watcher | None = None
    switch: DeadMansSwitch | None = None
    telemetry: Telemetry = SILENT


def assemble(  # noqa: PLR0917 - it is where all that is passed on comes together
    config: Config,
    registry: Registry,
    connection: Connection,
    tasks: TaskGroup,
    outbox: Outbox,
    worker: str,
    keeper: KeeperLink | None,
    telemetry: Telemetry = SILENT,
) -> Services:
    """Return the services of a worker."""
    subjects, ack_wait = Subjects(config.subject_prefix), config.nats.ack_wait
    events, results = Events(connection, subjects, worker, telemetry), Results(connection, subjects, telemetry)
    claims = Claims(connection, subjects, worker)
    return Services(
        config=config,
        registry=registry,
        subjects=subjects,
        worker=worker,
        tasks=tasks,
        connection=connection,
        leases=Leases(connection, ack_wait=ack_wait, telemetry=telemetry),
        claims=claims,
        results=results,
        conclusions=Conclusions(
            connection,
            results=results,
            dead=DeadLetters(connection, subjects, telemetry),
            whole=WholeOutputs(Objects(connection, subjects), results),
            events=events,
            outbox=outbox,
        ),
        requeue=Requeue(connection, subjects),
        cache=Cache(connection, subjects, results, claims),
        events=events,
        output=OutputPublisher(connection, subjects, tasks, worker),
        keeper=keeper,
        switch=DeadMansSwitch(ack_wait, keeper),
        telemetry=telemetry,
    )
