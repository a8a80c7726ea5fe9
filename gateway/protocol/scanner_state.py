"""The integers that a frame scanner consists of, as offsets from where they start; zeros begin a stream.

They live in a row of the shared table, or in a :class:`gateway.protocol.scanner.FrameScanner` of its own.
"""

(
    # The first eight are what a message of whole frames touches.
    STATUS,  # OPEN, CLOSED or BROKEN
    REST,  # between two messages of an OPEN stream RESTS[MASKING]; else 0
    REMAINING,  # payload bytes of the current frame still to come
    HEADER_LENGTH,  # bytes of a header that TCP cut, kept in HEADER_LOW and HEADER_HIGH
    MASKING,  # 1 where this direction must mask (client to backend), 0 where it must not
    MESSAGE,  # 0, or PLAIN or EXTENDED while a fragmented message is unfinished
    FRAMES,  # frames whose header was seen
    DATA_AT,  # clock of the latest byte of a data frame
    OPCODE,  # of the frame that REMAINING is about
    HEADER_LOW,  # bytes 0 to 7 of a header that TCP cut, little-endian
    HEADER_HIGH,  # bytes 8 to 13
    MASK,  # of the control frame that is being read
    CONTROL_READ,  # payload bytes of it that were read
    DIGEST,  # of those, where it is a Ping or a Pong
    CLOSE_CODE,  # 0 before it is read; NO_STATUS for a Close without one
    PING_AT,  # clock of the latest whole Ping, until the other direction's scanner sees its Pong; else 0
    PING_ID,  # its DIGEST
    PONG_AT,  # clock of the latest whole Pong; 0 for none
    PONG_ID,
    PEER,  # where the other direction's scanner is, as an offset from this one; 0 where there is none
) = range(20)
SCANNER_CELLS = 20

# STATUS
OPEN = 0
CLOSED = 1  # a whole Close frame has gone by; what follows is not looked at
BROKEN = 2  # the stream broke RFC 6455; scanning stopped for good

# REST: by how much the second byte of a short frame is above the frame's size, where it is not masked and where it is.
RESTS = (-2, 0x80 - 6)

# MESSAGE
PLAIN = 1
EXTENDED = 2  # RSV bits say that an extension has changed it, such as compression

# How far a scan goes; 0 is to the end of what it is given.
STOP = 1  # to the first frame boundary
PASS_ONE = 2  # to the first one behind a frame that begins there

NO_STATUS = 1005  # RFC 6455 section 7.4.1

# Opcodes (RFC 6455 section 5.2), and how many cells of counters there are, one for each that the four bits allow.
CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG = 0x0, 0x1, 0x2, 0x8, 0x9, 0xA
OPCODES = 16
