"""DockerRunner and the engine that its runners share; the `docker` package is loaded with the first call."""

from .engine import Engine
from .runner import DockerRunner

__all__ = ["DockerRunner", "Engine"]
