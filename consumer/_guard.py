"""The step between an owner and its nats-server: a script, stdlib only, that ends the server with the owner.

    python -I -S _guard.py deathsig OWNER_PID nats-server ...
    python -I -S _guard.py pipe     OWNER_PID nats-server ...

`deathsig` (Linux) asks the kernel for a SIGTERM when the thread that started it ends, then becomes the server.
`pipe` stays the server's parent, and ends it when its own stdin, a pipe from the owner, closes.
"""

import os
import signal
import sys

GRACE = 5.0
"""Seconds between SIGTERM and SIGKILL."""

_PR_SET_PDEATHSIG = 1
_CANNOT_RUN = 126


def _become(owner: int, command: list[str]) -> None:
    import ctypes  # noqa: PLC0415 - the other branch has no use for it

    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0):
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG)")
    # An owner that ended before the call above sends no signal any more.
    if os.getppid() == owner:
        os.execv(command[0], command)  # noqa: S606 - no shell is the point


def _attend(command: list[str]) -> int:
    import subprocess  # noqa: PLC0415 - the other branch has no use for them
    import threading  # noqa: PLC0415
    import time  # noqa: PLC0415

    # close_fds=False: the server inherits the lock. Our stdin is not for it.
    server = subprocess.Popen(command, stdin=subprocess.DEVNULL, close_fds=False)

    def end_with_owner() -> None:
        while os.read(0, 1):
            pass
        server.terminate()
        time.sleep(GRACE)
        server.kill()

    signal.signal(signal.SIGTERM, lambda *_: server.terminate())
    threading.Thread(target=end_with_owner, daemon=True).start()
    return abs(server.wait())


def main(mode: str, owner: str, *command: str) -> int:
    """Run `command` as `mode` says; the exit code is the server's, or 126 if it cannot be run."""
    try:
        if mode == "pipe":
            return _attend(list(command))
        _become(int(owner), list(command))
    except OSError as error:
        sys.stderr.write(f"{command[0]} cannot be run: {error.strerror}\n")
    return _CANNOT_RUN


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
