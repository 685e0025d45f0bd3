"""Tests of runners.docker.spec: what an engine is asked to create."""

from typing import Any

import pytest

from runners.context import Context, Policy
from runners.docker.params import DockerParams, Volume
from runners.docker.spec import DEADLINE_ALLOWANCE, Facts, apply_limits, body, labels
from runners.errors import LimitUnsupportedError, PolicyDeniedError
from schemas import AppliedLimit, Limits, Size, Task, convert


def made(context: Context | None = None, volumes: tuple[Volume, ...] = (), **given: Any) -> dict[str, Any]:
    """Return the body for some parameters."""
    context = context or Context()
    return body(
        convert({"image": "i", **given}, DockerParams), context, volumes, apply_limits(context, Facts(memory=True))
    )


def test_nothing_is_said_that_nobody_asked_for() -> None:
    """Command, user and directory are the image's; what is safe is said."""
    asked = made()
    assert asked.keys() == {
        "Image",
        "Env",
        "AttachStdin",
        "OpenStdin",
        "StdinOnce",
        "AttachStdout",
        "AttachStderr",
        "HostConfig",
    }
    assert asked["HostConfig"] == {
        "Init": True,
        "IpcMode": "private",
        "LogConfig": {"Type": "none", "Config": {}},
        "RestartPolicy": {"Name": "no"},
        "SecurityOpt": ["no-new-privileges"],
        "CapDrop": ["NET_RAW"],
        "Ulimits": [{"Name": "nofile", "Soft": 1024, "Hard": 4096}, {"Name": "core", "Soft": 0, "Hard": 0}],
        "PidsLimit": 1024,
    }


def test_the_engine_never_removes_the_container_itself() -> None:
    """Its exit code would go with it."""
    assert "AutoRemove" not in made()["HostConfig"]


def test_volumes_are_mounts() -> None:
    """A bind would make a directory that is missing."""
    volumes = (Volume("/a", "/b", read_only=True), Volume("data", "/c"))
    host = made(volumes=volumes)["HostConfig"]
    assert "Binds" not in host
    assert host["Mounts"] == [
        {"Type": "bind", "Source": "/a", "Target": "/b", "ReadOnly": True},
        {"Type": "volume", "Source": "data", "Target": "/c", "ReadOnly": False},
    ]


def test_limits_are_the_engines() -> None:
    """Memory has no swap beside it; CPU seconds warn a second before they kill."""
    limits = Limits(memory=Size(2**20), pids=7, cpus=0.5, nofile=99, cpu_seconds=3)
    host = made(Context(task=Task(limits=limits)))["HostConfig"]
    assert (host["Memory"], host["MemorySwap"], host["PidsLimit"], host["NanoCpus"]) == (2**20, 2**20, 7, 500_000_000)
    assert {"Name": "nofile", "Soft": 99, "Hard": 99} in host["Ulimits"]
    assert {"Name": "cpu", "Soft": 3, "Hard": 4} in host["Ulimits"]


def test_a_limit_that_the_engine_cannot_enforce() -> None:
    """It is said, and refused where it is required."""
    task = Task(limits=Limits(memory=Size(1)))
    applied = apply_limits(Context(task=task), Facts(memory=False))
    assert applied == {"memory": AppliedLimit(requested=1, enforced_by="none")}
    with pytest.raises(LimitUnsupportedError, match=r"`limits.memory` cannot be enforced"):
        apply_limits(Context(task=Task(limits=task.limits, limits_policy="require")), Facts(memory=False))


def test_a_categorys_limits_bound_the_tasks() -> None:
    """They apply where it asks for none, and refuse what is above them."""
    most = Limits(pids=5)
    assert apply_limits(Context(resource_limits=most), Facts())["pids"].requested == 5
    with pytest.raises(PolicyDeniedError, match=r"resource_limits\.pids"):
        apply_limits(Context(task=Task(limits=Limits(pids=6)), resource_limits=most), Facts())


def test_standard_input_ends_with_what_is_given() -> None:
    """Without any there is none to open."""
    asked = made(Context(task=Task(stdin="x")))
    assert (asked["OpenStdin"], asked["StdinOnce"], asked["AttachStdin"]) == (True, True, True)
    assert made()["OpenStdin"] is False


def test_the_open_profile_passes_on_what_is_asked_for() -> None:
    """There is nothing in its way, and nothing that undoes it."""
    host = made(
        Context(policy=Policy(profile="open")), privileged=True, pid="host", devices=["/dev/a", "/dev/b:/dev/c:r"]
    )["HostConfig"]
    assert (host["Privileged"], host["PidMode"]) == (True, "host")
    assert "SecurityOpt" not in host
    assert host["Devices"] == [
        {"PathOnHost": "/dev/a", "PathInContainer": "/dev/a", "CgroupPermissions": "rwm"},
        {"PathOnHost": "/dev/b", "PathInContainer": "/dev/c", "CgroupPermissions": "r"},
    ]


def test_the_strict_profile_leaves_little() -> None:
    """Nobody, no capabilities, no network, nothing to write but /tmp."""
    asked = made(Context(policy=Policy(profile="strict")))
    host = asked["HostConfig"]
    assert asked["User"] == "65534:65534"
    assert (host["CapDrop"], host["ReadonlyRootfs"], host["NetworkMode"]) == (["ALL"], True, "none")
    assert host["Tmpfs"].keys() == {"/tmp"}


def test_labels_say_whose_it_is_and_until_when() -> None:
    """The deadline leaves room for the grace and for clocks that differ."""
    context = Context(task=Task(id="t"), attempt=2, worker="w", grace=10)
    assert labels(context, "/lock", timeout=100, now=1000) == {
        "jetrunner.task": "t",
        "jetrunner.attempt": "2",
        "jetrunner.worker": "w",
        "jetrunner.lock": "/lock",
        "jetrunner.deadline": f"{1000 + 100 + 10 + DEADLINE_ALLOWANCE:.0f}",
    }
