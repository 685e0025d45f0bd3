"""What travels over NATS: messages, their forms on the wire, and the subjects they travel on."""

from .codec import ContentType, SchemaError, convert, decode, decode_loosely, encode, json_schema
from .control import Control, Verb
from .event import Event, EventType
from .quantity import Duration, Expiry, Size, utc_now
from .result import (
    AppliedLimit,
    Cause,
    DockerContainer,
    Encoding,
    ErrorClass,
    HttpResponse,
    Result,
    ScriptSource,
    Status,
    StreamOutput,
    Streams,
    Termination,
    Usage,
)
from .subjects import Subjects
from .task import Args, Base64, Cache, Limits, Retry, Task

__all__ = [
    "AppliedLimit",
    "Args",
    "Base64",
    "Cache",
    "Cause",
    "ContentType",
    "Control",
    "DockerContainer",
    "Duration",
    "Encoding",
    "ErrorClass",
    "Event",
    "EventType",
    "Expiry",
    "HttpResponse",
    "Limits",
    "Result",
    "Retry",
    "SchemaError",
    "ScriptSource",
    "Size",
    "Status",
    "StreamOutput",
    "Streams",
    "Subjects",
    "Task",
    "Termination",
    "Usage",
    "Verb",
    "convert",
    "decode",
    "decode_loosely",
    "encode",
    "json_schema",
    "utc_now",
]
