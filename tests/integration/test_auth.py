"""Logging in to a real nats-server, with what contexts and NATS_* variables say."""

import asyncio
import json
import re
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Final

import pytest

from consumer.config import NatsConfig
from consumer.connection import connect
from consumer.errors import ConfigError, ConnectError
from consumer.nats_context import resolve
from consumer.server import find_binary

LISTENING: Final = re.compile(r"Listening for client connections on (\S+)")
READY: Final = "Server is ready"
TIMEOUT: Final = 2.0

PASSWORD: Final = 'authorization { user: alice, password: "p@ss/word" }'
TOKEN: Final = "authorization { token: s3cr3t }"
TLS: Final = 'tls {{ cert_file: "{0}/server.pem", key_file: "{0}/server.key", ca_file: "{0}/ca.pem", {1} }}'

CERTIFICATES: Final = """
new() { openssl req -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes "$@"; }
new -x509 -days 2 -subj /CN=ca -addext keyUsage=critical,keyCertSign -keyout ca.key -out ca.pem
printf 'subjectAltName = IP:127.0.0.1\\nauthorityKeyIdentifier = keyid\\n' > extensions
for name in server client; do
    new -subj "/CN=$name" -keyout "$name.key" -out "$name.csr"
    openssl x509 -req -in "$name.csr" -CA ca.pem -CAkey ca.key -days 2 -extfile extensions -out "$name.pem"
done
openssl ec -in client.key -aes256 -passout pass:secret -out locked.key
"""

Serve = Callable[[str], str]


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Serve]:
    """Start nats-servers with a configuration, each on a free port, and return their addresses."""
    with ExitStack() as stack:

        def start(configuration: str) -> str:
            file = tmp_path / "nats-server.conf"
            file.write_text(f"server_name: test\n{configuration}\n")
            command = [str(find_binary()), "-c", str(file), "-a", "127.0.0.1", "-p", "-1"]
            server = stack.enter_context(subprocess.Popen(command, stderr=subprocess.PIPE, text=True))
            assert server.stderr is not None
            log = ""
            while READY not in log:
                line = server.stderr.readline()
                assert line, log
                log += line
            drain = threading.Thread(target=server.stderr.read)
            drain.start()
            stack.callback(drain.join)
            stack.callback(server.terminate)
            address = LISTENING.search(log)
            assert address, log
            return address[1]

        yield start


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with a CA, and what a server and a client need."""
    directory = tmp_path_factory.mktemp("certificates")
    subprocess.run(["sh", "-euc", CERTIFICATES], cwd=directory, check=True, capture_output=True)
    return directory


def log_in(**environ: str) -> str:
    """Connect, and return the address of the server that let us in."""
    options = resolve(NatsConfig(), {"HOME": "/none", "NATS_TIMEOUT": f"{TIMEOUT:g}s", **environ})
    assert options is not None

    async def main() -> str:
        async with connect(options) as connection:
            return connection.server

    return asyncio.run(main())


def refusal(**environ: str) -> str:
    """Return why we are not let in; it must not take longer than the time-out."""
    start = time.monotonic()
    with pytest.raises(ConnectError) as caught:
        log_in(**environ)
    assert time.monotonic() - start < TIMEOUT + 1
    return str(caught.value)


def test_a_user_and_password_of_variables(serve: Serve) -> None:
    """NATS_USER with NATS_PASSWORD."""
    address = serve(PASSWORD)
    assert log_in(NATS_URL=f"nats://{address}", NATS_USER="alice", NATS_PASSWORD="p@ss/word") == address


def test_a_user_and_password_of_a_url(serve: Serve) -> None:
    """What a URL must encode arrives decoded, which nats-py alone does not do."""
    address = serve(PASSWORD)
    assert log_in(NATS_URL=f"nats://alice:p%40ss%2Fword@{address}") == address


def test_a_user_and_password_of_the_selected_context(serve: Serve, tmp_path: Path) -> None:
    """With nothing but what `nats context save --select` leaves."""
    address = serve(PASSWORD)
    contexts = tmp_path / "nats" / "context"
    contexts.mkdir(parents=True)
    (tmp_path / "nats" / "context.txt").write_text("mine")
    (contexts / "mine.json").write_text(json.dumps({"url": address, "user": "alice", "password": "p@ss/word"}))
    assert log_in(XDG_CONFIG_HOME=str(tmp_path)) == address


@pytest.mark.parametrize("variable", ["NATS_TOKEN", "NATS_USER"])
def test_a_token(serve: Serve, variable: str) -> None:
    """NATS_TOKEN, or NATS_USER without a password."""
    address = serve(TOKEN)
    assert log_in(NATS_URL=address, **{variable: "s3cr3t"}) == address


@pytest.mark.parametrize(
    ("configuration", "environ"),
    [
        (PASSWORD, {}),
        (PASSWORD, {"NATS_USER": "alice", "NATS_PASSWORD": "wrong"}),
        (PASSWORD, {"NATS_TOKEN": "wrong"}),
        (TOKEN, {"NATS_TOKEN": "wrong"}),
    ],
)
def test_a_wrong_login_is_refused_at_once(serve: Serve, configuration: str, environ: dict[str, str]) -> None:
    """The error says where and why, and not with what."""
    address = serve(configuration)
    expected = f"cannot connect to nats://{address}: nats: 'Authorization Violation'"
    assert refusal(NATS_URL=address, **environ) == expected


@pytest.mark.parametrize("scheme", ["tls", "nats"])
def test_a_login_is_not_sent_in_the_clear(serve: Serve, certificates: Path, scheme: str) -> None:
    """Who asks for TLS, with tls:// or with certificates, gets no connection without it."""
    address = serve(TOKEN)
    environ = {"NATS_CA": str(certificates / "ca.pem")} if scheme == "nats" else {}
    reason = refusal(NATS_URL=f"{scheme}://{address}", NATS_TOKEN="s3cr3t", **environ)
    assert reason == f"cannot connect to {scheme}://{address}: the server does not offer TLS"


