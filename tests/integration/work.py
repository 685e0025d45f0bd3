"""Functions for tests of pools: what a plug-in may hold, importable by their processes."""

# ruff: noqa: T201 - what functions print is what is tested

import ctypes
import mmap
import os
import resource
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

from runners import TaskContext, TaskStopped, runner

MIB = 2**20
KEPT: list[bytes] = []


@runner("who")
def who() -> int:
    return os.getpid()


@runner("area")
def area(width: int, height: int = 5) -> dict[str, int]:
    return {"area": width * height}


@runner("talk")
def talk(context: TaskContext, lines: int = 1) -> str:
    for number in range(lines):
        print("printed", number)
        context.log(f"logged {number}")
        print("complained", number, file=sys.stderr)
        context.progress(done=number)
    os.write(1, b"raw\n")
    subprocess.run(["echo", "by a child"], check=True)
    context.write("written ")
    return f"{context.category} {context.id} {context.attempt} {context.worker} {context.labels}"


@runner("big")
def big(size: int) -> str:
    return "x" * size


@runner("length")
def length(text: str) -> int:
    return len(text)


@runner("environment")
def environment() -> dict[str, str]:
    return dict(os.environ)


@runner("fail")
def fail(how: str) -> Any:
    match how:
        case "raise":
            raise ValueError("no good:\nnone at all")
        case "exit":
            sys.exit("enough")
        case "leave":
            os._exit(3)
        case "leave in order":
            os._exit(0)
        case "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        case "segfault":
            ctypes.string_at(0)
        case "object":
            return object()
        case "close":
            os.closerange(3, 64)
            time.sleep(600)
    return None


@runner("wait")
def wait(said: str, tell: str = "", *, stubborn: bool = False) -> None:
    """Say so, wait for ever, and tell in a file if it ends in order."""
    if stubborn:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    print(said)
    try:
        while True:
            time.sleep(600)
    except TaskStopped:
        if tell:
            Path(tell).write_text("stopped", encoding="utf-8")
        raise


@runner("poll", on_stop="flag")
def poll(context: TaskContext) -> str:
    print("ready")
    while not context.stopping:
        time.sleep(0.005)
    return "as far as it came"


@runner("leave")
def leave(tag: str, *, then_wait: bool = False) -> int:
    """Leave a child, a grandchild, and one that has escaped from the session."""
    subprocess.Popen(["sleep", tag])
    subprocess.run(f"setsid sleep {tag} & sleep {tag} &", shell=True, check=True)
    if then_wait:
        print("ready")
        time.sleep(600)
    return os.getpid()


@runner("grow")
def grow(size: int) -> int:
    KEPT.append(b"x" * size)
    return os.getpid()


@runner("burn")
def burn() -> None:
    while True:
        pass


@runner("shared")
def shared(size: int) -> None:
    """Use memory that RLIMIT_DATA does not count."""
    memory = mmap.mmap(-1, size)
    for _ in range(size // MIB):
        memory.write(b"x" * MIB)
    time.sleep(600)


@runner("nofile")
def nofile() -> int:
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]


@runner("boast")
def boast(context: TaskContext) -> None:
    context.progress(text="x" * (2 * MIB))


@runner("linger")
def linger(context: TaskContext, *, leave: bool) -> None:
    """Leave a thread that goes on telling how far it is, or give one the time to."""
    if not leave:
        time.sleep(0.05)
        return

    def tell() -> None:
        while True:
            time.sleep(0.001)
            context.progress(late=True)

    threading.Thread(target=tell, daemon=True).start()


@runner("conform")
def conform(how: str) -> str:
    """Do what the conformance suite asks for."""
    match how:
        case "raise":
            raise ValueError(how)
        case "wait":
            time.sleep(600)
        case "shout":
            return "x" * 300_000
    print("on the way")
    return "well done"
