"""A task's fields as they may be shown: without its secrets."""

from collections.abc import Iterator
from typing import Any, Final

from runners.redaction import REPLACEMENT, Secrets, named_like_secrets

_HIDDEN: Final = REPLACEMENT.decode()


def without_secrets(fields: dict[str, Any]) -> dict[str, Any]:
    """Return a task's fields with the values of `secret_env`, and of `env` that are named like secrets, replaced.

    They are replaced wherever they are, in a fallback or an argument, too; short ones only where they were given.
    """
    return _hide_fields(fields, Secrets(_secrets(fields)))


def _secrets(value: object) -> Iterator[str]:
    match value:
        case dict():
            yield from named_like_secrets(_texts(value.get("env"))).values()
            yield from _texts(value.get("secret_env")).values()
            for inner in value.values():
                yield from _secrets(inner)
        case list():
            for inner in value:
                yield from _secrets(inner)


def _texts(value: object) -> dict[str, str]:
    if not isinstance(value, dict):
        return {}
    return {name: inner for name, inner in value.items() if isinstance(name, str) and isinstance(inner, str)}


def _hide(value: Any, secrets: Secrets) -> Any:
    match value:
        case str():
            return secrets.redact_text(value)
        case list():
            return [_hide(inner, secrets) for inner in value]
        case dict():
            return _hide_fields(value, secrets)
    return value


def _hide_fields(fields: dict[str, Any], secrets: Secrets) -> dict[str, Any]:
    shown = {name: _hide(inner, secrets) for name, inner in fields.items()}
    if named := named_like_secrets(_texts(fields.get("env"))):
        shown["env"] |= dict.fromkeys(named, _HIDDEN)
    if secret := fields.get("secret_env"):
        shown["secret_env"] = dict.fromkeys(secret, _HIDDEN) if isinstance(secret, dict) else _HIDDEN
    return shown
