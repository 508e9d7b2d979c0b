"""Does the built site hold together, and need no network?

python docs/_ext/built_site.py site

Every link between its pages leads to a file, and to an anchor in it; no page and no
style loads anything from elsewhere. (Links to other sites are followed by readers.)
"""

import html.parser
import pathlib
import re
import sys
import urllib.parse
from collections.abc import Iterator

ELSEWHERE = re.compile(r"(\w+:)?//")
LOADED = {"link": "href", "script": "src", "img": "src", "iframe": "src"} | {
    "source": "src"
}
STYLED = re.compile(r"(?:@import|url\()\s*['\"]?((?:https?:)?//[^'\")\s]+)")
FROM_CDN = re.compile(
    r"https?://[\w.-]*(?:cdn|jsdelivr|unpkg|googleapis|gstatic)[^\s'\"]*"
)


class Page(html.parser.HTMLParser):
    """The anchors of a page, its links, and what it loads."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.anchors: set[str] = {"", "top"}
        self.links: list[str] = []
        self.loads: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        self.anchors |= {given[name] for name in ("id", "name") if name in given}
        if tag == "a" and "href" in given:
            self.links.append(given["href"])
        if LOADED.get(tag) in given and given.get("rel") not in ("canonical", "author"):
            self.loads.append(given[LOADED[tag]])


def faults(site: pathlib.Path) -> Iterator[str]:
    """What is wrong, a line for each link or address."""
    pages = {
        path.resolve(): Page(path.read_text(encoding="utf-8"))
        for path in site.rglob("*.html")
        if "_static" not in path.parts  # where the theme leaves templates
    }
    if not pages:
        yield f"{site} holds no page."
    for path, page in pages.items():
        name = path.relative_to(site.resolve())
        for address in page.loads:
            if ELSEWHERE.match(address):
                yield f"{name} loads {address}: give the site a copy of its own."
        for address in page.links + page.loads:
            target = urllib.parse.urlsplit(address)
            if target.scheme or target.netloc:
                continue
            file = (path.parent / urllib.parse.unquote(target.path)).resolve()
            file = path if not target.path else file
            anchor = urllib.parse.unquote(target.fragment)
            if not file.is_file():
                yield f"{name} links to {address}: no such file."
            elif file in pages and anchor not in pages[file].anchors:
                yield f"{name} links to {address}: no such anchor."
    for path in site.rglob("*"):
        if path.suffix in (".css", ".js"):
            pattern = STYLED if path.suffix == ".css" else FROM_CDN
            for address in pattern.findall(path.read_text(encoding="utf-8")):
                yield f"{path.relative_to(site)} loads {address}: it needs a network."


if __name__ == "__main__":
    found = sorted(faults(pathlib.Path(sys.argv[1])))
    sys.exit("\n".join(found) if found else 0)
