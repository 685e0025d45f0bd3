"""What all deliveries of a worker share."""

from anyio.abc import TaskGroup
from msgspec import Struct

from runners.context import Watcher
from runners.registry import Registry
from schemas import Subjects

from .cache import Cache
from .claims import Claims
from .conclusion import Conclusions
from .config import Config
from .connection import Connection
from .deadman import DeadMansSwitch
from .events import Events
from .lease import Leases
from .output import OutputPublisher
from .requeue import Requeue
from .results import Results


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
