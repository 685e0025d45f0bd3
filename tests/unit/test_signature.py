"""Tests of runners.functions.signature: what a task must give is what a function's signature says."""

from collections.abc import Callable
from datetime import datetime
from typing import Annotated, Any

import msgspec
import pytest
from msgspec import Meta, Struct

from runners import TaskContext
from runners.functions.context import Facts
from runners.functions.signature import read_signature
from schemas import Duration, SchemaError, convert, json_schema

SECOND = Duration(1)


class Size(Struct, forbid_unknown_fields=True):
    """Parameters that someone has written down."""

    width: int
    height: int = 5


def context() -> TaskContext:
    return TaskContext(Facts("t", "c", 1, 0, "w", {}), None)  # type: ignore[arg-type]  # nobody reports


def given(function: Callable[..., Any], **args: Any) -> dict[str, Any]:
    signature = read_signature(function)
    return signature.arguments(convert(args, signature.params_type), context)


def test_parameters_are_taken_by_name_with_their_types_and_defaults() -> None:
    """What is missing has its default; what is not of its type is refused."""

    def work(size: Annotated[int, Meta(ge=1)], at: datetime | None = None, wait: Duration = SECOND) -> None: ...

    assert given(work, size=3, wait="1m") == {"size": 3, "at": None, "wait": 60}
    for args, complaint in (
        ({}, "object missing required field `size`"),
        ({"size": 0}, "`size`: expected `int` >= 1"),
        ({"size": "3"}, "`size`: expected `int`, got `str`"),
        ({"size": 3, "sise": 3}, "unknown field `sise`"),
    ):
        with pytest.raises(SchemaError, match=complaint):
            given(work, **args)


def test_a_mutable_default_is_fresh_for_each_call() -> None:
    """No task sees what another has done to it."""

    def work(names: list[str] = ["a"], size: Size = Size(1)) -> None: ...  # noqa: B006, B008 - the point

    first, second = given(work), given(work)
    assert first == second == {"names": ["a"], "size": Size(1)}
    assert first["names"] is not second["names"]


def test_a_single_struct_takes_all_parameters() -> None:
    """It is handed over as it is."""

    def work(size: Size) -> None: ...

    assert given(work, width=3) == {"size": Size(3)}
    assert read_signature(work).params_type is Size


def test_the_context_is_known_by_its_annotation() -> None:
    """Whatever its name and place; it is no parameter of the task."""

    def work(size: int, it: TaskContext) -> None: ...

    def whole(it: TaskContext, size: Size) -> None: ...

    assert isinstance(given(work, size=3)["it"], TaskContext)
    assert given(whole, width=3)["size"] == Size(3)
    assert read_signature(work).params_type.__struct_fields__ == ("size",)


def test_the_json_schema_says_what_the_signature_says() -> None:
    """Names, types, defaults, and that nothing else is taken."""

    def resize_all(width: int, names: list[str] = []) -> None: ...  # noqa: B006 - msgspec makes a fresh one

    definition = json_schema(read_signature(resize_all).params_type)["$defs"]["ResizeAllParams"]
    assert definition["required"] == ["width"]
    assert definition["properties"]["names"] == {"type": "array", "items": {"type": "string"}, "default": []}
    assert definition["additionalProperties"] is False


def bare(size) -> None: ...  # type: ignore[no-untyped-def]  # noqa: ANN001 - the point


def star(*sizes: int) -> None: ...


def stars(**sizes: int) -> None: ...


def positional(size: int, /) -> None: ...


def unknown(size: "Sizes") -> None: ...  # type: ignore[name-defined]  # noqa: F821 - the point


def foreign(size: msgspec.json.Decoder) -> None: ...  # type: ignore[type-arg]


@pytest.mark.parametrize(
    ("function", "complaint"),
    [
        (bare, "the parameter 'size' of bare has no annotation"),
        (star, r"\*sizes: int of star cannot be given by name"),
        (stars, r"\*\*sizes: int of stars cannot be given by name"),
        (positional, "size: int of positional cannot be given by name"),
        (unknown, "an annotation of unknown means nothing: name 'Sizes' is not defined"),
        (foreign, "a parameter of foreign has no JSON form"),
    ],
)
def test_a_parameter_that_no_task_can_give_is_refused(function: Callable[..., Any], complaint: str) -> None:
    """The error names the parameter and the function."""
    with pytest.raises(TypeError, match=complaint):
        read_signature(function)
