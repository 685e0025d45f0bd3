"""Tests of ScriptRunner with real processes: where a script comes from, what runs it, and what is left of it."""

import errno
import hashlib
import os
import signal
import socket
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import anyio
import pytest

from runners.context import Context, Policy, SilentReporter
from runners.private import PrivateDirectory
from runners.script import ScriptRunner, sweep_leftovers
from schemas import Cause, Result, ScriptSource, Status, Task

pytestmark = pytest.mark.anyio

PATIENCE = 20.0
"""Seconds that no wait in these tests takes."""
LONG = 600.0
"""Seconds that no run in these tests takes."""
NOBODY = 65534
WHERE = 'd=${0%/*}; ls -ld "$d" | cut -c1-10; ls -l "$0" | cut -c1-10; echo "$0"; echo "$*"'
"""Prints the modes of the script's directory and file, its path, and its arguments."""
WORKER = """
import sys, anyio
from runners.script import ScriptRunner
async def main():
    runner = ScriptRunner()
    runner.parse_args("", {"script": sys.argv[1]})
    print((await runner.execute()).output, end="")
anyio.run(main)
"""
"""Runs one inline script, as a worker would."""


@pytest.fixture
def anyio_backend() -> str:
    """Run on asyncio, as the worker does."""
    return "asyncio"


@pytest.fixture(autouse=True)
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give each test a temporary directory of its own."""
    path = tmp_path / "temporary"
    path.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(path))
    return path


@pytest.fixture
def roots(tmp_path: Path) -> Path:
    """Return a directory of scripts that nobody else may write."""
    path = tmp_path / "roots"
    path.mkdir(mode=0o755)
    return path


class Recorder(SilentReporter):
    """Lets a test wait for output."""

    def __init__(self) -> None:
        self.stdout = b""
        self.ready = anyio.Event()

    def output(self, stream: str, offset: int, chunk: bytes) -> None:
        """Notice the word that a script says when it is ready."""
        self.stdout += chunk
        if b"ready" in self.stdout:
            self.ready.set()


def prepared(
    args: Mapping[str, Any], *, command: str = "", policy: Policy | None = None, grace: float = LONG, **task: Any
) -> ScriptRunner:
    """Return a runner that is about to run a script."""
    runner = ScriptRunner()
    runner.context = Context(
        task=Task(id="t-1", category="script", **task),
        grace=grace,
        policy=policy or Policy(),
        reporter=Recorder(),
    )
    runner.timeout = LONG
    runner.parse_args(command, {**args})
    return runner


async def finished(runner: ScriptRunner) -> Result:
    """Execute."""
    with anyio.fail_after(PATIENCE):
        return await runner.execute()


async def inline(script: str, *args: str, interpreter: str | list[str] = "", **options: Any) -> Result:
    """Run a script that is in the task."""
    return await finished(prepared({"script": script, "args": [*args], "interpreter": interpreter}, **options))


async def in_file(path: Path | str, *args: str, interpreter: str | list[str] = "", **options: Any) -> Result:
    """Run a script that is in a file."""
    parameters = {"script_path": str(path), "args": [*args], "interpreter": interpreter}
    return await finished(prepared(parameters, **options))


async def ready(runner: ScriptRunner) -> None:
    """Wait until the script has said that it is ready."""
    assert isinstance(runner.context.reporter, Recorder)
    with anyio.fail_after(PATIENCE):
        await runner.context.reporter.ready.wait()


def written(path: Path, content: str, mode: int = 0o644) -> Path:
    """Write a file that nobody could execute by itself."""
    path.write_text(content)
    path.chmod(mode)
    return path


def unstarted(result: Result) -> tuple[str, str | None, int | None]:
    """Return how a run ended that began no process."""
    assert (result.start_time, result.termination, result.output) == (None, None, "")
    return result.status.value, result.error_code, result.exit_code


def inside(directory: Path) -> list[Path]:
    """Return what a directory holds."""
    return [*directory.iterdir()]


def sha256(content: str | bytes) -> str:
    """Return the hash of a script."""
    return hashlib.sha256(content.encode() if isinstance(content, str) else content).hexdigest()


# Inline scripts


async def test_an_inline_script(temporary: Path) -> None:
    """It is a private file in a private directory, run with its arguments as they stand, and removed afterwards."""
    result = await inline(WHERE, "a  b", "$HOME", ";")
    assert (result.status, result.stderr) == (Status.SUCCESS, "")
    directory, file, path, args = result.output.splitlines()
    assert (directory[:10], file[:10], args) == ("drwx------", "-rw-------", "a  b $HOME ;")
    assert path.startswith(f"{temporary}/")
    assert path.endswith("/script.sh")
    assert inside(temporary) == []


async def test_an_inline_script_is_a_file_to_its_interpreter() -> None:
    """The interpreter gets a path, never `-c`: the text is not to be seen among the processes."""
    result = await inline("tr '\\0' '|' </proc/$$/cmdline", "x")
    assert result.output.startswith("/bin/sh|/")
    assert result.output.endswith("/script.sh|x|")


async def test_the_hash_of_an_inline_script() -> None:
    """The Result tells the hash of the text, and no path: it is gone."""
    assert (await inline("echo ü")).script == ScriptSource(path=None, sha256=sha256("echo ü"))


@pytest.mark.parametrize(
    "script",
    [
        pytest.param("\ufeffecho BOM\n", id="BOM"),
        pytest.param("#!/bin/sh\r\necho hi\r\n", id="CRLF"),
        pytest.param("one\rtwo\n\nthree", id="no newline at the end"),
        pytest.param("nul\0byte", id="NUL"),
        pytest.param("ünï€😀", id="UTF-8"),
        pytest.param("x" * 1024 * 1024, id="1 MiB"),
    ],
)
async def test_an_inline_script_is_written_byte_for_byte(script: str) -> None:
    """Nothing is added, nothing is taken, no line end is changed."""
    result = await inline(script, interpreter="cat")
    assert result.streams.stdout.sha256 == sha256(script)
    assert result.streams.stdout.bytes == len(script.encode())


async def test_a_crlf_first_line_does_no_harm() -> None:
    """The interpreter is given, so that the first line is a comment."""
    result = await inline("#!/no/such/sh\r\necho hi\n")
    assert (result.status, result.output) == (Status.SUCCESS, "hi\n")


@pytest.mark.parametrize(
    ("interpreter", "name"),
    [(["echo", "python3.11"], "script"), ("bash", "script.bash"), ("/bin/sh", "script.sh"), ("python3", "script.py")],
)
async def test_the_name_of_an_inline_script(interpreter: str | list[str], name: str) -> None:
    """The file has its interpreter's extension, where that is known."""
    script = "import sys; print(sys.argv[0])" if "python" in interpreter else 'echo "$0"'
    result = await inline(script, interpreter=interpreter)
    assert Path(result.output.strip()).name == name


