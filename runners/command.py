"""CommandRunner: an executable with arguments, never through a shell."""

from collections.abc import Sequence
from typing import Literal

import anyio.to_thread
import msgspec

from .arguments import check_argv
from .base import Runner
from .errors import Outcome
from .policy import check_executable, check_variables
from .process import ProcessSpec, environment, supervise


class CommandParams(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`command` is an executable's path, or its name on the task's PATH; `args` follow it as they stand."""

    command: str = ""
    args: Sequence[str] = ()
    stop_scope: Literal["group", "leader"] = "group"
    on_output_limit: Literal["drop", "kill"] = "drop"

    def __post_init__(self) -> None:
        check_argv(self.command, self.args)


class CommandRunner(Runner[CommandParams]):
    """Runs an executable in a session of its own; exit code 0 is success."""

    params_type = CommandParams
    command_field = "command"
    takes = frozenset({"env", "secret_env", "cwd", "stdin"})
    reports_start = True

    async def run(self, params: CommandParams) -> Outcome:
        self.on_output_limit = params.on_output_limit
        policy, env = self.context.policy, environment(self.context)
        check_variables({**self.context.task.env, **self.context.task.secret_env}, policy)
        if policy.allow or policy.profile == "strict":
            await anyio.to_thread.run_sync(check_executable, params.command, env, policy)
        spec = ProcessSpec(
            argv=(params.command, *params.args),
            env=env,
            cwd=self.context.task.cwd,
            stdin=self.context.task.stdin_bytes(),
            stop_scope=params.stop_scope,
        )
        return await supervise(self, spec)
