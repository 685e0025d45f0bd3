"""What a container may see of its host: refused before anything is created, each refusal by its rule's name.

| rule | open | standard | strict |
|---|---|---|---|
| docker.image | any, or what `allow` names | the same | what `allow` names |
| docker.privileged, .cap_add, .devices, .security_opt, .runtime | any | none | none |
| docker.cgroup_parent, .sysctls, .volumes_from | any | none | none |
| docker.network, .pid, .ipc, .userns | any | not the host's or another container's | the same; no network |
| docker.volumes | any | nothing sensitive; below `volume_roots` if there are any | below `volume_roots`, read-only |
| docker.user | any | any | a numeric id, not 0 |
"""

import os
from collections.abc import Callable, Iterable, Sequence
from fnmatch import fnmatchcase
from pathlib import PurePosixPath
from typing import Final

from msgspec import structs

from runners.context import Policy
from runners.errors import PolicyDeniedError

from .params import DockerParams, Volume, normalized

SENSITIVE: Final = ("/etc", "/proc", "/sys", "/dev", "/boot", "/root", "/run", "/var/run", "/var/lib/docker")
"""What no container may have of the host, nor what is inside or above it."""
NOBODY: Final = "65534:65534"
"""Who a container runs as in the profile `strict`, unless the task says otherwise."""

_OPENING: Final = (
    "privileged",
    "cap_add",
    "devices",
    "security_opt",
    "runtime",
    "cgroup_parent",
    "sysctls",
    "volumes_from",
)
_NAMESPACES: Final = ("network", "pid", "ipc", "userns")
_OWN_IPC: Final = frozenset({"private", "none"})


def check(
    params: DockerParams, policy: Policy, protected: Iterable[str], resolve: Callable[[str], str] = os.path.realpath
) -> list[Volume]:
    """Return the volumes with their sources resolved, as the policy allows them.

    `protected` are paths that are as sensitive as SENSITIVE; `resolve` follows a path's links, which may block.

    Raises:
        PolicyDeniedError: the policy forbids the task; the text names the rule.
    """
    _check_image(params.image, policy)
    if policy.profile != "open":
        _check_openings(params, policy)
        _check_namespaces(params, policy)
    if policy.profile == "strict":
        _check_strict(params)
    sensitive = [*dict.fromkeys(resolve(path) for path in (*SENSITIVE, *policy.protected, *protected))]
    roots = [resolve(root) for root in policy.volume_roots]
    return [_allowed(volume, policy, sensitive, roots, resolve) for volume in params.mounts]


def _check_image(image: str, policy: Policy) -> None:
    name = normalized(image)
    if (policy.allow or policy.profile == "strict") and not any(fnmatchcase(name, glob) for glob in policy.allow):
        raise PolicyDeniedError(f"the image {name!r} is not in runners.docker.allow (rule docker.image)")


def _check_openings(params: DockerParams, policy: Policy) -> None:
    for name in _OPENING:
        if getattr(params, name):
            raise PolicyDeniedError(f"the profile `{policy.profile}` allows no `{name}` (rule docker.{name})")


def _check_namespaces(params: DockerParams, policy: Policy) -> None:
    for name in _NAMESPACES:
        value = getattr(params, name)
        if value is None or (name == "ipc" and value in _OWN_IPC):
            continue
        if name != "network" or value == "host" or value.startswith("container:"):
            raise PolicyDeniedError(
                f"the profile `{policy.profile}` allows no `{name}` of {value!r} (rule docker.{name})"
            )


def _check_strict(params: DockerParams) -> None:
    if params.network not in (None, "none"):
        raise PolicyDeniedError("the profile `strict` allows no `network` but none (rule docker.network)")
    user = (params.user or NOBODY).partition(":")[0]
    if not user.isdecimal() or not int(user):
        raise PolicyDeniedError(
            "the profile `strict` allows no `user` but a numeric id other than 0 (rule docker.user)"
        )


def _allowed(
    volume: Volume, policy: Policy, sensitive: Sequence[str], roots: Sequence[str], resolve: Callable[[str], str]
) -> Volume:
    strict = policy.profile == "strict"
    if not volume.is_named:
        volume = structs.replace(volume, source=resolve(volume.source))
        _check_path(volume.source, policy, sensitive, roots)
    return structs.replace(volume, read_only=volume.read_only or strict)


def _check_path(source: str, policy: Policy, sensitive: Sequence[str], roots: Sequence[str]) -> None:
    if policy.profile == "open":
        return
    path = PurePosixPath(source)
    if (roots or policy.profile == "strict") and not any(path.is_relative_to(root) for root in roots):
        raise PolicyDeniedError(f"the volume {source!r} is not below runners.docker.volume_roots (rule docker.volumes)")
    if (part := next((other for other in sensitive if _touches(path, other)), None)) is not None:
        raise PolicyDeniedError(
            f"the profile `{policy.profile}` allows no volume {source!r}: it has to do with {part!r}"
            " (rule docker.volumes)"
        )


def _touches(path: PurePosixPath, sensitive: str) -> bool:
    """Tell whether a path is, is inside, or is above a sensitive one."""
    return path.is_relative_to(sensitive) or PurePosixPath(sensitive).is_relative_to(path)
