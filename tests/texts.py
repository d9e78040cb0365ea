"""Reads blocks of hand-written texts, so that a corpus has one text a row and no quoting.

An indented line continues the row above it. In a row, ⏎ stands for a line break and ¦ for nothing: it marks where a
long word may be broken, and cuts literals that nobody may find in the source as a whole.
"""

import re


def texts(block: str) -> list[str]:
    rows = re.sub(r"\n +", " ", block.strip()).split("\n")
    return [row.replace("¦ ", "").replace("¦", "").replace("⏎", "\n") for row in rows]
