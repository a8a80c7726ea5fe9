"""Control frames that the gateway writes into a stream (RFC 6455 section 5.5)."""

from __future__ import annotations

from gateway.protocol.closing import may_be_sent
from gateway.protocol.scanner_state import CLOSE

FINAL = 0x80
MASKED = 0x80
MAX_CONTROL_PAYLOAD = 125


def control_frame(opcode: int, payload: bytes, mask: bytes | None) -> bytes:
    """Encode a control frame.

    :param payload: 125 bytes at most
    :param mask: four random bytes toward a server, None toward a client (section 5.3)
    :raises ValueError: the payload is too long, or the mask has not four bytes
    """
    if len(payload) > MAX_CONTROL_PAYLOAD:
        raise ValueError(f"a control frame carries {MAX_CONTROL_PAYLOAD} bytes at most, not {len(payload)}")
    if mask is None:
        return bytes((FINAL | opcode, len(payload))) + payload
    if len(mask) != 4:
        raise ValueError(f"a mask has 4 bytes, not {len(mask)}")
    masked = bytes(byte ^ mask[i & 3] for i, byte in enumerate(payload))
    return bytes((FINAL | opcode, MASKED | len(payload))) + mask + masked


def close_frame(code: int, reason: str, mask: bytes | None) -> bytes:
    """Encode a Close frame (section 5.5.1).

    :param code: one that may be sent, see :func:`gateway.protocol.closing.may_be_sent`
    :param reason: cut to what fits, at a character's end
    :raises ValueError: the code may not be sent (section 7.4)
    """
    if not may_be_sent(code):
        raise ValueError(f"close code {code} may not be sent")
    text = reason.encode()[: MAX_CONTROL_PAYLOAD - 2].decode(errors="ignore").encode()
    return control_frame(CLOSE, code.to_bytes(2, "big") + text, mask)
