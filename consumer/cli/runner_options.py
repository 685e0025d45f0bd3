"""The options of the built-in runners, and what the words of a command line mean to each of them."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final, Literal

import msgspec
from cyclopts import Parameter

from consumer.errors import ConfigError

from .values import content, file, pairs, text_of

USAGE: Final = {
    "command": "command -- /bin/ls -la",
    "script": "script --interpreter bash FILE -- ARGUMENT...",
    "docker": "docker IMAGE -- COMMAND ARGUMENT...",
    "http": "http URL",
}
"""How the work of the built-in runners is written."""

_FOR: Final = {
    "interpreter": "script",
    "on_worker": "script",
    "volume": "docker",
    "network": "docker",
    "user": "docker",
    "pull": "docker",
    "method": "http",
    "header": "http",
    "body": "http",
    "expected_status": "http",
    "follow_redirects": "http",
}
"""Which runner an option is for."""


@Parameter(name="*", group="Runner", negative="", show_default=False)
@dataclass(frozen=True, kw_only=True)
class RunnerOptions:
    """What the runners take."""

    command: Annotated[str | None, Parameter(allow_leading_hyphen=True)] = None
    """The runner's main parameter, instead of a word."""
    args: Annotated[str | None, Parameter(allow_leading_hyphen=True)] = None
    """The runner's parameters as JSON: a list (argv) or an object."""
    interpreter: str | None = None
    """Of a script; by default what its first line or extension says."""
    on_worker: bool = False
    """The script's FILE is on the worker, not here."""
    volume: tuple[str, ...] = ()
    """Of a container: /host:/container or /host:/container:ro; may be repeated."""
    network: str | None = None
    """Of a container: none, or a network of its engine."""
    user: str | None = None
    """Of a container: who it runs as."""
    pull: Literal["never", "if_missing", "always"] | None = None
    """When a container's image is pulled; by default if it is missing."""
    method: Annotated[str | None, Parameter(name=["--method", "-X"])] = None
    """Of an HTTP request."""
    header: Annotated[tuple[str, ...], Parameter(name=["--header", "-H"])] = ()
    """Of an HTTP request: NAME:VALUE; may be repeated."""
    body: Annotated[str | None, Parameter(name=["--body", "-d"], allow_leading_hyphen=True)] = None
    """Of an HTTP request: text, @FILE, or - for stdin."""
    expected_status: str | None = None
    """Of an HTTP response, if it is a success: such as 200,404 or 2xx."""
    follow_redirects: bool = False
    """Follow the redirects of an HTTP request, up to 5."""

    def work(self, category: str, words: Sequence[str]) -> dict[str, Any]:
        """Return the `command` and `args` that words and options describe, if they do.

        Raises:
            ConfigError: they describe too much, or what cannot be read; the text says what is wrong.
        """
        self._check_category(category)
        given, words = _json(self.args), [*words]
        parameters = {**(given if isinstance(given, dict) else {}), **self._parameters(category, words)}
        argv = given if isinstance(given, list) else parameters.pop("args", None)
        command = self.command
        if command is None and words and self._begins_with_command(category):
            command = words.pop(0)
        if words and category == "http":
            raise ConfigError(f"an http task takes no arguments, but there is {words[0]!r}")
        if words and argv:
            raise ConfigError("the arguments are given twice: with --args and as words")
        return _fields(command, parameters, words or argv)

    def _check_category(self, category: str) -> None:
        for name, runner in _FOR.items():
            if getattr(self, name) and category != runner:
                raise ConfigError(f"--{name.replace('_', '-')} is for {runner} tasks, not for {category}")

    def _begins_with_command(self, category: str) -> bool:
        return self.on_worker if category == "script" else category in USAGE

    def _parameters(self, category: str, words: list[str]) -> dict[str, Any]:
        """Take from the words what is neither command nor argument, and add what the options say."""
        match category:
            case "script":
                return self._script(words)
            case "docker":
                return self._container(words)
            case "http":
                return self._request()
        return {}

    def _script(self, words: list[str]) -> dict[str, Any]:
        parameters: dict[str, Any] = {}
        if words and not self.on_worker and self.command is None:
            name = words.pop(0)
            text = text_of(name, content("script", name) if name == "-" else file("script", name))
            parameters = {"script": text}
            if self.interpreter is None:
                parameters |= _interpreter(name, text)
        return parameters | ({"interpreter": self.interpreter} if self.interpreter else {})

    def _container(self, words: list[str]) -> dict[str, Any]:
        parameters: dict[str, Any] = {"image": words.pop(0)} if words else {}
        if self.volume:
            parameters["volumes"] = [*self.volume]
        given = {"network": self.network, "user": self.user, "pull": self.pull}
        return parameters | {name: value for name, value in given.items() if value}

    def _request(self) -> dict[str, Any]:
        parameters: dict[str, Any] = {}
        if self.method:
            parameters["method"] = self.method
        if self.header:
            headers = pairs("--header", self.header, separator=":")
            parameters["headers"] = {name.strip(): value.strip() for name, value in headers.items()}
        if self.body is not None:
            parameters["body"] = text_of("--body", content("--body", self.body))
        if self.expected_status:
            parameters["expected_status"] = self.expected_status
        if self.follow_redirects:
            parameters["follow_redirects"] = True
        return parameters


def _fields(command: str | None, parameters: dict[str, Any], argv: Any) -> dict[str, Any]:
    fields: dict[str, Any] = {} if command is None else {"command": command}
    if parameters:
        fields["args"] = {**parameters, "args": argv} if argv else parameters
    elif argv:
        fields["args"] = argv
    return fields


def _json(text: str | None) -> Any:
    if text is None:
        return None
    try:
        value = msgspec.json.decode(text)
    except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
        raise ConfigError(f"--args is not JSON: {error}") from None
    if not isinstance(value, list | dict):
        raise ConfigError("--args must be a JSON list or object")
    return value


def _interpreter(name: str, text: str) -> dict[str, list[str]]:
    """Return the interpreter that a script's first line names, as the kernel reads it (execve(2)), or its extension.

    The worker sees neither FILE's name nor cares for the first line.

    Raises:
        ConfigError: neither names one.
    """
    from runners.script import INTERPRETERS  # noqa: PLC0415 - only scripts need the runner

    if text.startswith("#!") and (words := text.partition("\n")[0][2:].strip().split(maxsplit=1)):
        return {"interpreter": words}
    extension = Path(name).suffix
    if extension in INTERPRETERS:
        return {"interpreter": [INTERPRETERS[extension]]}
    if extension:
        raise ConfigError(f"{name} has no #! line: name its --interpreter")
    return {}
