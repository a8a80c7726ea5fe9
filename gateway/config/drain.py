"""How tunnels are closed before the gateway exits or a backend is taken out of service."""

from pydantic import Field

from gateway.config.closecodes import CloseCode
from gateway.config.durations import Duration
from gateway.config.section import Section


class Drain(Section):
    """The pace of a drain, and the close code sent."""

    period: Duration = Field(
        default="30s",
        validate_default=True,
        description="Time over which the tunnels are closed, evenly spread",
    )
    close_code: CloseCode = Field(default=1012, description="Close code sent to both sides of a tunnel")
