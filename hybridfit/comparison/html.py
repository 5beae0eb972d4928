"""A self-contained HTML page with embedded figures: no other files, server or network."""

from __future__ import annotations

import base64
import html
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

STYLE = """
:root { color-scheme: light; }
body { font: 15px/1.5 system-ui, sans-serif; color: #1a1a1a; max-width: 1180px;
  margin: 2rem auto; padding: 0 1.2rem; }
h1 { font-size: 1.6rem; margin: 0 0 .3rem; }
h2 { font-size: 1.25rem; margin: 2.4rem 0 .6rem; border-bottom: 1px solid #d9d9d9; }
h3 { font-size: 1rem; margin: 1.4rem 0 .3rem; }
p, li { max-width: 75ch; }
.muted { color: #6b6b6b; }
.warning { background: #fff3e6; border-left: 4px solid #d55e00; padding: .4rem .8rem; }
.scroll { overflow-x: auto; max-height: 34rem; overflow-y: auto; margin: .4rem 0 1rem; }
table { border-collapse: collapse; font-size: 13px; font-variant-numeric: tabular-nums; }
th, td { padding: .18rem .6rem; text-align: right; white-space: nowrap;
  border-bottom: 1px solid #ececec; }
th { position: sticky; top: 0; background: #f5f5f5; font-weight: 600; }
table.sortable th { cursor: pointer; }
table.sortable th[data-way="1"]::after { content: " \\25b4"; }
table.sortable th[data-way="-1"]::after { content: " \\25be"; }
td.text, th.text { text-align: left; }
td.long { white-space: normal; min-width: 22rem; }
tr:hover td { background: #f7fafc; }
figure { margin: .6rem 0 1.2rem; }
figure img { max-width: 100%; height: auto; }
figcaption { color: #6b6b6b; font-size: 13px; max-width: 80ch; }
nav a { margin-right: 1rem; }
.case { border-top: 1px solid #ececec; padding-top: .4rem; margin-top: .8rem; }
"""
SCRIPT = """
(function () {
  function each(list, action) { Array.prototype.forEach.call(list, action); }
  function compare(u, v, numeric) {
    if (numeric) {
      var p = parseFloat(u), q = parseFloat(v);
      return isNaN(p) || isNaN(q) ? null : p - q;
    }
    return u < v ? -1 : u > v ? 1 : 0;
  }
  function sort(table, head, column) {
    var way = head.getAttribute('data-way') === '1' ? -1 : 1;
    var numeric = head.getAttribute('data-numeric') === '1';
    each(table.querySelectorAll('th'), function (h) { h.removeAttribute('data-way'); });
    head.setAttribute('data-way', way);
    var rows = Array.prototype.map.call(table.tBodies[0].rows, function (row, place) {
      return { row: row, place: place, value: row.cells[column].getAttribute('data-value') };
    });
    rows.sort(function (a, b) {
      var order = compare(a.value, b.value, numeric);
      if (order === null) {  // where there is no number, last
        var gone = isNaN(parseFloat(a.value)), also = isNaN(parseFloat(b.value));
        return gone === also ? a.place - b.place : gone ? 1 : -1;
      }
      return order ? way * order : a.place - b.place;
    });
    each(rows, function (item) { table.tBodies[0].appendChild(item.row); });
  }
  each(document.querySelectorAll('table.sortable'), function (table) {
    each(table.querySelectorAll('th'), function (head, column) {
      head.addEventListener('click', function () { sort(table, head, column); });
    });
  });
})();
"""
LONG = 36  # characters: longer entries may take several lines
POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'"


@dataclass(frozen=True)
class Section:
    """A heading and its content, as escaped HTML."""

    title: str
    parts: Sequence[str]
    anchor: str = field(default="")


def page(title: str, lead: Sequence[str], sections: Sequence[Section]) -> str:
    """Return the full page.

    Args:
        title: plain text.
        lead: HTML before the first section.
        sections: in order; those with an anchor appear in the navigation bar.
    """
    links = " ".join(
        f'<a href="#{escape(s.anchor)}">{escape(s.title)}</a>' for s in sections if s.anchor
    )
    body = "\n".join(
        f'<h2 id="{escape(s.anchor)}">{escape(s.title)}</h2>\n' + "\n".join(s.parts)
        for s in sections
    )
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n"
        f"<h1>{escape(title)}</h1>\n" + "\n".join(lead) + f"\n<nav>{links}</nav>\n"
        f"{body}\n<script>{SCRIPT}</script>\n</body>\n</html>\n"
    )


def escape(text: object) -> str:
    """Return text escaped for HTML, for use between tags and in quotes."""
    return html.escape(str(text), quote=True)


def paragraph(text: str, kind: str = "") -> str:
    """Return a paragraph of plain text; kind is a class: muted or warning."""
    attribute = f' class="{escape(kind)}"' if kind else ""
    return f"<p{attribute}>{escape(text)}</p>"


def bullets(items: Iterable[str]) -> str:
    """Return a bulleted list of plain texts; "" if there are none."""
    lines = "".join(f"<li>{escape(item)}</li>" for item in items)
    return f"<ul>{lines}</ul>" if lines else ""


def figure(png: bytes, caption: str) -> str:
    """Return a figure with its caption."""
    data = base64.b64encode(png).decode()
    return (
        f'<figure><img alt="{escape(caption)}" src="data:image/png;base64,{data}">'
        f"<figcaption>{escape(caption)}</figcaption></figure>"
    )


def table(
    columns: Mapping[str, Sequence[Any]],
    formats: Mapping[str, str] | None = None,
    notes: Mapping[str, str] | None = None,
    sortable: bool = True,
) -> str:
    """Return a table.

    Args:
        columns: entries by heading, texts or numbers.
        formats: formats of numbers by heading, such as ``.3f``; default: four digits.
        notes: explanations of headings, shown when the pointer rests on them.
        sortable: whether a click on a heading sorts the table.
    """
    formats, notes = formats or {}, notes or {}
    numeric = {name: all(_is_number(v) for v in values) for name, values in columns.items()}
    head = "".join(
        f'<th class="{"" if numeric[name] else "text"}" data-numeric="{int(numeric[name])}" '
        f'title="{escape(notes.get(name, ""))}">{escape(name)}</th>'
        for name in columns
    )
    lines = []
    for entries in zip(*columns.values(), strict=True):
        cells = "".join(
            _cell(value, formats.get(name, ".4g"), numeric[name])
            for name, value in zip(columns, entries, strict=True)
        )
        lines.append(f"<tr>{cells}</tr>")
    kind = ' class="sortable"' if sortable else ""
    body = "\n".join(lines)
    return (
        f'<div class="scroll"><table{kind}><thead><tr>{head}</tr></thead>\n'
        f"<tbody>\n{body}\n</tbody></table></div>"
    )


def number(value: float, format: str = ".4g") -> str:
    """Return a number as text; a dash for a missing one."""
    return format_of(value, format) if math.isfinite(value) else "–"


def format_of(value: float, format: str) -> str:
    """Format a number; in a general format whole numbers have no decimal point."""
    if format.endswith("g") and float(value).is_integer() and abs(value) < 1e15:
        return f"{int(value)}"
    return f"{value:{format}}"


def _cell(value: Any, format: str, numeric: bool) -> str:
    if numeric:
        return f'<td data-value="{float(value)!r}">{escape(number(float(value), format))}</td>'
    text = escape(value)
    kind = "text long" if len(text) > LONG else "text"
    return f'<td class="{kind}" data-value="{text}">{text}</td>'


def _is_number(value: Any) -> bool:
    return not isinstance(value, str | bytes) and hasattr(value, "__float__")