async def test_what_a_script_leaves_in_its_directory_is_removed(temporary: Path) -> None:
    """The whole directory goes, whatever is in it by then; links out of it are not followed."""
    (temporary.parent / "kept").write_text("kept")
    await inline('cd "${0%/*}"; mkdir -p a/b; echo >a/b/c; ln -s "$1" link; chmod 500 a', str(temporary.parent))
    assert inside(temporary) == []
    assert (temporary.parent / "kept").read_text() == "kept"


async def test_a_script_may_remove_itself(temporary: Path) -> None:
    """A directory that is already gone is no matter for a warning."""
    result = await inline('rm -r "${0%/*}"; echo hi')
    assert (result.output, result.warnings, inside(temporary)) == ("hi\n", (), [])


@pytest.mark.parametrize("script", ["exit 3", "kill -9 $$", "sleep 600 >/dev/null 2>&1 &"])
async def test_the_directory_is_removed_however_the_script_ends(script: str, temporary: Path) -> None:
    """A failed script leaves as little as a good one."""
    await inline(script)
    assert inside(temporary) == []


async def test_the_directory_is_removed_when_the_caller_is_cancelled(temporary: Path) -> None:
    """The cleanup is shielded from the cancellation that ends the run."""
    runner = prepared({"script": "echo ready; sleep 600"})
    with anyio.fail_after(PATIENCE):
        async with anyio.create_task_group() as group:
            group.start_soon(runner.execute)
            await ready(runner)
            assert len(inside(temporary)) == 1
            group.cancel_scope.cancel()
    assert runner.result is not None
    assert (runner.result.error_code, inside(temporary)) == ("worker_shutdown", [])


