"""The layout of the shared table: the meaning and the place of every integer in it.

The table is a run of 64-bit cells in one ``memfd``, mapped by the supervisor and by all workers::

    header | a block per slot | a block per slot and backend | totals per slot and route | states of backends | rows |
    sessions | long texts

A worker runs in a *slot*. Each worker has two, since the old and the new one run side by side during an upgrade.

A *row* is one tunnel. Each worker owns a slice of rows and writes nowhere else, so nothing is ever locked: a cell is
written atomically, and a reader that must not mix two tunnels reads ``STATE`` and ``ID`` before and after. Every field
of a tunnel belongs here and nowhere else: what is in the row survives the worker.

Each row has room for two *sessions*, one for each side that uses TLS (``protocol/tls/state.py`` lists their cells).
They lie in pages of their own behind all rows, so plain tunnels cost no memory for them.

The *texts* of a tunnel are packed into the rest of its row (``texts.py``). Those of most tunnels fit. What does not is
in the row's block of *long texts*, in pages of their own as well: they must not even be read unless ``LONG_TEXTS`` says
that there is something, since reading a page allocates it.

Cells may move, come and go: ``fields.py`` lists them by name, each table describes itself (``description.py``), and an
upgrade to a program with another layout copies by name (``conversion.py``). Any change here increments ``VERSION`` and
adds new cells to ``fields.py``.

Clocks are ``CLOCK_MONOTONIC`` in nanoseconds, which all processes of a machine share, unless a name says ``UNIX``.
"""

from __future__ import annotations

from select import EPOLLET, EPOLLIN, EPOLLPRI, EPOLLRDHUP, EPOLLRDNORM

from gateway.protocol.scanner_state import OPCODES, SCANNER_CELLS
from gateway.protocol.tls.state import SESSION_CELLS

VERSION = 6
"""Of this layout. A process must convert a table of any other version, or leave it alone."""

CELL_BYTES = 8
PAGE_CELLS = 4096 // CELL_BYTES

# --- header -----------------------------------------------------------------------------------------------------
(
    H_MAGIC,  # these four never move: see description.py
    H_VERSION,
    H_DESCRIPTION_AT,
    H_DESCRIPTION_BYTES,
    H_WORKERS,
    H_ROWS_PER_WORKER,
    H_STARTED_UNIX_NS,
    H_KEPT,  # 1 while a restarted supervisor could resume: workers need not drain when theirs dies
    H_SECRET_LOW,  # random bits, 63 in each, made with the first table of a gateway: they sign cookies
    H_SECRET_HIGH,
    H_STATES,  # raised after each change of a backend's state
) = range(11)
HEADER_CELLS = 4 * PAGE_CELLS  # which include the description of the layout

# --- worker blocks ----------------------------------------------------------------------------------------------
(
    W_PID,
    W_STARTED_UNIX_NS,
    W_HEARTBEAT_NS,  # written by every sweep
    W_LAST_ID,  # serial of the latest tunnel of this slice
    W_HIGH_ROWS,  # rows of the slice ever used: readers stop there
    W_CONFIG,  # generation of the configuration in force
    W_READY,  # 1 while it accepts connections
    W_LOG_LINES_LOST,  # access-log lines dropped because the log's reader stalls
    W_ADOPTED,  # tunnels resumed after another worker died or was replaced
) = range(9)
WORKER_CELLS = 64

# --- by worker and backend ------------------------------------------------------------------------------------------
MAX_BACKENDS = 4096
(
    B_LIVE,  # tunnels of the worker to it, handshakes included
    B_CONNECT_NS,  # time of the latest attempt to connect; negative if it failed, 0 before the first
    B_REQUESTS,  # plain requests in flight to it
    B_IDLE,  # pooled connections to it that no request is using
) = range(4)
BACKEND_CELLS = 4

# --- states of backends: one block for each, written by the supervisor only ------------------------------------------
(
    S_HEALTH,  # by health checks: HEALTH_UNKNOWN, HEALTH_UP or HEALTH_DOWN
    S_EJECTED_NS,  # until when it is ejected for its failures; 0 for not
    S_RETURNED_NS,  # when it came (back) into service, for slow start; 0 for long ago
    S_SINCE_UNIX_NS,  # when its health or its ejection changed last; 0 for never
) = range(4)
STATE_CELLS = 4

