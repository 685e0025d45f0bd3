"""A plug-in as people write them: a coroutine function, a plain one, and a Runner."""

import os
import time

import msgspec

from runners import Runner, TaskContext, runner


@runner("greet")
async def greet(name: str, *, loud: bool = False) -> str:
    return f"HELLO {name}" if loud else f"hello {name}"


@runner("fibonacci")
def fibonacci(count: int, context: TaskContext) -> list[int]:
    numbers = [0, 1]
    while len(numbers) < count:
        numbers.append(numbers[-1] + numbers[-2])
        context.progress(numbers=len(numbers))
    print("counted")  # noqa: T201 - what a function prints is its task's stderr
    return numbers[:count]


@runner("sleep")
def sleep(seconds: float) -> int:
    print("asleep")  # noqa: T201
    time.sleep(seconds)
    return os.getpid()


class EchoParams(msgspec.Struct, forbid_unknown_fields=True):
    text: str


@runner("echo")
class EchoRunner(Runner[EchoParams]):
    """Says what it is told."""

    params_type = EchoParams

    async def run(self, params: EchoParams) -> None:
        self.write(params.text)
