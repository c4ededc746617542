"""The report as files: report.json and one page, report.html, that needs nothing beside it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path

from .outcome import Outcome
from .report import Histogram, IngestReport, histograms

_NARROW = 16  # bars of a card that takes half of the page at most
_SHOWN = 200  # entries of one class on the page; report.json has all
_COLOURS = {"stored": "#2f7d5b", "repaired": "#c58a1c", "skipped": "#8a929c", "quarantined": "#b8433c"}
_MEANING = {
    "stored": "as they are",
    "repaired": "stored with a remark",
    "skipped": "already in the store",
    "quarantined": "not stored",
}
_STYLE = """
:root { --ink: #1d2733; --soft: #5d6975; --line: #dfe4e8; --card: #fff; --page: #f4f6f7; --bar: #33658a; }
* { box-sizing: border-box }
body { margin: 0; background: var(--page); color: var(--ink); font: 15px/1.5 system-ui, "Segoe UI", "DejaVu Sans", sans-serif }
main { max-width: 1080px; margin: 0 auto; padding: 36px 24px 60px }
h1 { font-size: 26px; margin: 0 } h2 { font-size: 18px; margin: 38px 0 12px } h3 { font-size: 14px; margin: 0 }
.soft { color: var(--soft); font-size: 13px } .path { overflow-wrap: anywhere }
.tiles, .cards { display: grid; gap: 14px } .tiles { grid-template-columns: repeat(4, 1fr); margin-top: 22px }
.cards { grid-template-columns: repeat(2, 1fr); grid-auto-flow: dense } .wide { grid-column: 1 / -1 }
.tile, .card, details, .list { background: var(--card); border: 1px solid var(--line); border-radius: 10px; padding: 14px 18px }
.tile b { display: block; font-size: 30px; line-height: 1.2; font-variant-numeric: tabular-nums }
.share { display: flex; height: 10px; border-radius: 5px; overflow: hidden; margin-top: 14px; background: var(--line) }
.card div { display: flex; justify-content: space-between; align-items: baseline; margin-bottom: 6px }
svg { width: 100%; display: block } svg text { font: 11px system-ui, "DejaVu Sans", sans-serif; fill: var(--soft) }
details, .list { padding: 0; margin-bottom: 8px } summary { cursor: pointer; padding: 10px 18px }
summary b { display: inline-block; min-width: 3.2em; font-variant-numeric: tabular-nums }
table { border-collapse: collapse; width: 100% }
td { border-top: 1px solid var(--line); padding: 6px 18px; vertical-align: top; font-size: 13px }
td:first-child { white-space: nowrap; font-weight: 600 } td:last-child { overflow-wrap: anywhere }
@media (max-width: 720px) { .tiles, .cards { grid-template-columns: repeat(2, 1fr) } .cards { grid-template-columns: 1fr } }
"""


def write_report(report: IngestReport, folder: Path, store: Path) -> None:
    """Write ``folder``/report.json and report.html, each replaced whole."""
    folder.mkdir(parents=True, exist_ok=True)
    data = {"store": str(store), **report.to_json()}
    for name, text in (("report.json", json.dumps(data, indent=1, ensure_ascii=False) + "\n"), ("report.html", page(report, store))):
        temporary = folder / f"{name}.new"
        temporary.write_text(text, encoding="utf-8")
        temporary.replace(folder / name)


def page(report: IngestReport, store: Path) -> str:
    """The report as HTML with its drawings inline."""
    counts = report.counts()
    total = max(sum(counts.values()), 1)
    tiles = "".join(
        f'<div class="tile"><span style="color:{_COLOURS[name]}">●</span> {name}<b>{number:,}</b>'
        f'<span class="soft">{_MEANING[name]}</span></div>'
        for name, number in counts.items()
    )
    share = "".join(f'<i style="width:{100 * n / total:.3f}%;background:{_COLOURS[name]}"></i>' for name, n in counts.items() if n)
    about = f"{sum(counts.values()):,} entries, layout {', '.join(dict.fromkeys(report.layouts)) or 'unknown'}"
    cards = _cards(histograms(report.facts))
    sections = [
        _section("What was stored", f'<div class="cards">{cards}</div>' if cards else ""),
        _section("Quarantined, by reason", _tables(report.quarantine_reasons())),
        _section("Repaired, by repair", _tables(report.repair_reasons())),
        _section("Template hits passed over", _numbers(report.template_reasons())),
        _section("Remarks", _numbers(dict.fromkeys(report.remarks, 0))),
    ]
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<title>Ingest of {escape(store.name)}</title><style>{_STYLE}</style></head><body><main>"
        f'<h1>Ingest of {escape(store.name)}</h1><div class="soft path">{escape(str(store))} · {escape(about)}</div>'
        f'<div class="tiles">{tiles}</div><div class="share">{share}</div>{"".join(sections)}</main></body></html>\n'
    )


def _section(title: str, body: str) -> str:
    return f"<h2>{escape(title)}</h2>{body}" if body else ""


def _cards(drawn: Mapping[str, Histogram]) -> str:
    """Two cards in a row, wide ones alone; the last narrow one is wide where it would stand alone."""
    narrow = [title for title, histogram in drawn.items() if len(histogram.labels) <= _NARROW]
    alone = narrow[-1:] if len(narrow) % 2 else []
    return "".join(_card(title, histogram, title in alone or title not in narrow) for title, histogram in drawn.items())


def _card(title: str, histogram: Histogram, wide: bool) -> str:
    note = escape(histogram.note)
    drawing = _bars(histogram, 1000 if wide else 480)
    return f'<div class="card{" wide" if wide else ""}"><div><h3>{escape(title)}</h3><span class="soft">{note}</span></div>{drawing}</div>'


def _bars(histogram: Histogram, width: int) -> str:
    """Vertical bars with their counts above and their bins below, thinned where they would run into each other."""
    height, top, bottom = 170, 18, 34
    n_bars = len(histogram.counts)
    if not n_bars:
        return '<div class="soft">none</div>'
    step, tallest = width / n_bars, max(max(histogram.counts), 1)
    label_every = max(1, -(-max(len(label) for label in histogram.labels) * 7 // int(step)))
    count_every = max(1, -(-len(_short(tallest)) * 7 // int(step)))
    parts = [f'<svg viewBox="0 0 {width} {height}" role="img">']
    for i, (label, count) in enumerate(zip(histogram.labels, histogram.counts, strict=True)):
        size = (height - top - bottom) * count / tallest
        x, y, middle = i * step + step * 0.12, height - bottom - size, (i + 0.5) * step
        tip = f"<title>{escape(label)} {escape(histogram.unit)}: {count:,}</title>"
        parts.append(f'<rect x="{x:.1f}" y="{y:.1f}" width="{step * 0.76:.1f}" height="{size:.1f}" rx="2" fill="var(--bar)">{tip}</rect>')
        if count and (count_every == 1 or count == tallest):
            parts.append(f'<text x="{middle:.1f}" y="{y - 4:.1f}" text-anchor="middle">{_short(count)}</text>')
        if i % label_every == 0:
            parts.append(f'<text x="{middle:.1f}" y="{height - bottom + 15}" text-anchor="middle">{escape(label)}</text>')
    parts.append(f'<line x1="0" x2="{width}" y1="{height - bottom}" y2="{height - bottom}" stroke="var(--line)"/>')
    parts.append(f'<text x="{width}" y="{height - 4}" text-anchor="end">{escape(histogram.unit)}</text></svg>')
    return "".join(parts)


def _short(count: int) -> str:
    return f"{count:,}" if count < 10_000 else f"{count / 1000:.0f}k" if count < 10_000_000 else f"{count / 1e6:.0f}M"


def _tables(classes: Mapping[str, Sequence[Outcome]]) -> str:
    """One fold-out table per class: its number, and its entries with their reasons."""
    blocks = []
    for name, outcomes in classes.items():
        rows = "".join(f"<tr><td>{escape(o.name)}</td><td>{escape(o.reason)}</td></tr>" for o in outcomes[:_SHOWN])
        more = len(outcomes) - _SHOWN
        rest = f'<tr><td>…</td><td class="soft">and {more:,} more, in report.json</td></tr>' if more > 0 else ""
        blocks.append(f"<details><summary><b>{len(outcomes):,}</b> {escape(name)}</summary><table>{rows}{rest}</table></details>")
    return "".join(blocks)


def _numbers(found: Mapping[str, int]) -> str:
    rows = "".join(f"<tr><td>{f'{number:,}' if number else '·'}</td><td>{escape(name)}</td></tr>" for name, number in found.items())
    return f'<div class="list"><table>{rows}</table></div>' if rows else ""