# --- totals by worker and route, for metrics; they only grow, except for one gauge ----------------------------------
MAX_ROUTES = 1024
SECOND = 1_000_000_000
STEP_NS = SECOND // 10  # resolution at which the sweep counts rows that fall due
GAP_BOUNDS_NS = tuple(s * SECOND for s in (2, 5, 10, 25, 30, 55, 60, 100, 120, 240, 300, 350, 600, 1800, 3600))
RTT_BOUNDS_NS = tuple(ms * 1_000_000 for ms in (1, 2, 5, 10, 25, 50, 100, 250, 500, 1000, 2500, 5000, 10_000))
# One block for each direction, named after the side that sends.
T_FRAMES = 0  # OPCODES cells
T_BYTES = OPCODES
T_VIOLATIONS = OPCODES + 1  # streams that broke RFC 6455
T_PINGS = OPCODES + 2  # sent by the gateway to this side
T_PONGS = OPCODES + 3  # received in answer
T_TIMEOUTS = OPCODES + 4  # sides that stayed silent after one
T_INTERVAL_NS = OPCODES + 5  # shortest keepalive interval in force; 0 for none
T_CUTOFF_NS = OPCODES + 6  # shortest idle cutoff learned; 0 for none
T_GAPS_SUM_NS = OPCODES + 7  # silences of a second or more that ended in activity
T_GAPS = OPCODES + 8  # their number, by GAP_BOUNDS_NS
T_RTT_SUM_NS = T_GAPS + len(GAP_BOUNDS_NS) + 1  # from each Ping to its Pong
T_RTTS = T_RTT_SUM_NS + 1  # their number, by RTT_BOUNDS_NS
TOTAL_CELLS = T_RTTS + len(RTT_BOUNDS_NS) + 1
# Of both directions together, behind their blocks.
T_REQUESTS = 2 * TOTAL_CELLS  # plain requests in flight: a gauge, void once its worker has exited
T_FAULTS = T_REQUESTS + 1  # tunnels ended because of an error in the gateway
ROUTE_CELLS = T_FAULTS + 1  # whole cache lines

# --- a row --------------------------------------------------------------------------------------------------------
# The cells a message touches are adjacent: a cache line has eight cells, and with thousands of busy tunnels every line
# touched is a miss. A message touches four: the first of the row, of both sides, and of one scanner.
(
    STATE,  # FREE, RESERVED, LIVE, RELEASED or COUNTED; the last cell written when a tunnel opens
    ID,
    ROUTE,
    BACKEND,
    TOTALS,  # index of this worker's block of totals for the route
    DIRTY,  # 1 while the row and the connections may disagree, or data is in flight in a process; see relay.py
    PHASE,  # RELAYING, CLOSING or CUT
    DEADLINE_NS,  # when the sweep must check this row; usually NEVER or far ahead
    OPENED_NS,
    OPENED_UNIX_NS,
    KIND,  # WEBSOCKET or OPAQUE
    CLOSING_NS,  # when the first Close frame or FIN was seen, or the Close about a lost backend sent; 0 before
    WRITE_STALL_NS,  # time-outs of the route when the tunnel opened; NEVER for off
    CLOSE_NS,
    IDLE_NS,
    LIFETIME_NS,
    INITIATOR,  # CLIENT, BACKEND or GATEWAY began the end; -1 before
    CAUSE,  # index into CAUSES; -1 before
    CLOSE_CODE_SENT,  # code of the Close frames that the gateway wrote, as logged; 0 for none
    END_SIDE,  # the side that sent the first Close, FIN or reset, or is dead; -1 for neither
    ON_LOSS_CODE,  # close code for the client if its backend vanishes; 0 for FIN only
    PACED_NS,  # when the Close of a drain, or about a lost backend, is due; 0 while none is
    PACED_CODE,  # its close code
    TRUNCATED,  # sides whose TLS stream ended without close_notify: the sum of 1 << side
    EXPIRES_NS,  # when the client's credentials expire, and the tunnel with them; NEVER for not
    EXPIRY_CODE,  # close code for the client then; 0 for SERVICE_RESTART
    HASH_KEY,  # what consistent_hash went by when the tunnel opened (routing/upstream.py); 0 for nothing
    LONG_TEXTS,  # how many bytes of its texts are in its block of long texts; written before those are
) = range(28)
SIDE_0 = 32  # the client's fields
SIDE_CELLS = 56
# Of each side, as offsets from SIDE_0 or SIDE_0 + SIDE_CELLS:
(
    FD,  # descriptor in the worker that owns the row; -1 when there is none
    PENDING,  # bytes waiting to be sent to this side
    GATE,  # what happens to bytes for this side: PASS, AT_BOUNDARY, DISCARD, PONG_DUE or LIMITED
    LAST_NS,  # time of the latest byte from this side for the other one
    BYTES,  # from this side
    INTEREST,  # events epoll watches it for; 0 if it is not registered
    ENDED,  # 1 once this side's FIN was read, or its close_notify
    TLS,  # first cell of this side's session; 0 if the connection is plain
) = range(8)
SCANNER = 8  # of the stream that comes from this side, SCANNER_CELLS
(
    STALLED_NS,  # since when bytes are pending for this side; 0 while none are
    SHUT,  # 1 once FIN was sent to this side
    PING_AFTER_NS,  # keepalive interval in force; NEVER for off
    PONG_TIMEOUT_NS,
    NETWORK,  # number of this side's network, for learning its interval; 0 if that is fixed
    PINGS_SENT,  # number of the latest Ping from the gateway
    PINGS_ANSWERED,  # number of the latest that was answered
    PING_TAG,  # see protocol/pings.py; 0 before the first
    PINGED_NS,  # when the latest was sent, while its Pong is awaited; else 0
    WROTE_NS,  # when the latest was sent
    PONG_NS,  # when the latest Pong for one came
    RTT_NS,  # how long it took; 0 before the first
    SILENCE_NS,  # longest silence of the connection before something sent to this side and not answered yet
    HELD_LOW,  # bytes 0 to 7 of those that are HELD, little-endian
    HELD_HIGH,  # bytes 8 to 13
    END_IDLE_NS,  # when the end began: how long this side had sent nothing
    END_QUIET_NS,  # ... how long its connection had been silent both ways
    END_QUEUED,  # ... how many bytes were pending for it
    TALKS,  # how often in a row this side spoke again before PING_AFTER_NS of silence
    OWN_CLOSE_CODE,  # code of the gateway's Close frame to this side; 0 for CLOSE_CODE_SENT
    # A message touches these only where it is limited; a cache line begins here.
    HELD,  # bytes held back that may begin a Pong for the gateway, or a frame above FRAME_LIMIT
    FRAME_LIMIT,  # most payload bytes of a frame from this side; NEVER if only messages are counted; 0 for no limits
    MESSAGE_NS,  # time that each message from this side costs it; 0 for no limit
    MESSAGE_BURST_NS,  # time that it may be ahead
    NEXT_MESSAGE_NS,  # when its next message would be due at the permitted rate; see limiting.py
) = range(SCANNER + SCANNER_CELLS, SCANNER + SCANNER_CELLS + 25)
ROW_CELLS = 168  # whole cache lines
TEXT_CELL = SIDE_0 + 2 * SIDE_CELLS  # texts fill the rest of the row
TEXT_BYTES = (ROW_CELLS - TEXT_CELL) * CELL_BYTES
SESSIONS_CELLS = 2 * SESSION_CELLS  # of one row: the client's session, then the backend's

