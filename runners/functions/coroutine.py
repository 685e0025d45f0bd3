"""CoroutineRunner: a coroutine function as a runner, in the worker itself."""

from collections.abc import Awaitable, Callable
from typing import Any, ClassVar

from runners.base import Runner
from runners.errors import Outcome, RunnerError
from runners.process.limits import unenforced

from .context import TaskContext, facts_of
from .outcome import as_json, exception_outcome, exception_text, traceback_text
from .signature import Signature


class CoroutineRunner(Runner[Any]):
    """Awaits a coroutine function; a stop, kill or time-out cancels it."""

    function: ClassVar[Callable[..., Awaitable[Any]]]
    signature: ClassVar[Signature]

    async def run(self, params: Any) -> Outcome | None:
        self.report.limits = unenforced(self.context, "a function within the worker")
        arguments = self.signature.arguments(params, self._task_context)
        try:
            output = as_json(await type(self).function(**arguments))
        except RunnerError:
            raise
        except Exception as error:  # noqa: BLE001 - the function's own: it is the outcome
            self.write(traceback_text(error), "stderr")
            return exception_outcome(exception_text(error))
        if output:
            self.write(output)
        return None

    def _task_context(self) -> TaskContext:
        return TaskContext(facts_of(self.context), _InWorker(self))


class _InWorker:
    """The channel of a function that runs beside its Runner."""

    def __init__(self, runner: Runner[Any]) -> None:
        self._runner = runner

    @property
    def stopping(self) -> bool:
        return self._runner.is_interrupted

    def progress(self, data: dict[str, Any]) -> None:
        self._runner.context.reporter.progress(data)

    def output(self, data: bytes) -> None:
        self._runner.write(data)

    def log(self, data: bytes) -> None:
        self._runner.write(data, "stderr")