@pytest.mark.parametrize("choice", ["", "allow_non_tls: true"])
def test_tls_with_a_ca_of_our_own(serve: Serve, certificates: Path, choice: str) -> None:
    """NATS_CA takes the place of the system's; so it does where the server leaves the choice."""
    address = serve(f"{TLS.format(certificates, '')}\n{choice}")
    assert log_in(NATS_URL=f"tls://{address}", NATS_CA=str(certificates / "ca.pem")) == address


def test_an_unknown_ca_is_refused(serve: Serve, certificates: Path) -> None:
    """A server that the system's authorities do not vouch for is not trusted."""
    address = serve(TLS.format(certificates, ""))
    reason = refusal(NATS_URL=f"tls://{address}")
    assert f"tls://{address}" in reason
    assert "certificate verify failed" in reason


def test_a_client_certificate(serve: Serve, certificates: Path) -> None:
    """NATS_CERT and NATS_KEY, for a server that asks who we are."""
    address = serve(TLS.format(certificates, "verify: true"))
    environ = {"NATS_URL": address, "NATS_CA": f"{certificates}/ca.pem"}
    identity = {"NATS_CERT": f"{certificates}/client.pem", "NATS_KEY": f"{certificates}/client.key"}
    assert log_in(**environ, **identity) == address
    assert "certificate required" in refusal(**environ)


def test_tls_before_anything_else(serve: Serve, certificates: Path, tmp_path: Path) -> None:
    """`tls_first` in the context, for a server that waits for the handshake."""
    address = serve(TLS.format(certificates, "handshake_first: true"))
    context = tmp_path / "first.json"
    context.write_text(json.dumps({"url": address, "ca": f"{certificates}/ca.pem", "tls_first": True}))
    assert log_in(NATS_CONTEXT=str(context)) == address


@pytest.mark.parametrize(
    ("key", "reason"),
    [
        ("server.key", "{0}/client.pem is no certificate for the key {0}/server.key"),
        ("locked.key", "its private key is encrypted, which jetrunner does not support"),
    ],
)
def test_an_unusable_key_is_refused(certificates: Path, key: str, reason: str) -> None:
    """Another's key, or one that would ask for a password on the terminal."""
    with pytest.raises(ConfigError) as caught:
        log_in(NATS_URL="a", NATS_CERT=f"{certificates}/client.pem", NATS_KEY=f"{certificates}/{key}")
    assert str(caught.value) == f"NATS_CERT: {reason.format(certificates)}"