async def test_no_room_for_the_script(monkeypatch: pytest.MonkeyPatch) -> None:
    """A temporary directory that takes no file is the machine's fault, and the task may be tried again."""
    monkeypatch.setattr(tempfile, "tempdir", "/no/such/directory")
    result = await inline("exit")
    assert unstarted(result) == ("error", "spawn_failed", None)
    assert result.error == f"the script could not be written to a file: {os.strerror(errno.ENOENT)}"
    assert result.retryable


async def test_many_inline_scripts_leave_nothing(temporary: Path) -> None:
    """Scripts that run at once do not meet, and leave neither directory nor descriptor."""
    await inline("exit")
    before = len(inside(Path("/dev/fd")))
    runners = [prepared({"script": f"echo {number}; exit {number}"}) for number in range(20)]
    with anyio.fail_after(PATIENCE):
        async with anyio.create_task_group() as group:
            for runner in runners:
                group.start_soon(runner.execute)
    ends = [(runner.result.output, runner.result.exit_code) for runner in runners if runner.result]
    assert ends == [(f"{number}\n", number) for number in range(20)]
    assert inside(temporary) == []
    assert len(inside(Path("/dev/fd"))) == before


# What dead workers leave


def worker(script: str, temporary: Path) -> "subprocess.CompletedProcess[str]":
    """Run one inline script in a worker of its own."""
    return subprocess.run(
        [sys.executable, "-c", WORKER, script],
        env={**os.environ, "TMPDIR": str(temporary), "PYTHONPATH": str(Path(__file__).parents[2])},
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )


def test_a_killed_worker_s_directory_is_removed_by_the_next(temporary: Path) -> None:
    """After kill -9 the next worker sweeps on its first inline script, and leaves those of the living alone."""
    assert worker("kill -9 $PPID", temporary).returncode == -signal.SIGKILL
    (left,) = temporary.iterdir()
    alive = PrivateDirectory.make(temporary, "jetrunner-script-")
    assert worker('ls "${0%/*}/.."', temporary).stdout.split().count(left.name) == 0
    assert inside(temporary) == [alive.path]
    alive.remove()


def test_only_what_is_left_is_swept(temporary: Path) -> None:
    """A sweep removes directories without a lock; what is locked, a link, a file or another's name stays."""
    alive, left = PrivateDirectory.make(temporary, "jetrunner-script-"), temporary / "jetrunner-script-left"
    (left / "a").mkdir(parents=True)
    others = [temporary / "jetrunner-other", temporary / "jetrunner-script-file", temporary / "jetrunner-script-link"]
    others[0].mkdir()
    others[1].touch()
    others[2].symlink_to(others[0])
    sweep_leftovers()
    assert {*temporary.iterdir()} == {alive.path, *others}
    alive.remove()


@pytest.mark.skipif(os.geteuid() != 0, reason="gives a directory away")
def test_another_user_s_directory_is_not_swept(temporary: Path) -> None:
    """What another user's worker has left is for that user's next worker."""
    left = temporary / "jetrunner-script-left"
    left.mkdir()
    os.chown(left, NOBODY, NOBODY)
    sweep_leftovers()
    assert left.exists()


# Interpreters


async def test_the_interpreter_is_the_extension_s(roots: Path) -> None:
    """A file needs neither a first line nor the right to be executed."""
    result = await in_file(written(roots / "a.py", "import sys; print(sys.argv[1:])"), "x", "y")
    assert (result.status, result.output) == (Status.SUCCESS, "['x', 'y']\n")


async def test_the_interpreter_may_have_arguments(roots: Path) -> None:
    """A list is the interpreter and its own arguments, before the script's."""
    result = await in_file(written(roots / "a.sh", 'echo "$-" "$1"'), "x", interpreter=["/bin/sh", "-eu"])
    assert {"e", "u"} <= {*result.output}
    assert result.output.endswith(" x\n")


