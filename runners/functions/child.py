"""The first steps of a pool's process: it learns where modules are, and becomes what serve.py describes.

    python -I -X utf8 child.py SOCKET

The first message on the socket is a Target as JSON, after its length: what is imported to decode others is found only
by what it says.
"""

import json
import os
import socket
import sys
from importlib import import_module


def main(descriptor: int) -> None:
    """Find the function and serve it until the socket is closed."""
    os.set_inheritable(descriptor, False)  # noqa: FBT003 - it takes no keyword
    os.dup2(2, 1)  # one stream for all that is printed, in its order
    link = socket.socket(fileno=descriptor)
    length = int.from_bytes(_receive(link, 4), "little")
    target = json.loads(_receive(link, length))
    sys.path[:] = target["path"]
    import_module("runners.functions.serve").serve(link, target["module"], target["name"])


def _receive(link: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        piece = link.recv(size - len(data))
        if not piece:
            sys.exit(0)
        data += piece
    return data


if __name__ == "__main__":
    main(int(sys.argv[1]))
