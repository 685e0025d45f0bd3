"""Functions as runners: coroutine functions in the worker, plain ones in a warm pool of processes."""

from .context import TaskContext, TaskStopped
from .factory import FunctionFactory

__all__ = ["FunctionFactory", "TaskContext", "TaskStopped"]
