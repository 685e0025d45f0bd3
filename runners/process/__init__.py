"""How a process is started, watched, drained and ended."""

from .environment import environment
from .spawn import ProcessSpec
from .supervise import supervise

__all__ = ["ProcessSpec", "environment", "supervise"]
