"""How does a docstring of the house become reStructuredText? Before napoleon reads it.

Three things differ: an indented block after a blank line is an equation or a command,
shown as it stands; single backticks hold a name or code; and no other character is
markup, be it the star of `*batch`.
"""

import re
from collections.abc import Callable, Iterable, Iterator

CODE = re.compile(r"`([^`]+)`")
MARKUP = re.compile(r"[\\*|]|_(?!\w)")
SECTION = re.compile(r" *[A-Z]\w+:")
Link = Callable[[str], str | None]
RETURNS = ("Returns:", "Yields:")


def to_rst(lines: Iterable[str], link: Link) -> Iterator[str]:
    """The lines of a docstring as reStructuredText, its sections still Google's.

    Args:
      lines: of the docstring, without their common indentation.
      link: from what stands between backticks to a role, or None where it is code.
    """
    prose: list[str] = []  # since the last blank line, example or block
    before, after_blank, start, kind = 0, False, 0, "prose"
    for line in [*lines, ""]:
        text = line.lstrip()
        indent = len(line) - len(text)
        ended = not text if kind == "example" else bool(text) and indent < start
        if kind != "prose" and ended:
            kind = "prose"
        if kind == "prose" and text.startswith(">>>"):
            in_section = prose and SECTION.fullmatch(prose[-1])
            kind, start = "example", indent
            dedent = 0 if in_section or not (prose or after_blank) else indent - before
            yield from _linked(prose, link)
            yield from [""] if prose and not in_section else []
            prose = []
        elif kind == "prose" and text and after_blank and indent > before:
            kind, start, dedent = "block", indent, 0
            yield from (f"{' ' * before}.. code-block:: text", "")
        if kind == "prose" and text:
            prose.append(line)
            before = indent
        else:
            yield from _linked(prose, link)
            prose = []
            yield line[dedent:] if kind == "example" else line
        after_blank = not text


def _linked(lines: list[str], link: Link) -> list[str]:
    """Lines of prose with roles and literals, and with all else escaped."""
    text, parts, end = "\n".join(lines), [], 0
    for code in CODE.finditer(text):
        parts.append(MARKUP.sub(r"\\\g<0>", text[end : code.start()]))
        glued = code.end() < len(text) and text[code.end()].isalnum()
        parts.append((link(code[1]) or f"``{code[1]}``") + (r"\ " if glued else ""))
        end = code.end()
    parts.append(MARKUP.sub(r"\\\g<0>", text[end:]))
    return "".join(parts).split("\n") if lines else []


def as_fields(lines: Iterable[str]) -> Iterator[str]:
    """What a function returns or yields as a field, and several names as one.

    Napoleon would take what stands before a colon in `Returns` for a type, and all but
    the last of `kernel_init, bias_init: …` too.
    """
    field, names = "", re.compile(r" +[a-z]\w*(, \w+)+:")
    for line in lines:
        if line in RETURNS:
            field = f":{line[:-1].lower()}: "
        elif field and line.strip() and not line.startswith(" "):
            field = ""
            yield line
        elif field.startswith(":"):
            yield from ("", field + line.strip())
            field = " "
        else:
            several = names.match(line)
            yield line.replace(", ", ",", several[0].count(",")) if several else line
