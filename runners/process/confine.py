"""Confines a process from within, between its start and its exec: what a parent could do only by a fork of its own.

    python -I -S -E -X utf8 confine.py ERRORS ENVIRONMENT CGROUP|- LIMITS -- ARGV...

ERRORS is a descriptor. It gets "+" just before the exec, and "<errno> <stage>" if a stage (cgroup, rlimit, exec)
fails; a successful exec closes it, so "+" and the end mean that the command runs. ENVIRONMENT is the descriptor of a
file with the command's environment: this interpreter must not see it, since LD_PRELOAD and its like would bring the
task's code in here before it is confined. LIMITS are such as "CPU=5:6,NOFILE=64:64": soft and hard.

The command is searched for on the PATH of its own environment, as subprocess.Popen does, and never handed to a shell.
Built-in modules only: each import is paid for by every confined task.
"""

import posix
import resource
import sys
from _signal import SIG_DFL, SIGPIPE, SIGXFSZ, signal  # type: ignore[import-not-found]  # signal itself loads enum
from errno import EINVAL, ENOENT, ENOMEM, ENOTDIR

_DEFAULT_PATH = b"/bin:/usr/bin"


class _StageError(Exception):
    """A stage failed, and with which errno."""

    def __init__(self, stage: str, number: int) -> None:
        super().__init__(stage, number)
        self.stage = stage
        self.number = number


def main(arguments: list[str]) -> None:
    """Confine this process and become the command; return only if that fails."""
    errors = int(arguments[0])
    posix.set_inheritable(errors, False)  # noqa: FBT003 - it takes no keyword
    try:
        environment = _read_environment(int(arguments[1]))
        candidates = _candidates(arguments[5], environment)
        if arguments[2] != "-":
            _join(arguments[2])
        _reset_signals()
        _limit(arguments[3].split(","))
        posix.write(errors, b"+")
        _become(candidates, arguments[5:], environment)
    except _StageError as error:
        posix.write(errors, b"%d %s" % (error.number, error.stage.encode()))


def _read_environment(descriptor: int) -> dict[bytes, bytes]:
    content = b""
    while chunk := posix.read(descriptor, 1 << 20):
        content += chunk
    posix.close(descriptor)
    pairs = (entry.partition(b"=") for entry in content.split(b"\0") if entry)
    return {name: value for name, _, value in pairs}


def _candidates(command: str, environment: dict[bytes, bytes]) -> list[bytes]:
    """Return the paths to try, as os.get_exec_path and subprocess do."""
    name = command.encode("utf-8", "surrogateescape")
    if b"/" in name:
        return [name]
    folders = environment.get(b"PATH", _DEFAULT_PATH).split(b":")
    return [name if not folder else folder.removesuffix(b"/") + b"/" + name for folder in folders]


def _join(cgroup: str) -> None:
    try:
        descriptor = posix.open(f"{cgroup}/cgroup.procs", posix.O_WRONLY | posix.O_CLOEXEC)
        posix.write(descriptor, b"0")
        posix.close(descriptor)
    except OSError as error:
        raise _StageError("cgroup", error.errno or 0) from None


def _reset_signals() -> None:
    """Undo what the interpreter ignores for itself: what is ignored stays so in the command."""
    signal(SIGPIPE, SIG_DFL)
    signal(SIGXFSZ, SIG_DFL)


def _limit(limits: list[str]) -> None:
    """Set the limits, but never above what there is: that is a limit already, and not ours to lift."""
    try:
        for limit in limits:
            name, _, values = limit.partition("=")
            number = getattr(resource, "RLIMIT_" + name)
            ceiling = resource.getrlimit(number)[1]
            used = _cpu_used() if name == "CPU" else 0
            soft, hard = (_least(int(value) + used, ceiling) for value in values.split(":"))
            resource.setrlimit(number, (soft, hard))
    except (OSError, ValueError) as error:  # the module turns EINVAL and EPERM into ValueError
        raise _StageError("rlimit", getattr(error, "errno", EINVAL)) from None


def _cpu_used() -> int:
    """Return the seconds of CPU time, to the nearest, that a slow machine has taken for us: they are not the task's."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return round(usage.ru_utime + usage.ru_stime)


def _least(value: int, ceiling: int) -> int:
    return value if ceiling == resource.RLIM_INFINITY else min(value, ceiling)


def _become(candidates: list[bytes], argv: list[str], environment: dict[bytes, bytes]) -> None:
    """Execute the first candidate that can be; the error that counts is the first that says more than "missing"."""
    number = 0
    for candidate in candidates:
        try:
            posix.execve(candidate, argv, environment)
        except OSError as error:
            if number in {0, ENOENT, ENOTDIR}:
                number = error.errno or 0
        except MemoryError:
            number = ENOMEM
    raise _StageError("exec", number)


if __name__ == "__main__":
    main(sys.argv[1:])
    posix._exit(127)  # noqa: SLF001 - it is os._exit