async def test_the_interpreter_is_found_on_the_task_s_path(roots: Path) -> None:
    """A bare name is looked up on the task's PATH, and nowhere else."""
    interpreter = written(roots / "mine", '#!/bin/sh\necho "mine ${1##*/}"\n', mode=0o755)
    found = await inline("exit", interpreter=interpreter.name, env={"PATH": f"/nowhere:{roots}"})
    assert (found.status, found.output) == (Status.SUCCESS, "mine script\n")
    lost = await in_file(written(roots / "a.py", ""), env={"PATH": str(roots)})
    assert unstarted(lost) == ("failed", "interpreter_not_found", 127)
    assert lost.error == f"the interpreter 'python3' was not found on the PATH {roots}"


@pytest.mark.parametrize("interpreter", ["no-such-interpreter", "/no/such/interpreter", ["no-such-interpreter", "-u"]])
async def test_a_missing_interpreter(interpreter: str | list[str], temporary: Path) -> None:
    """An interpreter that is not there is 127, and the inline script's file is removed all the same."""
    result = await inline("exit", interpreter=interpreter)
    assert unstarted(result) == ("failed", "interpreter_not_found", 127)
    assert result.error.startswith("the interpreter '")
    assert inside(temporary) == []


async def test_an_interpreter_is_not_split() -> None:
    """A string with arguments in it is one executable, which is not there; the error says how it is meant."""
    result = await inline("exit", interpreter="/bin/sh -e")
    assert unstarted(result) == ("failed", "interpreter_not_found", 127)
    assert result.error == (
        "the interpreter '/bin/sh -e' was not found; a string names an executable: give its own arguments in a list"
    )


async def test_an_interpreter_that_is_no_program(roots: Path) -> None:
    """What cannot be executed is 126, as a command."""
    result = await inline("exit", interpreter=str(written(roots / "a", "")))
    assert unstarted(result) == ("failed", "not_executable", 126)


# Scripts in files


async def test_a_script_in_a_file(roots: Path) -> None:
    """The interpreter is given the file itself; the Result says which, and what was in it."""
    path = written(roots / "a.sh", 'echo "$0"; echo "$@"')
    result = await in_file(path, "x", "y z")
    assert (result.status, result.output) == (Status.SUCCESS, f"{path}\nx y z\n")
    assert result.script == ScriptSource(path=str(path), sha256=sha256(path.read_bytes()))


async def test_the_command_is_the_script_s_path(roots: Path) -> None:
    """The task's `command` fills `script_path`."""
    path = written(roots / "a.sh", "echo $1")
    result = await finished(prepared({"args": ["x"]}, command=str(path)))
    assert result.output == "x\n"


async def test_a_link_is_resolved(roots: Path, tmp_path: Path) -> None:
    """The link's own extension decides; the interpreter is given what it points to, so that nobody can turn it."""
    path = written(roots / "a", 'print("hi", __file__)')
    link = tmp_path / "link.py"
    link.symlink_to(path)
    result = await in_file(link)
    assert (result.output, result.script and result.script.path) == (f"hi {path}\n", str(path))


async def test_a_relative_path_is_in_the_working_directory(roots: Path) -> None:
    """A relative path is found from the task's working directory."""
    written(roots / "a.sh", "pwd")
    result = await in_file("./a.sh", cwd=str(roots))
    assert result.output == f"{roots}\n"


@pytest.mark.parametrize("name", ["missing.sh", "file/a.sh", "dangling", "loop", "x" * 300, "x/" * 3000])
async def test_a_missing_script(name: str, roots: Path) -> None:
    """A script that is not there is 127."""
    (roots / "file").touch()
    (roots / "dangling").symlink_to("nothing")
    (roots / "loop").symlink_to("loop")
    result = await in_file(f"{roots}/{name}")
    assert unstarted(result) == ("failed", "script_not_found", 127)
    assert result.error.endswith("was not found")
    assert result.script is None


@pytest.mark.parametrize("kind", ["directory", "fifo", "socket", "device"])
async def test_a_script_that_is_no_file(kind: str, roots: Path) -> None:
    """What is no regular file is 126, and is not waited for."""
    path = Path("/dev/zero") if kind == "device" else roots / kind
    match kind:
        case "directory":
            path.mkdir()
        case "fifo":
            os.mkfifo(path)
        case "socket":
            with socket.socket(socket.AF_UNIX) as listener:
                listener.bind(str(path))
    assert unstarted(await in_file(path)) == ("failed", "not_readable", 126)


