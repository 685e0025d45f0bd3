"""How a task is run: the Runner life cycle, the registry, the built-in runners, and what a plug-in needs."""

from .base import Runner
from .declaration import runner
from .functions import TaskContext, TaskStopped

__all__ = ["Runner", "TaskContext", "TaskStopped", "runner"]
