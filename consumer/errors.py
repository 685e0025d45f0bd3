"""The errors that people see.

JetrunnerError                exit code 1
├── ConfigError               2   a bad key or value in the file, environment or command line
├── ConnectError              4   no server, or it refuses us
│   └── DisconnectedError     4   the connection was lost for good while we waited
├── NotFoundError             5   no such task
├── NotReadyError             1   the worker takes no tasks
├── ServerError               1   the embedded nats-server cannot be had
├── TopologyError             1   streams or consumers are not as declared
└── JetStreamError            1   the server answered a request with an error
"""

from typing import ClassVar


class JetrunnerError(Exception):
    """Base of the errors whose text is one sentence for a person."""

    exit_code: ClassVar[int] = 1


class ConfigError(JetrunnerError):
    """A bad key or value; the text names it and where it came from."""

    exit_code: ClassVar[int] = 2


class ConnectError(JetrunnerError):
    """The server cannot be reached, or refuses us."""

    exit_code: ClassVar[int] = 4


class DisconnectedError(ConnectError):
    """The connection was closed for good."""


class NotFoundError(JetrunnerError):
    """There is no such task."""

    exit_code: ClassVar[int] = 5


class NotReadyError(JetrunnerError):
    """A worker that was asked does not take tasks; the text says why."""


class ServerError(JetrunnerError):
    """The embedded nats-server is missing or does not start."""


class TopologyError(JetrunnerError):
    """A stream, consumer or bucket is missing or not as declared."""


class JetStreamError(JetrunnerError):
    """A JetStream API answer that is an error (ADR-1, ADR-7).

    Attributes:
        status: the HTTP-like code, such as 404 or 503.
        err_code: the server's own code, such as 10059; 0 if it gave none.
    """

    def __init__(self, status: int, err_code: int, description: str) -> None:
        super().__init__(f"{description} ({status}, {err_code})")
        self.status = status
        self.err_code = err_code
        self.description = description
