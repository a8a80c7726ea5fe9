"""The layout of the shared table: what every integer in it means, and where it stands.

The table is a run of 64-bit cells in one ``memfd``, mapped by the supervisor and by all workers::

    header | one block a slot | what each slot knows of each backend | totals of each slot and route | rows

A worker has a *slot*. There are two for each worker: during an upgrade the old one and the new one run side by side.

A *row* is one tunnel. Workers own a slice of rows each and write nowhere else, so nothing here is ever locked: a cell
is written whole, and a reader that must not mix two tunnels reads ``STATE`` and ``ID`` before and after. A new field
of a tunnel belongs here, and nowhere else: whatever is in the row survives the worker.

Cells may move, come and go: ``fields.py`` lists them by name, a table says where each is (``description.py``), and an
upgrade to a program with another layout copies by name (``conversion.py``). Whoever changes anything here counts
``VERSION`` up, and adds to ``fields.py`` what is new.

Clocks are ``CLOCK_MONOTONIC`` in nanoseconds, which all processes of a machine share, unless a name says ``UNIX``.
"""

from __future__ import annotations

from select import EPOLLET, EPOLLIN, EPOLLPRI, EPOLLRDHUP

from gateway.protocol.scanner_state import OPCODES, SCANNER_CELLS

VERSION = 3
"""Of this layout. A process that maps a table of another one must convert it or leave it alone."""

CELL_BYTES = 8
PAGE_CELLS = 4096 // CELL_BYTES

# --- header -----------------------------------------------------------------------------------------------------
(
    H_MAGIC,  # these four are where they are for ever: see description.py
    H_VERSION,
    H_DESCRIPTION_AT,
    H_DESCRIPTION_BYTES,
    H_WORKERS,
    H_ROWS_PER_WORKER,
    H_STARTED_UNIX_NS,
    H_KEPT,  # 1 while a supervisor that is started anew could carry on: workers need not drain when theirs dies
) = range(8)
HEADER_CELLS = 4 * PAGE_CELLS  # the description of the layout is in it, too

# --- worker blocks ----------------------------------------------------------------------------------------------
(
    W_PID,
    W_STARTED_UNIX_NS,
    W_HEARTBEAT_NS,  # written by every sweep
    W_LAST_ID,  # serial of the latest tunnel of this slice
    W_HIGH_ROWS,  # rows of the slice that were ever used: readers look no further
    W_CONFIG,  # generation of the configuration in force
    W_READY,  # 1 while it accepts connections
    W_LOG_LINES_LOST,  # access-log lines given up because whoever reads the log does not
    W_ADOPTED,  # tunnels carried on after the death of the worker that opened them
) = range(9)
WORKER_CELLS = 64

# --- what each worker knows of a backend ----------------------------------------------------------------------------
MAX_BACKENDS = 4096
(
    B_LIVE,  # tunnels that the worker holds to it, handshakes included
    B_CONNECT_NS,  # when it last tried to connect to it; negative where that failed, 0 before
    B_REQUESTS,  # plain requests in flight to it
    B_IDLE,  # pooled connections to it that no request is using
) = range(4)
BACKEND_CELLS = 4

# --- totals by route, for metrics; they only grow, but for the gauge at the end -----------------------------------
MAX_ROUTES = 1024
SECOND = 1_000_000_000
STEP_NS = SECOND // 10  # how finely the sweep counts what falls due
GAP_BOUNDS_NS = tuple(s * SECOND for s in (2, 5, 10, 25, 30, 55, 60, 100, 120, 240, 300, 350, 600, 1800, 3600))
RTT_BOUNDS_NS = tuple(ms * 1_000_000 for ms in (1, 2, 5, 10, 25, 50, 100, 250, 500, 1000, 2500, 5000, 10_000))
# One such block for each direction, named after the side that the bytes came from.
T_FRAMES = 0  # OPCODES cells
T_BYTES = OPCODES
T_VIOLATIONS = OPCODES + 1  # streams that broke RFC 6455
T_PINGS = OPCODES + 2  # of the gateway's own, to this side
T_PONGS = OPCODES + 3  # that answered them
T_TIMEOUTS = OPCODES + 4  # sides that answered nothing in time
T_INTERVAL_NS = OPCODES + 5  # shortest keepalive interval in force; 0 for none
T_CUTOFF_NS = OPCODES + 6  # shortest idle cutoff learned; 0 for none
T_GAPS_SUM_NS = OPCODES + 7  # silences of a second or more that ended in activity
T_GAPS = OPCODES + 8  # their number, by GAP_BOUNDS_NS
T_RTT_SUM_NS = T_GAPS + len(GAP_BOUNDS_NS) + 1  # from each Ping to its Pong
T_RTTS = T_RTT_SUM_NS + 1  # their number, by RTT_BOUNDS_NS
TOTAL_CELLS = T_RTTS + len(RTT_BOUNDS_NS) + 1
# Of the route itself, behind the blocks of both directions.
T_REQUESTS = 2 * TOTAL_CELLS  # plain requests in flight: a gauge, worth nothing once its worker has gone
ROUTE_CELLS = T_REQUESTS + 2  # whole cache lines

