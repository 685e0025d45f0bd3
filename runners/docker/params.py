"""A docker task's parameters: the image, what to run in it, and how much of the host it may see."""

import re
from collections.abc import Sequence
from pathlib import PurePosixPath
from typing import Annotated, Final, Literal, Self

from msgspec import Meta, Struct, field

from runners.arguments import check_argv
from schemas import Duration
from schemas.task import check_environment

_NAMED: Final = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.-]*")
_MODES: Final = {"": False, "rw": False, "ro": True}
_DEFAULT_DOMAIN: Final = "docker.io"


class Volume(Struct, frozen=True):
    """A host directory or named volume, and where the container sees it."""

    source: str
    target: str
    read_only: bool = False

    @property
    def is_named(self) -> bool:
        """Whether the engine keeps it, rather than the host's file system."""
        return not self.source.startswith("/")

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read `/host:/container`, `name:/container`, or either with `:ro` or `:rw`.

        Raises:
            ValueError: it is none of them.
        """
        source, _, rest = text.partition(":")
        target, _, mode = rest.partition(":")
        if mode not in _MODES or not target.startswith("/") or "\0" in text:
            raise ValueError(f"the volume {text!r} is not such as /host:/container, name:/container or with :ro")
        if not source.startswith("/") and not _NAMED.fullmatch(source):
            raise ValueError(f"the volume {text!r} begins with neither an absolute path nor a volume's name")
        return cls(source, str(PurePosixPath(target)), _MODES[mode])


class DockerParams(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`command` and `args` are what the image's entry point is given: its own command where both are missing.

    `volumes` are `/host:/container[:ro]` or `name:/container[:ro]`; a host directory has to exist. What opens the host
    to the container (from `privileged` on) is refused unless the worker's profile allows it.
    """

    image: Annotated[str, Meta(min_length=1)]
    command: str | list[str] = ""
    args: Sequence[str] = ()
    entrypoint: str | list[str] | None = None
    volumes: tuple[str, ...] = ()
    env: dict[str, str] = {}
    working_dir: str | None = None
    user: str | None = None
    network: str | None = None
    pull: Literal["never", "if_missing", "always"] = "if_missing"
    pull_timeout: Annotated[Duration, Meta(extra_json_schema={"default": 300})] = field(
        default_factory=lambda: Duration(300)
    )
    init: bool = True
    read_only: bool = False
    cap_drop: tuple[str, ...] = ()
    on_output_limit: Literal["drop", "kill"] = "drop"
    privileged: bool = False
    cap_add: tuple[str, ...] = ()
    devices: tuple[str, ...] = ()
    security_opt: tuple[str, ...] = ()
    pid: str | None = None
    ipc: str | None = None
    userns: str | None = None
    runtime: str | None = None
    cgroup_parent: str | None = None
    sysctls: dict[str, str] = {}
    volumes_from: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if "\0" in self.image:
            raise ValueError("`image` contains a NUL byte")
        check_argv("command", [*self.argv, *self.entry])
        check_environment("env", self.env)
        for name in ("working_dir", "user", "network"):
            if (value := getattr(self, name)) is not None and (not value or "\0" in value):
                raise ValueError(f"`{name}` must not be empty or contain a NUL byte")
        if self.working_dir is not None and not self.working_dir.startswith("/"):
            raise ValueError("`working_dir` must be an absolute path")
        targets = [mount.target for mount in self.mounts]
        if len(set(targets)) < len(targets):
            raise ValueError("two `volumes` have the same place in the container")

    @property
    def argv(self) -> list[str]:
        """What the entry point is given; nothing leaves it to the image."""
        command = [self.command] if isinstance(self.command, str) else self.command
        return [*(command if any(command) else []), *self.args]

    @property
    def entry(self) -> list[str]:
        """The entry point in the image's stead, if there is one."""
        if self.entrypoint is None:
            return []
        return [self.entrypoint] if isinstance(self.entrypoint, str) else self.entrypoint

    @property
    def mounts(self) -> list[Volume]:
        """The volumes, read."""
        return [Volume.parse(text) for text in self.volumes]


def normalized(reference: str) -> str:
    """Return an image's full name: `ubuntu` is `docker.io/library/ubuntu:latest`."""
    name, digest_mark, digest = reference.partition("@")
    first, slash, rest = name.partition("/")
    if not slash or not ("." in first or ":" in first or first == "localhost"):
        first, rest = _DEFAULT_DOMAIN, name if slash else f"library/{name}"
    if first == "index.docker.io":
        first = _DEFAULT_DOMAIN
    tagged = rest if digest_mark or ":" in rest else f"{rest}:latest"
    return f"{first}/{tagged}{digest_mark}{digest}"
