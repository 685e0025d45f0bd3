"""The life of a task's container, once it is created: attach, start, follow, wait, end (rules R1 to R4).

What ends it early is a cancellation: its cause, patience and sender are in the runner's `interruption`. An engine that
does not answer holds up nothing: the task's own time-out counts on, and what cannot be ended now is reconciled later.
"""

import logging
import math
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final, Literal, TypeVar

import anyio
import anyio.lowlevel
from msgspec import structs

from runners.base import Runner
from runners.context import Interruption
from runners.errors import ContainerLostError, DockerUnavailableError, DockerUnresponsiveError, Outcome, RunnerError
from runners.output import Chunk

from .attach import Attachment
from .engine import Engine
from .verdict import (
    LONGEST_INIT_COMPLAINT,
    NOT_FOUND,
    ContainerState,
    RefusedError,
    Verdict,
    exec_failure,
    judge,
    refusal,
)

if TYPE_CHECKING:
    from .sdk import Sdk

KILL_WINDOW: Final = 10.0
"""Seconds after SIGKILL before a container is called unkillable."""
LOOK_INTERVAL: Final = 30.0
"""Seconds of silence after which an engine is asked: a connection can die without a word."""
_FIRST_WAIT: Final = 1.0
_LONGEST_WAIT: Final = 30.0

T = TypeVar("T")

logger = logging.getLogger(__name__)


