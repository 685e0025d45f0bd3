"""DockerRunner: a container of an image, made for one task and removed with it."""

import functools
import secrets
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

import anyio
from msgspec import structs

from runners.base import Runner
from runners.context import Interruption
from runners.errors import DockerUnresponsiveError, ImageNotFoundError, Outcome, RunnerError
from runners.redaction import named_like_secrets
from schemas import Cause, DockerContainer, ErrorClass

from .container import Container
from .engine import Engine, remove
from .params import DockerParams
from .policy import check
from .pull import pull
from .spec import LOCK_LABEL, apply_limits, body, labels
from .verdict import CONFLICT, RefusedError, refusal


class _NameTakenError(RefusedError):
    """Another container has the name."""


class DockerRunner(Runner[DockerParams]):
    """Runs a command in a container; exit code 0 is success.

    Create, attach, start, wait, inspect, remove: never removed by the engine itself, which would take the exit code
    along, and never waited for before it is started, which would return at once.
    """

    params_type = DockerParams
    command_field = "command"
    takes = frozenset({"env", "secret_env", "cwd", "stdin"})
    reports_start = True

    def __init__(self, engine: Engine) -> None:
        super().__init__()
        self._engine = engine
        self._name: str | None = None
        self._container: Container | None = None

    async def run(self, params: DockerParams) -> Outcome:
        self.on_output_limit = params.on_output_limit
        self.keep_secret(named_like_secrets(params.env).values())
        await self._engine.probe()
        facts = await self._engine.facts()
        self.report.limits = apply_limits(self.context, facts)
        protected = [path for path in (facts.root, self._engine.socket) if path]
        volumes = await self._engine.on_thread(lambda: check(params, self.context.policy, protected))
        self._engine.keep(self.context.keeper)
        if params.pull == "always":
            await self._pull(params)
        request = body(params, self.context, volumes, self.report.limits)
        self._container = Container(self, self._engine, await self._make(params, request))
        self.report.docker = DockerContainer(container_id=self._container.id, image=params.image)
        return await self._container.run()

    async def cleanup(self) -> None:
        """Remove the container, or leave it to the reconciliation."""
        if self._name is None:
            return
        try:
            if self._container is not None and self._container.is_unreachable:
                self._owe()
                return
            target = self._name if self._container is None else self._container.id
            await self._engine.call(lambda sdk: sdk.remove(target))
        except (RunnerError, RefusedError):
            self._owe()
        except anyio.get_cancelled_exc_class():
            self._engine.owe()
            raise
        finally:
            self._engine.live.discard(self._name)

    def _interrupted(self, interruption: Interruption) -> Outcome:
        """Tell of a time-out that the engine did not let us keep; whoever stops a task wants it stopped, no more."""
        outcome = super()._interrupted(interruption)
        if interruption.cause is not Cause.TIMEOUT or self._container is None or not self._container.is_unreachable:
            return outcome
        return structs.replace(
            outcome,
            error_class=ErrorClass.SYSTEM,
            code=DockerUnresponsiveError.code,
            message=f"{outcome.message}, and the Docker engine did not answer to end it",
        )

    async def _make(self, params: DockerParams, request: Mapping[str, Any]) -> str:
        """Create the container, and pull its image if that is all that is missing; return its id."""
        try:
            return await self._create(request)
        except ImageNotFoundError:
            if params.pull != "if_missing":
                raise
        await self._pull(params)
        return await self._create(request)

    async def _create(self, request: Mapping[str, Any]) -> str:
        """Create the container under its task's name.

        Raises:
            RunnerError: the engine refused it, or cannot be reached.
        """
        name = f"jetrunner-{self.context.task.id}-{self.context.attempt}"
        try:
            if name == self._name or name not in self._engine.live:
                with suppress(_NameTakenError):
                    return await self._create_as(name, request)
                self._engine.live.discard(name)
                if await self._clear_away(name):
                    return await self._create_as(name, request)
            return await self._create_as(f"{name}-{secrets.token_hex(3)}", request)
        except RefusedError as error:
            raise refusal("create", error) from None

    async def _create_as(self, name: str, request: Mapping[str, Any]) -> str:
        self._engine.live.discard(self._name or "")
        self._engine.live.add(name)
        self._name = name
        given = {**request, "Labels": labels(self.context, self._engine.lock, self.timeout)}
        try:
            with anyio.CancelScope(shield=True):  # bounded, and what was created unseen could not be removed
                container = await self._engine.call(lambda sdk: sdk.create(given, name))
        except RefusedError as error:
            if error.status == CONFLICT:
                raise _NameTakenError(error.status, error.text) from None
            raise
        return container

    async def _clear_away(self, name: str) -> bool:
        """Remove a container of our name, if it is some worker's and nobody can want it any more."""
        for holder in await self._engine.call(lambda sdk: sdk.list(LOCK_LABEL, name=name)):
            if holder.id in await self._engine.wanted([holder]):
                return False
            await self._engine.call(functools.partial(remove, holder.id))
            return True
        return False

    async def _pull(self, params: DockerParams) -> None:
        await pull(self._engine, params.image, params.pull_timeout, self.progress)

    def _owe(self) -> None:
        self._engine.owe()
        self.report.cleanup = "pending"
