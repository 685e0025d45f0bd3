"""What is to be run, and what confines it."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

from msgspec import Struct


class ProcessSpec(Struct, frozen=True, kw_only=True):
    """What to run. `stop_scope` says who gets the polite signal; the rude one always goes to all.

    `inherited` are descriptors of ours that it gets beside its standard ones.
    """

    argv: Sequence[str]
    env: Mapping[str, str]
    cwd: str | None = None
    stdin: bytes = b""
    stop_scope: Literal["group", "leader"] = "group"
    inherited: Sequence[int] = ()


class Confinement(Struct, frozen=True, kw_only=True):
    """What a process is confined by: rlimits (soft, hard), by their names without RLIMIT_, and a cgroup to join."""

    rlimits: Mapping[str, tuple[int, int]] = {}
    cgroup: Path | None = None
