"""The body of the request that creates a task's container (Docker Engine API, POST /containers/create)."""

import time
from collections.abc import Mapping, Sequence
from typing import Any, Final

from msgspec import Struct

from runners.context import Context
from runners.errors import LimitUnsupportedError
from runners.process.environment import task_variables
from runners.process.limits import merge, requested
from schemas import AppliedLimit

from .params import DockerParams, Volume
from .policy import NOBODY

TASK_LABEL: Final = "jetrunner.task"
ATTEMPT_LABEL: Final = "jetrunner.attempt"
WORKER_LABEL: Final = "jetrunner.worker"
LOCK_LABEL: Final = "jetrunner.lock"
"""The file that the container's owner holds locked as long as it lives."""
DEADLINE_LABEL: Final = "jetrunner.deadline"
"""Unix seconds after which no owner can still want the container."""

DEADLINE_ALLOWANCE: Final = 120.0
"""Seconds between a container's last regular moment and its deadline: clocks differ, and starts take their time."""
DEFAULT_PIDS: Final = 1024
_NOFILE: Final = (1024, 4096)
_STRICT_TMP: Final = {"/tmp": "mode=1777,noexec,nosuid,nodev"}  # noqa: S108 - the container's own


class Facts(Struct, frozen=True, kw_only=True):
    """What an engine can enforce, and where it keeps its own."""

    memory: bool = True
    pids: bool = True
    cpus: bool = True
    root: str = "/var/lib/docker"


def apply_limits(context: Context, facts: Facts) -> dict[str, AppliedLimit]:
    """Return a task's limits, and what enforces each.

    Raises:
        PolicyDeniedError: it asks for more than its category may have.
        LimitUnsupportedError: it requires one that this engine cannot enforce.
    """
    by = {
        "memory": "docker" if facts.memory else "none",
        "pids": "docker" if facts.pids else "none",
        "cpus": "docker" if facts.cpus else "none",
        "cpu_seconds": "rlimit",
        "nofile": "rlimit",
        "output": "worker",
    }
    wanted = requested(merge(context))
    missing = [f"`limits.{name}`" for name in wanted if by[name] == "none"]
    if missing and context.task.limits_policy == "require":
        raise LimitUnsupportedError(f"{' and '.join(missing)} cannot be enforced by this worker's Docker engine")
    return {name: AppliedLimit(requested=value, enforced_by=by[name]) for name, value in wanted.items()}  # type: ignore[arg-type]


def labels(context: Context, lock: str, timeout: float, now: float | None = None) -> dict[str, str]:
    """Return what tells a container's task and owner, and when it must be gone."""
    deadline = (time.time() if now is None else now) + timeout + context.grace + DEADLINE_ALLOWANCE
    return {
        TASK_LABEL: context.task.id or "",
        ATTEMPT_LABEL: str(context.attempt),
        WORKER_LABEL: context.worker,
        LOCK_LABEL: lock,
        DEADLINE_LABEL: f"{deadline:.0f}",
    }


def body(
    params: DockerParams, context: Context, volumes: Sequence[Volume], limits: Mapping[str, AppliedLimit]
) -> dict[str, Any]:
    """Return the request's body, but for the labels."""
    task, has_stdin = context.task, bool(context.task.stdin_bytes())
    given: dict[str, Any] = {
        "Cmd": params.argv or None,
        "Entrypoint": params.entry or None,
        "WorkingDir": task.cwd or params.working_dir,
        "User": params.user or (NOBODY if context.policy.profile == "strict" else None),
    }
    return {
        "Image": params.image,
        "Env": [f"{name}={value}" for name, value in {**params.env, **task_variables(context)}.items()],
        "AttachStdin": has_stdin,
        "OpenStdin": has_stdin,
        "StdinOnce": has_stdin,
        "AttachStdout": True,
        "AttachStderr": True,
        **{name: value for name, value in given.items() if value is not None},
        "HostConfig": _host_config(params, context, volumes, limits),
    }


def _host_config(
    params: DockerParams, context: Context, volumes: Sequence[Volume], limits: Mapping[str, AppliedLimit]
) -> dict[str, Any]:
    given: dict[str, Any] = {
        "NetworkMode": params.network,
        "PidMode": params.pid,
        "UsernsMode": params.userns,
        "Runtime": params.runtime,
        "CgroupParent": params.cgroup_parent,
        "Sysctls": params.sysctls,
        "VolumesFrom": [*params.volumes_from],
        "CapAdd": [*params.cap_add],
        "CapDrop": [*params.cap_drop],
        "SecurityOpt": [*params.security_opt],
        "Devices": [_device(text) for text in params.devices],
        "Privileged": params.privileged,
        "ReadonlyRootfs": params.read_only,
        "Mounts": [_mount(volume) for volume in volumes],
    }
    return {
        "Init": params.init,
        "IpcMode": params.ipc or "private",
        "LogConfig": {"Type": "none", "Config": {}},
        "RestartPolicy": {"Name": "no"},
        **{name: value for name, value in given.items() if value},
        **_hardening(params, context.policy.profile),
        **_resources(limits),
    }


def _hardening(params: DockerParams, profile: str) -> dict[str, Any]:
    match profile:
        case "standard":
            return {"SecurityOpt": ["no-new-privileges"], "CapDrop": [*{"NET_RAW": None, **_keys(params.cap_drop)}]}
        case "strict":
            return {
                "SecurityOpt": ["no-new-privileges"],
                "CapDrop": ["ALL"],
                "ReadonlyRootfs": True,
                "Tmpfs": _STRICT_TMP,
                "NetworkMode": "none",
            }
    return {}


def _keys(names: Sequence[str]) -> dict[str, None]:
    return dict.fromkeys(names)


def _resources(limits: Mapping[str, AppliedLimit]) -> dict[str, Any]:
    values = {name: limit.requested for name, limit in limits.items()}
    soft, hard = (int(values["nofile"]),) * 2 if "nofile" in values else _NOFILE
    ulimits = [{"Name": "nofile", "Soft": soft, "Hard": hard}, {"Name": "core", "Soft": 0, "Hard": 0}]
    if "cpu_seconds" in values:  # SIGXCPU at n; a hard limit of n would kill at once, and hide the cause
        seconds = int(values["cpu_seconds"])
        ulimits.append({"Name": "cpu", "Soft": seconds, "Hard": seconds + 1})
    resources: dict[str, Any] = {"Ulimits": ulimits, "PidsLimit": int(values.get("pids", DEFAULT_PIDS))}
    if "memory" in values:
        resources |= {"Memory": int(values["memory"]), "MemorySwap": int(values["memory"])}
    if "cpus" in values:
        resources["NanoCpus"] = round(values["cpus"] * 1e9)
    return resources


def _mount(volume: Volume) -> dict[str, Any]:
    """Return a mount, which never makes what is missing on the host; a bind would."""
    return {
        "Type": "volume" if volume.is_named else "bind",
        "Source": volume.source,
        "Target": volume.target,
        "ReadOnly": volume.read_only,
    }


def _device(text: str) -> dict[str, str]:
    host, _, rest = text.partition(":")
    container, _, permissions = rest.partition(":")
    return {"PathOnHost": host, "PathInContainer": container or host, "CgroupPermissions": permissions or "rwm"}