NO_OWNER = 0  # in place of a row: the header is there
REGISTERED = 1 << 30  # in INTEREST: the descriptor is registered with epoll, for whatever events
READING = EPOLLIN | EPOLLRDHUP | EPOLLPRI | EPOLLET
"""What epoll watches on a side that is only read, which is nearly always.

Edge-triggered: epoll reports arrivals once and need not check again whether they were read, which saves a twentieth of
the cost of a message over thousands of tunnels. A read that returns less than was asked for has emptied the socket
(epoll(7)), except for two things that may follow: the end of the stream, and bytes behind urgent data. epoll reports
both. After any event but plain bytes, and after a full read, the descriptor is re-armed (``streams.py``,
``poller.py``).
"""

METERED = EPOLLRDNORM
"""What epoll watches in addition on a side whose messages cost time.

It says the same as ``EPOLLIN``. But the poll loop takes an event of just ``EPOLLIN`` for a plain read, and no other
event. So a side whose reads are bounded is told apart at no cost to all others.
"""

CLIENT, BACKEND_SIDE, GATEWAY = 0, 1, 2
SIDES = ("client", "backend")
INITIATORS = ("client", "backend", "gateway")

HEALTH_UNKNOWN, HEALTH_UP, HEALTH_DOWN = 0, 1, 2
FREE, RESERVED, LIVE = 0, 1, 2
RELEASED = 3  # the worker stopped serving the tunnel, so that another can resume it in a row of its own
COUNTED = 4  # the tunnel has ended and is counted; the row stays while the previous worker's row says RELEASED
WEBSOCKET, OPAQUE = 0, 1
RELAYING, CLOSING, CUT = 0, 1, 2
PASS, AT_BOUNDARY, DISCARD, PONG_DUE, LIMITED = 0, 1, 2, 3, 4
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

# Texts of a row: name and size in bytes. Longer texts are cut. Each is preceded by two bytes of length.
TEXTS = {"client": 48, "host": 94, "path": 254, "subprotocol": 46, "request_id": 60}
LONG_TEXTS_BYTES = sum(TEXTS.values()) + 2 * len(TEXTS) - TEXT_BYTES  # of one row, at most
LONG_TEXTS_CELLS = -(-LONG_TEXTS_BYTES // 64) * 8  # of one row: whole cache lines

if SIDE_CELLS <= NEXT_MESSAGE_NS or min(TEXT_BYTES, LONG_TEXTS_BYTES) <= 0:
    raise AssertionError("the table's layout overlaps itself")
