"""Tests of runners.docker.params: the forms of a container task's parameters, and an image's full name."""

import pytest

from runners.docker.params import DockerParams, Volume, normalized
from runners.docker.runner import DockerRunner, Engine
from runners.errors import InvalidTaskError
from schemas import SchemaError, convert


def params(**given: object) -> DockerParams:
    return convert({"image": "i", **given}, DockerParams)


@pytest.mark.parametrize(
    ("given", "argv"),
    [
        ({}, []),
        ({"command": "ls"}, ["ls"]),
        ({"command": "ls -la"}, ["ls -la"]),
        ({"command": "ls", "args": ["-la", "/"]}, ["ls", "-la", "/"]),
        ({"args": ["-la"]}, ["-la"]),
        ({"command": ["ls", "-la"], "args": ["/"]}, ["ls", "-la", "/"]),
        ({"command": "echo", "args": [""]}, ["echo", ""]),
    ],
)
def test_what_the_entry_point_is_given(given: dict[str, object], argv: list[str]) -> None:
    """Command and arguments, neither split nor joined; nothing leaves it to the image."""
    assert params(**given).argv == argv


@pytest.mark.parametrize(
    ("text", "volume"),
    [
        ("/a:/b", Volume("/a", "/b")),
        ("/a:/b:ro", Volume("/a", "/b", read_only=True)),
        ("/a:/b:rw", Volume("/a", "/b")),
        ("data:/b/", Volume("data", "/b")),
    ],
)
def test_volumes(text: str, volume: Volume) -> None:
    """A host path or a name, a place in the container, and perhaps a mode."""
    assert Volume.parse(text) == volume
    assert volume.is_named == text.startswith("data")


@pytest.mark.parametrize(
    "text", ["", "/a", "a", ":/b", "/a:b", "./a:/b", "../a:/b", "/a:/b:rx", "/a:/b:ro:z", "a b:/c", "/a\0:/b", "-a:/b"]
)
def test_no_volumes(text: str) -> None:
    """What is none of these is refused with its text."""
    with pytest.raises(ValueError, match="the volume"):
        Volume.parse(text)


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ({"image": ""}, "length >= 1"),
        ({"image": "a\0"}, "`image` contains a NUL byte"),
        ({"args": ["a\0"]}, "contains a NUL byte"),
        ({"env": {"A=B": "c"}}, "`env` has the name 'A=B'"),
        ({"env": {"A": "\0"}}, "`env.A` contains a NUL byte"),
        ({"user": ""}, "`user` must not be empty"),
        ({"working_dir": "a"}, "`working_dir` must be an absolute path"),
        ({"volumes": ["/a:/x", "/b:/x/"]}, "the same place"),
        ({"volumes": ["nonsense"]}, "the volume 'nonsense'"),
        ({"pull": "sometimes"}, "pull"),
        ({"tty": True}, "tty"),
    ],
)
def test_parameters_that_are_refused(given: dict[str, object], text: str) -> None:
    """The text says what is wrong."""
    with pytest.raises(SchemaError, match=text):
        params(**given)


def test_the_image_is_required() -> None:
    """There is nothing to guess it from."""
    with pytest.raises(InvalidTaskError, match="image"):
        DockerRunner(Engine("unix:///nosuch")).parse_args("ls", "")


@pytest.mark.parametrize(
    ("reference", "name"),
    [
        ("ubuntu", "docker.io/library/ubuntu:latest"),
        ("ubuntu:24.04", "docker.io/library/ubuntu:24.04"),
        ("someone/tool", "docker.io/someone/tool:latest"),
        ("docker.io/library/ubuntu", "docker.io/library/ubuntu:latest"),
        ("index.docker.io/a/b", "docker.io/a/b:latest"),
        ("ghcr.io/a/b:1", "ghcr.io/a/b:1"),
        ("localhost/a", "localhost/a:latest"),
        ("127.0.0.1:5000/a", "127.0.0.1:5000/a:latest"),
        ("127.0.0.1:5000/a:1@sha256:00", "127.0.0.1:5000/a:1@sha256:00"),
        ("ubuntu@sha256:00", "docker.io/library/ubuntu@sha256:00"),
    ],
)
def test_an_images_full_name(reference: str, name: str) -> None:
    """As engines read it, so that an allow-list cannot be talked around."""
    assert normalized(reference) == name
