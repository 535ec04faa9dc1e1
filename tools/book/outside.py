#!/usr/bin/env python3
"""A preprocessor of mdBook: links that lead out of docs become the names of the files that they lead to.

In a clone they lead somewhere, in a published book they would not."""

import json
import re
import sys

LINK = re.compile(r"(!?)\[((?:[^\[\]]|\[[^\]]*\])*)\]\(\.\./([^)#\s]+)[^)]*\)")


def inside(text: str) -> str:
    def name(match: re.Match) -> str:
        words, path = match[2], match[3].rstrip("/")
        return words if path in words else f"{words} (`{path}`)"

    return LINK.sub(name, text)


def walk(items: list) -> None:
    for item in items:
        if chapter := item.get("Chapter") if isinstance(item, dict) else None:
            chapter["content"] = inside(chapter["content"])
            walk(chapter["sub_items"])


def main() -> int:
    if sys.argv[1:2] == ["supports"]:
        return 0
    _, book = json.load(sys.stdin)
    walk(book.get("items") or book["sections"])
    json.dump(book, sys.stdout)
    return 0


if __name__ == "__main__":
    sys.exit(main())
