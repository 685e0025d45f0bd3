"""The signals that a process inherits: what its parent ignored or blocked, its children would too."""

import signal
from types import FrameType
from typing import Final

_RESTORED: Final = frozenset({signal.SIGPIPE, signal.SIGXFSZ})
"""Python ignores these itself, and `subprocess` gives them back to each child."""
_TO_DEFAULT: Final = frozenset({signal.SIGCHLD, signal.SIGTSTP, signal.SIGTTIN, signal.SIGTTOU})
"""A handler means something else for these than ignoring them does (wait(2), termios(3))."""


def shed_inherited_signals() -> None:
    """Keep ignoring what we were told to ignore, but let no task inherit it; block nothing.

    A shell starts `worker &` with SIGINT and SIGQUIT ignored, `nohup` with SIGHUP. Ignored signals stay ignored
    across exec, handled ones go back to their default (execve(2)); so a handler that does nothing does both.
    """
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    for number in signal.valid_signals() - _RESTORED:
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, signal.SIG_DFL if number in _TO_DEFAULT else _ignore)


def _ignore(_number: int, _frame: FrameType | None) -> None:
    """Do nothing, unlike `SIG_IGN`, only in this process."""
