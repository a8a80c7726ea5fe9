"""Files that others read while a test writes them."""

import os
from pathlib import Path


def rewrite(path: Path, text: str) -> None:
    """Give a file another text. A reader finds the old text or the new one, never a part."""
    new = path.with_name(path.name + ".new")
    new.write_text(text)
    os.replace(new, path)
