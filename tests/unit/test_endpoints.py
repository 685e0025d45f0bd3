"""Where the worker itself is connected."""

import pytest

from consumer.endpoints import own_endpoints


@pytest.mark.parametrize(
    ("server", "docker", "endpoints"),
    [
        ("127.0.0.1:4222", "", ("127.0.0.1:4222",)),
        ("", "", ()),
        ("n1:4222", "tcp://10.0.0.1:2376", ("n1:4222", "10.0.0.1:2376")),
        ("n1:4222", "tcp://engine", ("n1:4222", "engine:2375")),
        ("n1:4222", "unix:///var/run/docker.sock", ("n1:4222",)),
        ("n1:4222", "tcp://engine:x", ("n1:4222",)),
    ],
)
def test_own_endpoints(server: str, docker: str, endpoints: tuple[str, ...]) -> None:
    """The NATS server, and a Docker engine that is reached over TCP."""
    assert own_endpoints(server, {"DOCKER_HOST": docker}) == endpoints
