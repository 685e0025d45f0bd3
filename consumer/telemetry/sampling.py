"""Which traces are recorded: decided before the SDK is asked, at a tenth of its cost. Pure."""

import random

from msgspec import Struct

from consumer.trace import Carrier, is_sampled


class Sampling(Struct, frozen=True, kw_only=True):
    """Who decides what is recorded.

    `ratio` is the share of the traces that begin here; None leaves it all to the tracer's own sampler. A publisher
    decides about its own, unless it is `overruled`.
    """

    ratio: float | None = 1.0
    overruled: bool = False

    def takes(self, parent: Carrier) -> bool:
        """Decide about a span by its parent."""
        if self.ratio is None or (parent and is_sampled(parent)):
            return True
        if parent and not self.overruled:
            return False
        return random.random() < self.ratio  # noqa: S311 - guards nothing
