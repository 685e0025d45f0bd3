"""How a process is started, watched, drained and ended."""

from .abandoned import end_abandoned, worker_name
from .environment import environment
from .harden import harden
from .link import KeeperLink
from .orphans import ORPHANS
from .spec import ProcessSpec
from .supervise import supervise

__all__ = [
    "ORPHANS",
    "KeeperLink",
    "ProcessSpec",
    "end_abandoned",
    "environment",
    "harden",
    "supervise",
    "worker_name",
]