class Container:
    """One container of one task."""

    def __init__(self, runner: Runner[Any], engine: Engine, container_id: str) -> None:
        self.id = container_id
        self.is_unreachable = False
        """Whether the engine did not answer when the task had to end."""
        self._runner = runner
        self._report = runner.report
        self._engine = engine
        self._stdin = runner.context.task.stdin_bytes()
        self._attachment: Attachment | None = None
        self._complaint = bytearray()
        self._state: ContainerState | None = None
        self._begun = False
        self._outage = False

    async def run(self) -> Outcome:
        """See the container to its end, whatever ends it.

        Raises:
            RunnerError: it could not be started, or was lost.
        """
        try:
            with anyio.CancelScope(shield=True):  # bounded, and what is half started is hard to end
                await self._attach(stdin=self._stdin or None)
                await self._start()
            await anyio.lowlevel.checkpoint_if_cancelled()
            self._state = await self._ended()
            self._runner.ended()
        except anyio.get_cancelled_exc_class():
            with anyio.CancelScope(shield=True):
                await self._terminate()
            raise
        finally:
            with anyio.CancelScope(shield=True):
                await self._conclude()
        return self._verdict(self._state).outcome

    async def _attach(self, stdin: bytes | None = None) -> None:
        """Take the container's streams over, before there is anything in them."""
        attached = await self._call(lambda sdk: sdk.attach(self.id, stdin=stdin is not None), stage="attach")
        self._attachment = Attachment(attached, self._runner.capture("stdout").write, self._take_stderr, stdin)

    def _take_stderr(self, chunk: Chunk) -> None:
        if len(self._complaint) < LONGEST_INIT_COMPLAINT:
            self._complaint += chunk[:LONGEST_INIT_COMPLAINT]
        self._runner.capture("stderr").write(chunk)

    async def _start(self) -> None:
        try:
            await self._engine.call(lambda sdk: sdk.start(self.id))
        except RefusedError as error:
            raise await self._start_failure(error) from None
        self._begun = True
        self._runner.started(container=self.id, image=self._report.docker.image if self._report.docker else None)

    async def _start_failure(self, error: RefusedError) -> RunnerError:
        """Say why a container did not start: by what the engine has noted of it, or by its answer."""
        with suppress(RunnerError, RefusedError):
            state = await self._engine.call(lambda sdk: sdk.inspect(self.id))
            if (failure := exec_failure(state.error)) is not None:
                return failure
        return refusal("start", error)

    async def _call(self, function: "Callable[[Sdk], T]", *, stage: Literal["create", "attach", "start"]) -> T:
        try:
            return await self._engine.call(function)
        except RefusedError as error:
            raise refusal(stage, error) from None

    # Following it

    async def _ended(self) -> ContainerState:
        """Wait for the container's end, through whatever becomes of the connection.

        Raises:
            ContainerLostError: it is gone, or was ended with its engine.
        """
        patience = _FIRST_WAIT
        while True:
            silent = await self._silence()
            state = await self._look(0 if silent else patience)
            if state is None and not silent:
                await self._reattach()
                state = await self._look(0)  # of one that has ended meanwhile, the streams would be silent for ever
                patience = min(2 * patience, _LONGEST_WAIT)
            if state is not None:
                return state

    async def _silence(self) -> bool:
        """Wait for the end of the streams; return True if nothing but silence came."""
        if self._attachment is None:
            return False
        with anyio.move_on_after(LOOK_INTERVAL):
            await self._attachment.closed.wait()
            return False
        return True

    async def _look(self, patience: float) -> ContainerState | None:
        """Return the state of a container that has ended, or will within so many seconds; None if it runs."""
        try:
            if patience:
                await self._wait(patience)
            state = await self._engine.call(lambda sdk: sdk.inspect(self.id))
        except RefusedError as error:
            if error.status == NOT_FOUND:
                raise ContainerLostError(f"the container is gone: {error.text}") from None
            logger.warning("the engine does not tell of container %s: %s", self.id, error)
            await anyio.sleep(_FIRST_WAIT)
            return None
        except (DockerUnavailableError, DockerUnresponsiveError):
            self._outage = True
            await self._engine.wait_ready()
            return None
        if state.running:
            self._outage = False
            return None
        if self._outage and state.exit_code:
            raise ContainerLostError(f"the engine went away, and the container ended with {state.exit_code}")
        return state

    async def _wait(self, seconds: float) -> bool:
        patience = seconds + self._engine.patience
        return await self._engine.call(lambda sdk: sdk.wait(self.id, seconds), patience=patience, lasting=True)

    async def _reattach(self) -> None:
        """Take the streams over again; what was said meanwhile is lost."""
        with suppress(RunnerError):  # the next look tells what is the matter
            await self._attach()
            if self._report.output_complete:
                self._report.output_complete = False
                self._report.warnings.append("the connection to the Docker engine broke: some output is missing")

    # Ending it

    async def _terminate(self) -> None:
        """The image's stop signal, the grace, SIGKILL; a kill skips or ends the grace (R4)."""
        if not self._begun:
            return
        interruption = self._runner.interruption
        try:
            patient = interruption.grace > 0 and not interruption.impatient.is_set()
            if patient and await self._stop(interruption):
                return
            await self._kill(interruption)
        except (DockerUnavailableError, DockerUnresponsiveError):
            self.is_unreachable = True
        except RefusedError as error:  # it is gone, or on its way; the state that is found in the end counts
            logger.debug("the engine refused to end container %s: %s", self.id, error)

    async def _stop(self, interruption: Interruption) -> bool:
        """Let the engine stop it, and kill it in our stead should we die; tell whether it ended within the grace."""
        state = await self._engine.call(lambda sdk: sdk.inspect(self.id), patience=self._engine.patience)
        if not state.running:
            return True
        self._announce(interruption, state.stop_signal)
        seconds = math.ceil(interruption.grace) + 1
        patience = seconds + KILL_WINDOW
        return await interruption.allow(
            lambda: self._engine.call(lambda sdk: sdk.stop(self.id, seconds), patience=patience, lasting=True)
        )

    async def _kill(self, interruption: Interruption) -> None:
        if not await self._engine.call(lambda sdk: sdk.kill(self.id), patience=self._engine.patience):
            return
        self._announce(interruption, "SIGKILL")
        if not await self._wait(KILL_WINDOW):
            self._report.unkillable = True

    def _announce(self, interruption: Interruption, signal: str) -> None:
        self._report.signals_sent.append(signal)
        self._runner.context.reporter.stopping({"by": interruption.by, "reason": interruption.why, "signal": signal})

    async def _conclude(self) -> None:
        """Take what is left of the output, and note how the container ended."""
        attachment = self._attachment
        if attachment is None:
            return
        if self._begun and self._report.output_complete and not self.is_unreachable:
            with anyio.move_on_after(self._runner.context.drain_window):
                await attachment.closed.wait()
        if not attachment.closed.is_set():
            self._report.output_complete &= not self._begun
            attachment.close()
        if self._begun and self._state is None and not self.is_unreachable:
            with suppress(RunnerError, RefusedError):
                self._state = await self._engine.call(lambda sdk: sdk.inspect(self.id), patience=self._engine.patience)
        if self._state is not None:
            self._note(self._state)

    def _note(self, state: ContainerState) -> None:
        report = self._report
        if report.docker is not None:
            report.docker = structs.replace(report.docker, image_id=state.image_id)
        if state.running:
            return
        verdict = self._verdict(state)
        report.exit_code, report.signal, report.cause = state.exit_code, verdict.signal, verdict.cause
        if verdict.warning is not None:
            report.warnings.append(verdict.warning)

    def _verdict(self, state: ContainerState) -> Verdict:
        memory = self._report.limits.get("memory")
        return judge(
            state,
            killed="SIGKILL" in self._report.signals_sent,
            memory=None if memory is None else memory.requested,
            complaint=bytes(self._complaint),
        )