@pytest.fixture
def nobody_s() -> Iterator[Path]:
    """Be nobody, if the tests run as root, and return a directory of one's own."""
    was_root = os.geteuid() == 0
    if was_root:
        os.seteuid(NOBODY)
    try:
        with tempfile.TemporaryDirectory(dir="/tmp") as path:
            yield Path(path).resolve()
    finally:
        if was_root:
            os.seteuid(0)


@pytest.mark.parametrize("profile", ["standard", "strict"])
async def test_an_unreadable_script(profile: Any, nobody_s: Path) -> None:
    """A script that is closed to us, by its own mode or by a directory's, is 126."""
    closed = nobody_s / "closed"
    closed.mkdir()
    path = written(closed / "a.sh", "exit", mode=0)
    if profile == "strict":
        closed.chmod(0)
    result = await in_file(path, policy=Policy(profile=profile, script_roots=(str(closed),)))
    closed.chmod(0o700)
    assert unstarted(result) == ("failed", "not_readable", 126)
    assert result.error == f"the script {str(path)!r} cannot be read: Permission denied"


# Policy


async def test_a_script_below_the_roots(roots: Path, tmp_path: Path) -> None:
    """A script below any root is allowed, and so is a root that is itself a link."""
    (tmp_path / "link").symlink_to(roots)
    (roots / "sub").mkdir()
    written(roots / "sub" / "a.sh", "echo hi")
    policy = Policy(script_roots=("/no/such/root", str(tmp_path / "link")))
    for path in (roots / "sub" / "a.sh", tmp_path / "link" / "sub" / "a.sh", f"{roots}/../roots/sub/a.sh"):
        assert (await in_file(path, policy=policy)).output == "hi\n"


@pytest.mark.parametrize("name", ["roots/link.sh", "roots/../a.sh", "a.sh", "missing.sh", "roots2/a.sh", "."])
@pytest.mark.parametrize("profile", ["open", "standard", "strict"])
async def test_a_script_beyond_the_roots(name: str, profile: Any, roots: Path, tmp_path: Path) -> None:
    """Whatever it is called, what is really elsewhere is refused by name, be it there or not."""
    written(tmp_path / "a.sh", "echo hi")
    (tmp_path / "roots2").mkdir()
    written(tmp_path / "roots2" / "a.sh", "echo hi")
    (roots / "link.sh").symlink_to(tmp_path / "a.sh")
    result = await in_file(f"{tmp_path}/{name}", policy=Policy(profile=profile, script_roots=(str(roots),)))
    assert unstarted(result) == ("error", "policy_denied", None)
    assert result.error.endswith(" is not below runners.script.script_roots")
    assert (result.error_class, result.script) == ("parameter", None)


async def test_strict_needs_roots(roots: Path) -> None:
    """Where no roots are configured, the profile `strict` allows no script."""
    result = await in_file(written(roots / "a.sh", "echo hi"), policy=Policy(profile="strict"))
    assert unstarted(result) == ("error", "policy_denied", None)
    assert result.error == (
        "the profile `strict` allows only scripts below runners.script.script_roots, and there are none"
    )


async def test_strict_allows_no_inline_script(roots: Path, temporary: Path) -> None:
    """A text from the task is below no root."""
    result = await inline("echo hi", policy=Policy(profile="strict", script_roots=(str(roots),)))
    assert unstarted(result) == ("error", "policy_denied", None)
    assert result.error == "the profile `strict` allows no inline scripts"
    assert inside(temporary) == []


@pytest.mark.skipif(os.geteuid() != 0, reason="a user's own file is one that the user's tasks could change")
async def test_strict_allows_what_no_task_can_change(roots: Path) -> None:
    """Below the roots, root's own file is allowed."""
    path = written(roots / "a.sh", "echo hi")
    result = await in_file(path, policy=Policy(profile="strict", script_roots=(str(roots),)))
    assert (result.status, result.output) == (Status.SUCCESS, "hi\n")


