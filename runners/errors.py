"""What can go wrong with a task, as exceptions, and what each means in its Result.

RunnerError
├── InvalidTaskError           error    parameter  invalid_task
├── PolicyDeniedError          error    parameter  policy_denied
├── LimitUnsupportedError      error    parameter  limit_unsupported
├── UnknownCategoryError       error    parameter  unknown_category
├── StartError                 the task cannot be started because of the task itself
│   ├── CommandNotFoundError       failed   execution  command_not_found        127
│   ├── InterpreterNotFoundError   failed   execution  interpreter_not_found    127
│   ├── NotExecutableError         failed   execution  not_executable           126
│   ├── ExecFormatError            failed   execution  exec_format_error        126
│   ├── ArgumentTooLongError       failed   execution  argument_too_long        126
│   ├── ScriptNotFoundError        failed   execution  script_not_found         127
│   ├── NotReadableError           failed   execution  not_readable             126
│   ├── BadCwdError                failed   execution  bad_cwd
│   ├── ImageNotFoundError         failed   execution  image_not_found
│   └── ContainerConfigError       failed   execution  container_config
├── NetworkError               the other end could not be reached, or did not keep to the protocol
│   ├── DnsError                   failed   network    dns_error
│   ├── ConnectFailedError         failed   network    connect_error
│   ├── ConnectTimeoutError        failed   network    connect_timeout
│   ├── TlsError                   failed   network    tls_error
│   ├── HttpProtocolError          failed   network    http_protocol
│   └── ReadFailedError            failed   network    read_error
├── GuardError                 the request would lead where no task may go
│   ├── AddressBlockedError        failed   execution  address_blocked
│   ├── RedirectBlockedError       failed   execution  redirect_blocked
│   └── TooManyRedirectsError      failed   execution  too_many_redirects
├── SpawnFailedError           error    system     spawn_failed
├── DockerUnavailableError     error    system     docker_unavailable
├── DockerUnresponsiveError    error    system     docker_unresponsive
├── ContainerLostError         error    system     container_lost
├── ImagePullFailedError       error    network    image_pull_failed
└── InternalError              error    system     internal
"""

from typing import ClassVar

from msgspec import Struct, structs

from schemas import Cause, ErrorClass, Status


class Outcome(Struct, frozen=True, kw_only=True):
    """How a run ended, as far as its Runner can tell; the base class adds the rest of the Result."""

    status: Status = Status.SUCCESS
    error_class: ErrorClass | None = None
    code: str | None = None
    message: str = ""
    retryable: bool = False
    retry_after: float | None = None
    """Seconds that the other end asked us to wait before another try."""


SUCCESS = Outcome()


def failed(code: str, message: str) -> Outcome:
    """Return the outcome of a run that failed by its own doing."""
    return Outcome(status=Status.FAILED, error_class=ErrorClass.EXECUTION, code=code, message=message)


def interrupted(cause: Cause, message: str) -> Outcome:
    """Return the outcome of a run that was ended from outside."""
    status, error_class, code, retryable = _INTERRUPTIONS[cause]
    return Outcome(status=status, error_class=error_class, code=code, message=message, retryable=retryable)


_INTERRUPTIONS = {
    Cause.TIMEOUT: (Status.TIMEOUT, ErrorClass.TIMEOUT, "timeout", False),
    Cause.STOP: (Status.CANCELED, ErrorClass.EXECUTION, "stopped", False),
    Cause.KILL: (Status.CANCELED, ErrorClass.EXECUTION, "killed", False),
    Cause.OUTPUT_LIMIT: (Status.FAILED, ErrorClass.EXECUTION, "output_limit", False),
    Cause.SHUTDOWN: (Status.ERROR, ErrorClass.SYSTEM, "worker_shutdown", True),
    Cause.LOST: (Status.ERROR, ErrorClass.SYSTEM, "worker_lost", True),
}


class RunnerError(Exception):
    """A task that was refused, could not be started, or fell victim to its worker.

    The text is one sentence for a person. `exit_code` is the shell's convention for a failed exec, None elsewhere.
    """

    status: ClassVar[Status] = Status.ERROR
    error_class: ClassVar[ErrorClass] = ErrorClass.SYSTEM
    code: ClassVar[str] = "internal"
    retryable: ClassVar[bool] = False
    exit_code: ClassVar[int | None] = None

    @property
    def outcome(self) -> Outcome:
        return Outcome(
            status=self.status,
            error_class=self.error_class,
            code=self.code,
            message=str(self),
            retryable=self.retryable,
        )


class InvalidTaskError(RunnerError):
    """The task or its parameters are malformed."""

    error_class = ErrorClass.PARAMETER
    code = "invalid_task"


