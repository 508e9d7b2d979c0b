"""Which blocks of code has a page of the documentation?"""

import re
from collections.abc import Iterator


def blocks(page: str, language: str) -> Iterator[str]:
    """Those without a reason on the line before why they are not run."""
    for code in re.finditer(r"^```(\w+)\n(.*?)^```$", page, re.M | re.S):
        before = page[: code.start()].rstrip("\n").rsplit("\n", 1)[-1]
        reason = re.fullmatch(r"<!-- not run: .{10,} -->", before)
        if code[1] == language and not reason:
            yield code[2]
