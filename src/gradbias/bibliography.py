r"""The one bibliography, `refs.bib`: entries by key and as a line of text.

Reads the BibTeX that we write: entries whose fields are `{braced}`, `"quoted"` or bare; no @string, no concatenation.
"""

import functools
import re
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_ENTRY = re.compile(r"@(?P<kind>\w+)\s*\{\s*(?P<key>[^,\s]+)\s*,")
_FIELD = re.compile(r"\s*,?\s*(?P<name>[\w-]+)\s*=\s*")
_ACCENT = re.compile(r"""\\(?P<accent>['"`^~=.]|[cvuHkr](?![A-Za-z]))\s*\{?\\?(?P<letter>[A-Za-z])\}?""")
_COMBINING = dict(
    zip("'\"`^~=.cvuHkr", "\u0301\u0308\u0300\u0302\u0303\u0304\u0307\u0327\u030c\u0306\u030b\u0328\u030a", strict=True)
)
_LETTERS = {
    r"\o": "ø",
    r"\O": "Ø",
    r"\l": "ł",
    r"\L": "Ł",
    r"\ss": "ß",
    r"\ae": "æ",
    r"\aa": "å",
    r"\i": "ı",
    r"\&": "&",
}


@dataclass(frozen=True)
class Reference:
    """An entry of the bibliography; fields are as written, without LaTeX accents and braces."""

    key: str
    kind: str
    fields: dict[str, str]

    @property
    def authors(self) -> str:
        """Family names, or the first and "et al." if there are more than three."""
        names = [name.strip() for name in re.split(r"\s+and\s+", self.fields.get("author", "")) if name.strip()]
        families = [name.split(",")[0] if "," in name else name.split()[-1] for name in names]
        if len(families) > 3 or "others" in families:
            return f"{families[0]} et al."
        return " and ".join([*([", ".join(families[:-1])] if families[1:] else []), *families[-1:]])

    @property
    def url(self) -> str:
        """Where it can be read: the url, the DOI, the arXiv page, or nothing."""
        f = self.fields
        if "url" in f:
            return f["url"]
        if "doi" in f:
            return f"https://doi.org/{f['doi'].removeprefix('https://doi.org/')}"
        return f"https://arxiv.org/abs/{f['eprint']}" if "eprint" in f else ""

    def __str__(self) -> str:
        f = self.fields
        where = next(
            (f[name] for name in ("journal", "booktitle", "publisher", "school", "howpublished") if name in f), ""
        )
        if not where and "eprint" in f:
            where = f"arXiv:{f['eprint']}"
        told = [self.authors, f"({f['year']})" if "year" in f else "", f.get("title", self.key)]
        return f"{' '.join(part for part in told if part)}{'. ' + where if where else ''}."


def location() -> Path:
    """The bibliography: inside the installed package, or at the root of the source tree."""
    inside = Path(__file__).parent / "refs.bib"
    return inside if inside.exists() else Path(__file__).parents[2] / "refs.bib"


@functools.cache
def references(path: Path | None = None) -> dict[str, Reference]:
    """Every entry by its key. Raises `ValueError` naming the line of an entry that cannot be read or is a duplicate."""
    text = (path or location()).read_text(encoding="utf-8")
    found: dict[str, Reference] = {}
    for match in _ENTRY.finditer(text):
        key, line = match["key"], text.count("\n", 0, match.start()) + 1
        if match["kind"].lower() in ("comment", "string", "preamble"):
            continue
        if key in found:
            raise ValueError(f"{path or location()}:{line}: the key {key!r} is used twice.")
        try:
            fields = dict(_fields(text, match.end()))
        except (IndexError, ValueError):
            raise ValueError(f"{path or location()}:{line}: the entry {key!r} is never closed.") from None
        found[key] = Reference(key, match["kind"].lower(), fields)
    return found


def _fields(text: str, position: int) -> Iterator[tuple[str, str]]:
    """Names and values from just after the key to the brace that closes the entry."""
    while match := _FIELD.match(text, position):
        end = _end_of_value(text, match.end())
        yield match["name"].lower(), _readable(text[match.end() : end])
        position = end
    if not re.compile(r"\s*,?\s*\}").match(text, position):
        raise ValueError(position)


def _end_of_value(text: str, start: int) -> int:
    if text[start] not in '{"':
        return start + len(re.split(r"[,}\n]", text[start:], maxsplit=1)[0])
    depth, position = 0, start
    while True:  # an IndexError at the end of the text: the value is never closed
        character = text[position]
        escaped = text[position - 1] == "\\"
        depth += (character == "{" and not escaped) - (character == "}" and not escaped)
        position += 1
        closed = character == "}" if text[start] == "{" else character == '"' and position - 1 > start
        if closed and depth == 0 and not escaped:
            return position


def _readable(value: str) -> str:
    value = value.strip()
    if value[:1] in '{"':
        value = value[1:-1]
    value = _ACCENT.sub(lambda m: unicodedata.normalize("NFC", m["letter"] + _COMBINING[m["accent"]]), value)
    for command, letter in _LETTERS.items():
        value = re.sub(re.escape(command) + r"(?![A-Za-z])\s?", letter, value)
    return " ".join(value.replace("{", "").replace("}", "").replace("--", "–").replace("~", " ").split())
