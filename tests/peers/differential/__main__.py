"""``python -m tests.peers.differential``: prints the table with what each proxy does now, in Markdown."""

from __future__ import annotations

import asyncio
import tempfile
from pathlib import Path

from tests.peers.differential.proxies import Proxies
from tests.peers.differential.rows import Row
from tests.peers.differential.sights import HAPROXY, NGINX, OURS, Sight
from tests.peers.differential.table import TABLE

_LONGEST = 60


async def _print_table() -> None:
    print("| row | the client sends | ours | nginx | why | HAProxy | why |")
    print("|---|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as directory:
        proxies = await Proxies.start(Path(directory))
        try:
            for name, row in TABLE.items():
                sights = await proxies.play(row)
                cells = [
                    name,
                    _sent(row),
                    _summary(sights[OURS]),
                    _summary(sights[NGINX]) if row.nginx else "the same",
                    row.nginx,
                    _summary(sights[HAPROXY]) if row.haproxy else "the same",
                    row.haproxy,
                ]
                print("|" + "|".join(f" {cell.replace('|', chr(92) + '|')} " for cell in cells) + "|", flush=True)
        finally:
            await proxies.close()


def _sent(row: Row) -> str:
    steps = (row.sent,) if isinstance(row.sent, bytes) else row.sent
    text = b"".join(step for step in steps if isinstance(step, bytes)).decode("latin-1")
    return ascii(text if len(text) <= _LONGEST else text[:_LONGEST] + "...")


def _summary(sight: Sight) -> str:
    """What the client got, how often the backend was asked, and what happened to the client's connection."""
    answers = [
        str(part["line"]).removeprefix("HTTP/1.1 ").partition(" ")[0] + (" cut" if part.get("cut") else "")
        for which, part in sight.parts().items()
        if which.startswith("answer")
    ]
    asked = f"asked {len(sight.requests)} times" if len(sight.requests) != 1 else "asked"
    return f"{', '.join(answers) or 'no answer'}; backend {asked if sight.requests else 'not asked'}; {sight.end}"


if __name__ == "__main__":
    asyncio.run(_print_table())
