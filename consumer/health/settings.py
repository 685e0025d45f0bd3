"""Where a worker answers probes."""

from typing import Annotated

from msgspec import Meta, Struct

_PATTERN = r"^([^\s:\[\]]+|\[[0-9A-Fa-f:.]+\]):[0-9]{1,5}$(?!\n)"
_Address = Annotated[str, Meta(pattern=_PATTERN, description="an address such as 127.0.0.1:9090")]


class HealthConfig(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where a worker answers `/livez`, `/readyz` and `/metrics`."""

    enabled: bool = True
    listen: _Address | None = None
    """`host:port`, port 0 for a free one; None: 127.0.0.1:9090, if nobody else has it."""
