"""Tests of runners.docker.policy: each rule of the table, in each profile."""

from typing import Any, Literal

import pytest

from runners.context import Policy
from runners.docker.params import DockerParams, Volume
from runners.docker.policy import SENSITIVE, check
from runners.errors import PolicyDeniedError
from schemas import convert

Profile = Literal["open", "standard", "strict"]
LINKS = {"/home/me/link": "/etc/ssh", "/var/run": "/run"}


def checked(profile: Profile = "standard", *, protected: tuple[str, ...] = (), **given: Any) -> list[Volume]:
    """Check parameters against a profile, whose own settings begin with `its_`."""
    settings = {name.removeprefix("its_"): given.pop(name) for name in list(given) if name.startswith("its_")}
    params = convert({"image": "ubuntu", **given}, DockerParams)
    return check(params, Policy(profile=profile, **settings), protected, lambda path: LINKS.get(path, path))


OPENINGS = {
    "privileged": True,
    "cap_add": ["SYS_ADMIN"],
    "devices": ["/dev/kvm"],
    "security_opt": ["seccomp=unconfined"],
    "runtime": "other",
    "cgroup_parent": "/x",
    "sysctls": {"a": "b"},
    "volumes_from": ["other"],
}


@pytest.mark.parametrize("name", OPENINGS)
@pytest.mark.parametrize("profile", ["standard", "strict"])
def test_what_opens_the_host_is_refused_by_name(name: str, profile: Profile) -> None:
    """But in the profile `open`."""
    with pytest.raises(PolicyDeniedError, match=rf"rule docker\.{name}\)"):
        checked(profile, its_allow=("*",), **{name: OPENINGS[name]})
    checked("open", **{name: OPENINGS[name]})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("network", "host"),
        ("network", "container:other"),
        ("pid", "host"),
        ("pid", "container:other"),
        ("ipc", "host"),
        ("ipc", "shareable"),
        ("ipc", "container:other"),
        ("userns", "host"),
    ],
)
@pytest.mark.parametrize("profile", ["standard", "strict"])
def test_nobody_elses_namespaces(name: str, value: str, profile: Profile) -> None:
    """Neither the host's nor another container's."""
    with pytest.raises(PolicyDeniedError, match=rf"rule docker\.{name}\)"):
        checked(profile, its_allow=("*",), **{name: value})
    checked("open", **{name: value})


@pytest.mark.parametrize(
    "given", [{"network": "none"}, {"network": "bridge"}, {"network": "mine"}, {"ipc": "private"}, {"ipc": "none"}]
)
def test_namespaces_of_its_own(given: dict[str, str]) -> None:
    """What isolates, or is the engine's own network, is fine."""
    checked(**given)


@pytest.mark.parametrize("path", [*SENSITIVE, "/", "/etc/ssh", "/proc/1", "/var", "/run/docker.sock", "/home/me/link"])
def test_sensitive_paths(path: str) -> None:
    """A path that is one of them, is inside one, is above one, or leads there by a link."""
    with pytest.raises(PolicyDeniedError, match=r"rule docker\.volumes\)"):
        checked(volumes=[f"{path}:/x"])
    checked("open", volumes=[f"{path}:/x"])


@pytest.mark.parametrize("path", ["/home/me", "/srv", "/etcetera", "/tmp/x", "/var/lib/mine"])
def test_other_paths(path: str) -> None:
    """They are mounted as asked for."""
    assert checked(volumes=[f"{path}:/x"]) == [Volume(path, "/x")]


@pytest.mark.parametrize("path", ["/data/engine", "/data/engine/volumes", "/data", "/mine/creds"])
def test_the_engines_and_the_workers_own_paths(path: str) -> None:
    """They are as sensitive as the system's."""
    with pytest.raises(PolicyDeniedError, match="has to do with"):
        checked(volumes=[f"{path}:/x"], protected=("/data/engine",), its_protected=("/mine",))


def test_links_are_followed_before_they_are_mounted() -> None:
    """What was checked is what the container gets."""
    links = {"/home/a": "/home/b"}
    params = convert({"image": "i", "volumes": ["/home/a:/x"]}, DockerParams)
    assert check(params, Policy(), (), lambda path: links.get(path, path)) == [Volume("/home/b", "/x")]


@pytest.mark.parametrize("profile", ["standard", "strict"])
def test_volume_roots(profile: Profile) -> None:
    """Where there are roots, host paths are below them; a sensitive one stays so."""
    roots = {"its_volume_roots": ("/srv/data", "/etc"), "its_allow": ("*",)}
    read_only = profile == "strict"
    assert checked(profile, volumes=["/srv/data/a:/x"], **roots) == [Volume("/srv/data/a", "/x", read_only)]
    for path in ("/srv", "/srv/database", "/home", "/etc/ssh"):
        with pytest.raises(PolicyDeniedError, match=r"rule docker\.volumes\)"):
            checked(profile, volumes=[f"{path}:/x"], **roots)


def test_strict_without_roots_has_no_host_paths() -> None:
    """Named volumes there are, read-only."""
    with pytest.raises(PolicyDeniedError, match="volume_roots"):
        checked("strict", volumes=["/home/a:/x"], its_allow=("*",))
    assert checked("strict", volumes=["data:/x"], its_allow=("*",)) == [Volume("data", "/x", read_only=True)]


@pytest.mark.parametrize("image", ["ubuntu", "docker.io/ubuntu:22.04", "index.docker.io/library/ubuntu:1"])
def test_images_that_are_allowed(image: str) -> None:
    """By whatever name they are called."""
    checked("strict", image=image, its_allow=("ghcr.io/*", "docker.io/*ubuntu:*"))


@pytest.mark.parametrize(
    ("profile", "allow"), [("strict", ()), ("strict", ("ghcr.io/*",)), ("standard", ("ghcr.io/*",))]
)
def test_images_that_are_not_allowed(profile: Profile, allow: tuple[str, ...]) -> None:
    """A list is one in any profile, and strict without one allows none."""
    with pytest.raises(PolicyDeniedError, match=r"'docker.io/library/ubuntu:latest' .* \(rule docker\.image\)"):
        checked(profile, its_allow=allow)


def test_strict_has_no_network_and_no_root() -> None:
    """Neither by number nor by a name that the image could map to it."""
    for given, rule in (
        ({"network": "bridge"}, "network"),
        ({"user": "0"}, "user"),
        ({"user": "00:5"}, "user"),
        ({"user": "root"}, "user"),
    ):
        with pytest.raises(PolicyDeniedError, match=rf"rule docker\.{rule}\)"):
            checked("strict", its_allow=("*",), **given)
    checked("strict", its_allow=("*",), user="1000:1000", network="none")