@pytest.mark.parametrize("writable", ["sub/a.sh", "sub", "."])
@pytest.mark.parametrize("bits", [stat.S_IWGRP, stat.S_IWOTH])
async def test_strict_refuses_what_a_task_could_change(writable: str, bits: int, roots: Path) -> None:
    """Neither the file nor a directory on the way to it, from the root on, may be anyone's to write."""
    (roots / "sub").mkdir()
    path = written(roots / "sub" / "a.sh", "echo hi")
    (roots / writable).chmod((roots / writable).stat().st_mode | bits)
    result = await in_file(path, policy=Policy(profile="strict", script_roots=(str(roots),)))
    assert unstarted(result) == ("error", "policy_denied", None)
    assert result.error.startswith("the profile `strict` allows no script that a task could change: ")


async def test_strict_refuses_the_user_s_own_file(nobody_s: Path) -> None:
    """A user's own file can be changed by the user's tasks, whatever its mode."""
    path = written(nobody_s / "a.sh", "echo hi", mode=0o444)
    result = await in_file(path, policy=Policy(profile="strict", script_roots=(str(nobody_s),)))
    assert unstarted(result) == ("error", "policy_denied", None)
    assert result.error == (
        f"the profile `strict` allows no script that a task could change: {str(path)!r} is writable"
    )


# Everything else is as for a command


async def test_what_the_script_is_given(roots: Path) -> None:
    """Environment, secrets, working directory and standard input are the task's; a secret is not printed."""
    result = await inline(
        'echo "$A $S $TASK_ID"; pwd; cat', env={"A": "a"}, secret_env={"S": "secret!"}, cwd=str(roots), stdin="in"
    )
    assert result.output == f"a [REDACTED] t-1\n{roots}\nin"


async def test_a_bad_working_directory(temporary: Path) -> None:
    """A working directory that cannot be entered is the task's failure, without an exit code."""
    assert unstarted(await inline("exit", cwd="/no/such/directory")) == ("failed", "bad_cwd", None)
    assert inside(temporary) == []


@pytest.mark.parametrize(
    ("script", "code", "exit_code", "name"),
    [("exit 3", "exit_nonzero", 3, None), ("kill -USR1 $$", "signalled", 128 + signal.SIGUSR1, "SIGUSR1")],
)
async def test_a_script_that_fails(script: str, code: str, exit_code: int, name: str | None) -> None:
    """Exit codes and signals are those of the interpreter."""
    result = await inline(script)
    assert (result.status, result.error_code, result.exit_code) == (Status.FAILED, code, exit_code)
    assert result.signal == name


@pytest.mark.parametrize(("scope", "output"), [("group", "ready\n"), ("leader", "ready\nalive\n")])
async def test_a_stop(scope: str, output: str, temporary: Path) -> None:
    """A stop reaches the whole script, or with `stop_scope: leader` its interpreter alone."""
    script = (
        "sleep 600 >/dev/null 2>&1 & child=$!; "
        "trap 'trap : TERM; [ $1 = group ] && wait $child; kill -0 $child 2>/dev/null && echo alive; exit 7' TERM; "
        "echo ready; wait"
    )
    runner = prepared({"script": script, "args": [scope], "stop_scope": scope})
    with anyio.fail_after(PATIENCE):
        async with anyio.create_task_group() as group:
            group.start_soon(runner.execute)
            await ready(runner)
            runner.stop()
    result = runner.result
    assert result is not None
    assert (result.status, result.exit_code, result.output) == (Status.CANCELED, 7, output)
    assert result.termination is not None
    assert (result.termination.cause, result.termination.signals) == (Cause.STOP, ("SIGTERM",))
    assert inside(temporary) == []


async def test_a_time_out(temporary: Path) -> None:
    """A script that runs too long is ended, and its directory removed."""
    runner = prepared({"script": "sleep 600"})
    runner.timeout = 0.05
    result = await finished(runner)
    assert (result.status, result.exit_code, inside(temporary)) == (Status.TIMEOUT, 143, [])


@pytest.mark.parametrize("args", [{"script": "echo started"}, {"script_path": "/etc/passwd"}])
async def test_an_end_before_the_start_starts_nothing(args: dict[str, str], temporary: Path) -> None:
    """A run that is stopped while pending writes no file and begins no process."""
    runner = prepared(args)
    runner.stop()
    result = await finished(runner)
    assert (result.status, result.start_time, result.output) == (Status.CANCELED, None, "")
    assert inside(temporary) == []
