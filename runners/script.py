"""ScriptRunner: a script in a file, or in the task itself, handed to its interpreter; never through a shell.

An inline script becomes a file in a directory of its own. The directory is locked (flock(2)) as long as its worker
lives: one without a lock was left by a dead worker, and is removed by the next. systemd-tmpfiles respects it, too.
"""

import errno
import functools
import hashlib
import os
import stat
import tempfile
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final, Literal

import anyio.lowlevel
import anyio.to_thread
import msgspec

from schemas import ScriptSource

from .arguments import check_argv
from .base import Runner
from .errors import (
    CommandNotFoundError,
    InterpreterNotFoundError,
    NotReadableError,
    Outcome,
    PolicyDeniedError,
    RunnerError,
    ScriptNotFoundError,
    SpawnFailedError,
)
from .policy import check_variables
from .private import PrivateDirectory, abandoned
from .process import ProcessSpec, environment, supervise

MAX_INLINE: Final = 1024 * 1024
"""Bytes of an inline script."""
INTERPRETERS: Final = {
    ".sh": "/bin/sh",
    ".bash": "bash",
    ".py": "python3",
    ".pl": "perl",
    ".rb": "ruby",
    ".js": "node",
}
"""What runs a file of each extension, unless the task says otherwise."""
DEFAULT_INTERPRETER: Final = INTERPRETERS[".sh"]

_EXTENSIONS: Final = {"sh": ".sh", "bash": ".bash", "python": ".py", "perl": ".pl", "ruby": ".rb", "node": ".js"}
_PREFIX: Final = "jetrunner-script-"
_WRITABLE_BY_OTHERS: Final = stat.S_IWGRP | stat.S_IWOTH