class PolicyDeniedError(RunnerError):
    """The worker's policy forbids the task; the text names the rule."""

    error_class = ErrorClass.PARAMETER
    code = "policy_denied"


class LimitUnsupportedError(RunnerError):
    """A required limit cannot be enforced here."""

    error_class = ErrorClass.PARAMETER
    code = "limit_unsupported"


class UnknownCategoryError(RunnerError):
    """No runner is registered for the category."""

    error_class = ErrorClass.PARAMETER
    code = "unknown_category"


class StartError(RunnerError):
    """The task cannot be started, and would not be on another try."""

    status = Status.FAILED
    error_class = ErrorClass.EXECUTION


class CommandNotFoundError(StartError):
    """ENOENT at exec."""

    code = "command_not_found"
    exit_code = 127


class InterpreterNotFoundError(StartError):
    """What is to run the file is not there: named by the task, the file's first line, or its ELF header."""

    code = "interpreter_not_found"
    exit_code = 127


class NotExecutableError(StartError):
    """EACCES at exec: no permission, or a directory."""

    code = "not_executable"
    exit_code = 126


class ExecFormatError(StartError):
    """ENOEXEC at exec: neither a binary for this machine nor a script with a first line."""

    code = "exec_format_error"
    exit_code = 126


class ArgumentTooLongError(StartError):
    """E2BIG at exec."""

    code = "argument_too_long"
    exit_code = 126


class ScriptNotFoundError(StartError):
    """There is no file where the script should be."""

    code = "script_not_found"
    exit_code = 127


class NotReadableError(StartError):
    """The script is no regular file, or closed to us."""

    code = "not_readable"
    exit_code = 126


class BadCwdError(StartError):
    """The working directory is missing, no directory, or closed to us."""

    code = "bad_cwd"


class ImageNotFoundError(StartError):
    """There is no such image, here or at its registry."""

    code = "image_not_found"


class ContainerConfigError(StartError):
    """The Docker engine refuses to make or start such a container."""

    code = "container_config"


class NetworkError(RunnerError):
    """A request failed on its way.

    `retryable` says whether another try may help; whether it does no harm depends on the request.
    """

    status = Status.FAILED
    error_class = ErrorClass.NETWORK

    def __init__(self, message: str, *, retryable: bool | None = None) -> None:
        super().__init__(message)
        self._retryable = type(self).retryable if retryable is None else retryable

    @property
    def outcome(self) -> Outcome:
        return structs.replace(super().outcome, retryable=self._retryable)


class DnsError(NetworkError):
    """The host's name could not be resolved."""

    code = "dns_error"
    retryable = True


class ConnectFailedError(NetworkError):
    """No connection: refused, unreachable, or no descriptor to spare."""

    code = "connect_error"
    retryable = True


class ConnectTimeoutError(NetworkError):
    """No connection in time."""

    code = "connect_timeout"
    retryable = True


class TlsError(NetworkError):
    """No secure connection: a certificate that is not trusted, or a handshake that failed."""

    code = "tls_error"


class HttpProtocolError(NetworkError):
    """What the server sent is not HTTP, or more of it than we take."""

    code = "http_protocol"
    retryable = True


class ReadFailedError(NetworkError):
    """The connection broke, or fell silent, before the whole response was there."""

    code = "read_error"
    retryable = True


class GuardError(RunnerError):
    """A request or redirect that is not followed; nothing was sent there."""

    status = Status.FAILED
    error_class = ErrorClass.EXECUTION


class AddressBlockedError(GuardError):
    """The task's URL leads to an address that it may not reach."""

    code = "address_blocked"


class RedirectBlockedError(GuardError):
    """A redirect leads where it may not."""

    code = "redirect_blocked"


class TooManyRedirectsError(GuardError):
    """One redirect after the other, more than the task allows."""

    code = "too_many_redirects"


class SpawnFailedError(RunnerError):
    """The machine had no process, memory or descriptor to spare."""

    code = "spawn_failed"
    retryable = True


class DockerUnavailableError(RunnerError):
    """The Docker engine cannot be reached, or has nothing to spare."""

    code = "docker_unavailable"
    retryable = True


class DockerUnresponsiveError(RunnerError):
    """The Docker engine does not answer in time."""

    code = "docker_unresponsive"
    retryable = True


class ContainerLostError(RunnerError):
    """The container is gone, or was ended with its engine."""

    code = "container_lost"
    retryable = True


class ImagePullFailedError(RunnerError):
    """The image's registry could not be reached, or was too slow."""

    error_class = ErrorClass.NETWORK
    code = "image_pull_failed"
    retryable = True


class InternalError(RunnerError):
    """A defect in a runner."""

    retryable = True
