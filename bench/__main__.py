"""`python -m bench`: run the cases and print their figures."""

import argparse
import os
import platform
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

import msgspec

from . import broker, commands, leaks, output
from .figures import Figure, table

CASES: Final[dict[str, Callable[[int], list[Figure]]]] = {
    "leaks": leaks.measure,  # first: memory that other cases have freed would hide what leaks
    "commands-runner": commands.measure,
    "output-1gib": output.measure,
    "commands-nats": broker.measure,
}
ROUNDS: Final = 7


def main() -> None:
    """Read the command line, measure, print."""
    parser = argparse.ArgumentParser(prog="python -m bench", description="What jetrunner costs, in about two minutes.")
    parser.add_argument("--only", action="append", choices=list(CASES), metavar="NAME", help=", ".join(CASES))
    parser.add_argument("--rounds", type=_positive, default=ROUNDS, metavar="N", help=f"at most; {ROUNDS} by default")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there, too")
    options = parser.parse_args()
    if sys.platform != "linux":
        parser.error("the figures are read from /proc, which only Linux has")
    machine = _machine()
    measured = _measure(options.only or list(CASES), options.rounds)
    print(*table(measured), sep="\n")
    print("\n" + ", ".join(f"{name} {value}" for name, value in machine.items()))
    if options.json is not None:
        report = {"machine": machine, "cases": measured}
        options.json.write_bytes(msgspec.json.format(msgspec.json.encode(report)) + b"\n")


def _measure(names: Sequence[str], rounds: int) -> dict[str, list[Figure]]:
    measured: dict[str, list[Figure]] = {}
    for name in dict.fromkeys(names):
        begun = time.monotonic()
        print(f"{name} ...", end="", file=sys.stderr, flush=True)
        measured[name] = CASES[name](rounds)
        print(f" {time.monotonic() - begun:.0f} s", file=sys.stderr)
    return measured


def _machine() -> dict[str, Any]:
    return {
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "python": platform.python_version(),
        "system": platform.platform(),
        "cpus": os.cpu_count(),
        "load before": os.getloadavg()[0],
    }


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise ValueError(text)
    return number


if __name__ == "__main__":
    main()