class ScriptParams(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A script as a file's path or as its text, its interpreter, and the arguments that follow it as they stand.

    `interpreter` is an executable, or a list of one and its own arguments; by default the extension decides, else it
    is `/bin/sh`.
    """

    script_path: str = ""
    script: str = ""
    interpreter: str | list[str] = ""
    args: Sequence[str] = ()
    stop_scope: Literal["group", "leader"] = "group"
    on_output_limit: Literal["drop", "kill"] = "drop"

    def __post_init__(self) -> None:
        if bool(self.script_path) == bool(self.script):
            raise ValueError(f"{'only ' if self.script else ''}one of `script_path` and `script` must be given")
        if "\0" in self.script_path:
            raise ValueError("`script_path` contains a NUL byte")
        _size("script_path", self.script_path)
        if (size := _size("script", self.script)) > MAX_INLINE:
            raise ValueError(f"`script` has {size} bytes, but at most {MAX_INLINE}: keep it in a file")
        _check_interpreter(self.interpreter)
        check_argv("the interpreter", self.args)

    @property
    def command(self) -> Sequence[str]:
        """The interpreter and its own arguments."""
        if not self.interpreter:
            return [INTERPRETERS.get(Path(self.script_path).suffix, DEFAULT_INTERPRETER)]
        return [self.interpreter] if isinstance(self.interpreter, str) else self.interpreter


class ScriptRunner(Runner[ScriptParams]):
    """Runs a script's interpreter as CommandRunner runs a command; the Result says what it was given to run."""

    params_type = ScriptParams
    command_field = "script_path"
    takes = frozenset({"env", "secret_env", "cwd", "stdin"})
    reports_start = True

    def __init__(self) -> None:
        super().__init__()
        self._directory: PrivateDirectory | None = None

    async def run(self, params: ScriptParams) -> Outcome:
        self.on_output_limit = params.on_output_limit
        check_variables({**self.context.task.env, **self.context.task.secret_env}, self.context.policy)
        path = await (self._write_inline(params) if params.script else self._find(params.script_path))
        await anyio.lowlevel.checkpoint_if_cancelled()
        spec = ProcessSpec(
            argv=(*params.command, path, *params.args),
            env=environment(self.context),
            cwd=self.context.task.cwd,
            stdin=self.context.task.stdin_bytes(),
            stop_scope=params.stop_scope,
        )
        try:
            return await supervise(self, spec)
        except CommandNotFoundError as error:
            raise _without_interpreter(params, error) from None

    async def cleanup(self) -> None:
        if self._directory is not None:
            await anyio.to_thread.run_sync(self._directory.remove, abandon_on_cancel=True)

    async def _write_inline(self, params: ScriptParams) -> str:
        """Put the script into a file, byte for byte."""
        if self.context.policy.profile == "strict":
            raise PolicyDeniedError("the profile `strict` allows no inline scripts")
        content = params.script.encode()
        self.report.script = ScriptSource(sha256=hashlib.sha256(content).hexdigest())
        try:
            await anyio.to_thread.run_sync(_sweep_once)
            self._directory = await anyio.to_thread.run_sync(_make_directory)
            name = f"script{_extension(params.command[0])}"
            return await anyio.to_thread.run_sync(self._directory.write, name, content)
        except OSError as error:
            raise SpawnFailedError(f"the script could not be written to a file: {error.strerror}") from None

    async def _find(self, script_path: str) -> str:
        """Resolve and read the file, as far as the policy allows."""
        read = functools.partial(_read, Path(self.context.task.cwd or ".", script_path), self._allow)
        path, digest = await anyio.to_thread.run_sync(read, abandon_on_cancel=True)
        self.report.script = ScriptSource(path=os.fsencode(path).decode(errors="replace"), sha256=digest)
        return path

    def _allow(self, path: Path) -> None:
        """Refuse a resolved path that the policy does not allow."""
        policy, rule = self.context.policy, f"runners.{self.context.task.category or 'script'}.script_roots"
        if policy.profile == "strict" and not policy.script_roots:
            raise PolicyDeniedError(f"the profile `strict` allows only scripts below {rule}, and there are none")
        roots = [Path(os.path.realpath(root)) for root in policy.script_roots]
        root = next((root for root in roots if path.is_relative_to(root)), None)
        if roots and root is None:
            raise PolicyDeniedError(f"the script {str(path)!r} is not below {rule}")
        if policy.profile == "strict" and (part := _first_writable(path, root)):
            raise PolicyDeniedError(
                f"the profile `strict` allows no script that a task could change: {part!r} is writable"
            )


def _make_directory() -> PrivateDirectory:
    return PrivateDirectory.make(Path(tempfile.gettempdir()), _PREFIX)


def sweep_leftovers() -> None:
    """Remove the directories that dead workers have left."""
    for directory in abandoned(Path(tempfile.gettempdir()), _PREFIX):
        with suppress(OSError):
            directory.remove()


_sweep_once: Final = functools.cache(sweep_leftovers)


def _read(path: Path, allow: Callable[[Path], None]) -> tuple[str, str]:
    """Return a script's resolved path and its SHA-256.

    The hash is of what is there now. The interpreter opens the file again, by its resolved name: whoever may write
    there can still change it in between, which is why the profile `strict` refuses what a task could change.

    Raises:
        RunnerError: it is not allowed, or cannot be read; each errno has its class.
    """
    resolved = os.path.realpath(path)
    try:
        allow(Path(resolved))
        descriptor = os.open(resolved, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)  # neither a late link nor a FIFO
        with os.fdopen(descriptor, "rb") as file:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise NotReadableError(f"the script {resolved!r} is no regular file")
            return resolved, hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise _explain(error, resolved) from None


def _explain(error: OSError, path: str) -> RunnerError:
    match error.errno:
        case errno.ENOENT | errno.ENOTDIR | errno.ENAMETOOLONG | errno.ELOOP:
            return ScriptNotFoundError(f"the script {path!r} was not found")
        case errno.EMFILE | errno.ENFILE | errno.ENOMEM:
            return SpawnFailedError(f"the script {path!r} could not be opened: {error.strerror}")
        case errno.EISDIR:
            return NotReadableError(f"the script {path!r} is no regular file")
    return NotReadableError(f"the script {path!r} cannot be read: {error.strerror}")


def _first_writable(path: Path, root: Path | None) -> str | None:
    """Name what lets anyone but root change a file below a root: itself, or a directory on the way to it."""
    for part in (path, *path.parents):
        status = part.stat()
        if status.st_uid == os.geteuid() != 0 or status.st_mode & _WRITABLE_BY_OTHERS:
            return str(part)
        if part == root:
            break
    return None


def _without_interpreter(params: ScriptParams, error: CommandNotFoundError) -> InterpreterNotFoundError:
    text = str(error).replace("the command", "the interpreter", 1)
    if isinstance(params.interpreter, str) and " " in params.interpreter:
        text += "; a string names an executable: give its own arguments in a list"
    return InterpreterNotFoundError(text)


def _extension(interpreter: str) -> str:
    """Return what an interpreter's scripts are called: `.py` for `/usr/bin/python3.11`."""
    return _EXTENSIONS.get(Path(interpreter).name.rstrip(".0123456789"), "")


def _check_interpreter(interpreter: str | list[str]) -> None:
    parts = [interpreter] if isinstance(interpreter, str) else interpreter
    if isinstance(interpreter, list) and interpreter and not interpreter[0]:
        raise ValueError("`interpreter[0]` is empty")
    if any("\0" in part for part in parts):
        raise ValueError("`interpreter` contains a NUL byte")


def _size(name: str, text: str) -> int:
    try:
        return len(text.encode())
    except UnicodeEncodeError:
        raise ValueError(f"`{name}` contains a lone surrogate, which no file can hold") from None
