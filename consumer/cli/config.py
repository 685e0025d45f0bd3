"""`jetrunner config`: the values in force, and where each came from."""

import os
from pathlib import Path
from typing import Annotated, Literal

from consumer.config import Setting, settings
from consumer.connection import without_credentials

from .rendering import OUTPUT, print_json, print_table

_DEFAULT = "default"


def config(*, config: Path | None = None, output: Annotated[Literal["table", "json"], OUTPUT] = "table") -> None:
    """Print the values in force, and which file or variable each came from.

    Parameters
    ----------
    config
        Configuration file (TOML).
    output
        How to print.
    """
    known = [_discreet(setting) for setting in settings(config, os.environ)]
    if output == "json":
        print_json([{"key": each.key, "value": each.value, "from": each.origin or _DEFAULT} for each in known])
        return
    rows = [(each.key, _shown(each.value), each.origin or _DEFAULT) for each in known]
    print_table(("KEY", "VALUE", "FROM"), rows)


def _discreet(setting: Setting) -> Setting:
    """Leave a password out."""
    if setting.key == "nats.url" and isinstance(setting.value, str):
        return setting._replace(value=",".join(map(without_credentials, setting.value.split(","))))
    return setting


def _shown(value: object) -> str:
    match value:
        case None:
            return "-"
        case bool():
            return str(value).lower()
        case float():
            return f"{value:g}"
        case tuple():
            return ", ".join(map(str, value)) or "-"
    return str(value)
