"""How tunnels are closed when the gateway is to exit, or a backend is to be taken out of service."""

from pydantic import Field

from gateway.config.closecodes import CloseCode
from gateway.config.durations import Duration
from gateway.config.section import Section


class Drain(Section):
    """The pace of a drain, and what clients and backends are told."""

    period: Duration = Field(
        default="30s",
        validate_default=True,
        description="Time over which the tunnels are closed, evenly spread",
    )
    close_code: CloseCode = Field(default=1012, description="Close code that both sides of a tunnel are told")
