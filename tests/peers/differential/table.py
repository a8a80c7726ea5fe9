"""All rows, by name."""

from __future__ import annotations

from typing import Final

from tests.peers.differential import (
    answer_body_rows,
    answer_head_rows,
    connection_rows,
    field_rows,
    framing_rows,
    target_rows,
)
from tests.peers.differential.rows import Row

REQUESTS: Final[list[Row]] = [*target_rows.ROWS, *field_rows.ROWS, *framing_rows.ROWS, *connection_rows.ROWS]
ANSWERS: Final[list[Row]] = [*answer_head_rows.ROWS, *answer_body_rows.ROWS]
TABLE: Final = {f"request: {row.name}": row for row in REQUESTS} | {f"answer: {row.name}": row for row in ANSWERS}
