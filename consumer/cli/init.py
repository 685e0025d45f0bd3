"""`jetrunner init`: make the streams, the bucket and the consumers."""

from typing import Annotated, Literal

import msgspec
from cyclopts import Parameter, validators
from msgspec import structs

from consumer.errors import ConfigError
from consumer.plugins import find_runners
from consumer.topology import Topology, check_server
from schemas.subjects import is_category

from . import OK, OUR_ERROR
from .declared import Declared, survey
from .session import Connecting, Session, with_session


def init(
    *,
    category: Annotated[list[str] | None, Parameter(negative="")] = None,
    replicas: Annotated[int | None, Parameter(validator=validators.Number(gte=1, lte=5))] = None,
    output: Annotated[Literal["table", "json"], Parameter(name=["--output", "-o"])] = "table",
    connecting: Connecting | None = None,
) -> int:
    """Create the streams, the object store and the categories' consumers; what is there is left as it is.

    The exit code is 1 if something that is there differs from what we would have made.

    Parameters
    ----------
    category
        Create this category's consumer; may be repeated. By default those of all our runners.
    replicas
        How many servers of a cluster keep each stream.
    output
        How to report.
    """
    checked = _checked(category) if category else None

    async def create(session: Session) -> list[Declared]:
        categories = checked or list(find_runners(session.config))
        await check_server(session.connection)
        topology = Topology.of(session.config)
        topology = structs.replace(topology, replicas=replicas or topology.replicas)
        return [each async for each in survey(session.connection, topology, categories, create=True)]

    report = with_session(connecting or Connecting(), create)
    if output == "json":
        print(msgspec.json.format(msgspec.json.encode(report)).decode())
    else:
        _print_table(report)
    return OUR_ERROR if any(each.differences for each in report) else OK


def _checked(categories: list[str]) -> list[str]:
    for category in categories:
        if not is_category(category):
            raise ConfigError(f"the category {category!r} must be 1 to 64 characters of A-Z a-z 0-9 _ -")
    return list(dict.fromkeys(categories))


def _print_table(report: list[Declared]) -> None:
    width = max(len(each.name) for each in report)
    for each in report:
        print(f"{each.kind:<8}  {each.name:<{width}}  {each.state}")
        for difference in each.differences:
            print(f"{'':8}  {difference}")