# --- a row --------------------------------------------------------------------------------------------------------
# What a message touches stands together: a cache line has eight cells, and with thousands of busy tunnels each line
# touched is a miss. Four lines it is: the first of the row, of both sides, and of one scanner.
(
    STATE,  # FREE, RESERVED, LIVE or RELEASED; the last cell written when a tunnel opens
    ID,
    ROUTE,
    BACKEND,
    TOTALS,  # index of this worker's block of totals for the route
    DIRTY,  # 1 while this row and its connections may disagree, or bytes are in a process's hands; see relay.py
    PHASE,  # RELAYING, CLOSING or CUT
    DEADLINE_NS,  # when the sweep has to look at this row; NEVER for most of the time
    OPENED_NS,
    OPENED_UNIX_NS,
    KIND,  # WEBSOCKET or OPAQUE
    CLOSING_NS,  # when the first Close frame or FIN was seen, or the client told of a loss; 0 before
    WRITE_STALL_NS,  # time-outs of the route when the tunnel opened; NEVER for off
    CLOSE_NS,
    IDLE_NS,
    LIFETIME_NS,
    INITIATOR,  # CLIENT, BACKEND or GATEWAY: who began the end; -1 before
    CAUSE,  # index into CAUSES; -1 before
    CLOSE_CODE_SENT,  # code of the Close frames that the gateway wrote; 0 for none
    END_SIDE,  # the side that the end is about: it sent the first Close, FIN or reset, or is dead; -1 for neither
    ON_LOSS_CODE,  # what the client is told when its backend vanishes; 0 for nothing
    PACED_NS,  # when the Close of a drain, or of a backend that vanished, is due; 0 while none is
    PACED_CODE,  # its close code
) = range(23)
SIDE_0 = 24  # the client's fields
SIDE_CELLS = 48
# Of each side, as offsets from SIDE_0 or SIDE_0 + SIDE_CELLS:
(
    FD,  # descriptor in the worker that owns the row; -1 when there is none
    PENDING,  # bytes for this side that its socket did not take yet
    GATE,  # what goes to this side: PASS, AT_BOUNDARY, DISCARD or PONG_DUE
    LAST_NS,  # clock of the latest byte from this side that was for the other
    BYTES,  # from this side
    INTEREST,  # events that epoll watches on it; 0 where it is not registered
    ENDED,  # 1 once this side's FIN was read
) = range(7)
SCANNER = 8  # of the stream that comes from this side, SCANNER_CELLS
(
    STALLED_NS,  # since when bytes are pending for this side; 0 while none are
    SHUT,  # 1 once FIN was sent to this side
    PING_AFTER_NS,  # keepalive interval in force; NEVER for off
    PONG_TIMEOUT_NS,
    NETWORK,  # number of the network that this side is in, for learning its interval; 0 where it is fixed
    PINGS_SENT,  # number of the latest Ping of the gateway's own
    PINGS_ANSWERED,  # number of the latest that was answered
    PING_TAG,  # see protocol/pings.py; 0 before the first
    PINGED_NS,  # when the latest was sent, while its Pong is waited for; else 0
    WROTE_NS,  # when the latest was sent
    PONG_NS,  # when the latest Pong for one came
    RTT_NS,  # how long it took; 0 before the first
    SILENCE_NS,  # longest silence of the connection before something sent to this side that it has not answered yet
    HELD,  # bytes held back that may begin a Pong for the gateway
    HELD_LOW,  # bytes 0 to 7 of them, little-endian
    HELD_HIGH,  # bytes 8 to 13
    END_IDLE_NS,  # when the end began: how long nothing had come from this side
    END_QUIET_NS,  # and how long nothing had gone either way on its connection
    END_QUEUED,  # and how many bytes were pending for it
    TALKS,  # how often in a row this side spoke again by itself before it had been silent for PING_AFTER_NS
) = range(SCANNER + SCANNER_CELLS, SCANNER + SCANNER_CELLS + 20)
ROW_CELLS = 184
TEXT_CELL = SIDE_0 + 2 * SIDE_CELLS  # texts fill the rest of the row

NO_OWNER = 0  # in the place of a row: the table's header lies there
REGISTERED = 1 << 30  # in INTEREST: epoll knows the descriptor, whatever it watches it for
READING = EPOLLIN | EPOLLRDHUP | EPOLLPRI | EPOLLET
"""What epoll watches where there is only something to read, as there is nearly always.

Edge-triggered: epoll tells once that something has come, and need not look again whether it was taken, which over
thousands of tunnels is a twentieth of what a message costs. Less than was asked for is all there was (epoll(7)), but
for two things behind it: the end of the stream, and what follows urgent data. Of these epoll tells too, and whoever is
told of anything but bytes, or got all it asked for, asks anew (``streams.py``, ``poller.py``).
"""

CLIENT, BACKEND_SIDE, GATEWAY = 0, 1, 2
SIDES = ("client", "backend")
INITIATORS = ("client", "backend", "gateway")

FREE, RESERVED, LIVE = 0, 1, 2
RELEASED = 3  # the worker has stopped serving the tunnel, for another to carry it on in a row of its own
WEBSOCKET, OPAQUE = 0, 1
RELAYING, CLOSING, CUT = 0, 1, 2
PASS, AT_BOUNDARY, DISCARD, PONG_DUE = 0, 1, 2, 3
NEVER = 2**62

CAUSES = (
    "close_frame",
    "fin",
    "reset",
    "ping_timeout",
    "write_stall",
    "idle",
    "max_lifetime",
    "drain",
    "limit",
    "protocol_error",
    "worker_lost",
)
(
    CLOSE_FRAME,
    FIN,
    RESET,
    PING_TIMEOUT,
    WRITE_STALL,
    IDLE,
    MAX_LIFETIME,
    DRAIN,
    LIMIT,
    PROTOCOL_ERROR,
    WORKER_LOST,
) = range(len(CAUSES))

# Texts of a row: name, bytes kept for it. A longer text is cut. Two bytes of length come before each.
TEXTS = {"client": 48, "host": 94, "path": 254, "subprotocol": 46, "request_id": 60}

if SIDE_CELLS <= TALKS or sum(TEXTS.values()) + 2 * len(TEXTS) > (ROW_CELLS - TEXT_CELL) * CELL_BYTES:
    raise AssertionError("the table's layout overlaps itself")
