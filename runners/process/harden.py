"""What a worker gives up for itself and all that it starts: no new privileges, no core dumps, no files for others.

A process's children inherit each of these, so no task costs anything more for it.
"""

import ctypes
import os
import resource
import sys
from typing import Final

_PR_SET_NO_NEW_PRIVS: Final = 38
_PRIVATE: Final = 0o077


def harden() -> None:
    """Give them up, for good.

    Raises:
        OSError: the kernel refuses.
    """
    os.umask(_PRIVATE)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if sys.platform == "linux":
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number))
