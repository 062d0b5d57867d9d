"""The building blocks of a report: HTML as text, everything inline, so that a page is one file that opens anywhere."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

from worldclip.language import table as languages


@dataclass(frozen=True, kw_only=True, slots=True)
class Section:
    """A part of the page: its anchor, its heading, one sentence of what it shows, and its HTML."""

    anchor: str
    heading: str
    lead: str
    body: str


def document(title: str, subtitle: str, sections: Sequence[Section]) -> str:
    """The whole page, self-contained: no script, no font, no picture from elsewhere."""
    links = "".join(f'<a href="#{section.anchor}">{escape(section.heading)}</a>' for section in sections)
    parts = "".join(
        f'<section id="{section.anchor}"><h2>{escape(section.heading)}</h2>'
        f'<p class="lead">{section.lead}</p>{section.body}</section>'
        for section in sections
    )
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<meta name="color-scheme" content="light dark">'
        f"<title>{escape(title)}</title><style>{STYLE}</style></head><body>"
        f'<header><p class="brand">worldclip</p><h1>{escape(title)}</h1><p class="sub">{subtitle}</p></header>'
        f"<nav>{links}</nav><main>{parts}</main></body></html>\n"
    )


def cards(figures: Sequence[tuple[str, str, str]]) -> str:
    """Large figures: (value, what it is, a remark)."""
    inner = "".join(
        f'<div class="card"><b>{escape(value)}</b><span>{escape(what)}</span><small>{escape(remark)}</small></div>'
        for value, what, remark in figures
    )
    return f'<div class="cards">{inner}</div>'


def table(head: Sequence[str], rows: Sequence[Sequence[str]], *, text_columns: int = 1, last: str = "") -> str:
    """A table that scrolls sideways by itself; cells are HTML; the first `text_columns` read from the left.

    last: "total" sets the last row apart.
    """
    cells = [_row("th", head, text_columns)]
    cells += [_row("td", row, text_columns, last if last and i == len(rows) - 1 else "") for i, row in enumerate(rows)]
    return f'<div class="scroll"><table><thead>{cells[0]}</thead><tbody>{"".join(cells[1:])}</tbody></table></div>'


def _row(tag: str, cells: Sequence[str], text_columns: int, kind: str = "") -> str:
    kind = f' class="{kind}"' if kind else ""
    inner = "".join(f"<{tag}{'' if i < text_columns else ' class=n'}>{cell}</{tag}>" for i, cell in enumerate(cells))
    return f"<tr{kind}>{inner}</tr>"


def legend(items: Sequence[tuple[str, str]]) -> str:
    """(colour, name) of what bars are made of."""
    inner = "".join(f'<span><i style="background:{colour}"></i>{escape(name)}</span>' for colour, name in items)
    return f'<p class="legend">{inner}</p>'


@dataclass(frozen=True, kw_only=True, slots=True)
class Bar:
    """A row of bars(): parts laid end to end (share 0 to 1, colour, hover text), and marks on the same scale."""

    label: str
    parts: Sequence[tuple[float, str, str]]
    note: str = ""
    whisker: tuple[float, float] | None = None
    mark: float | None = None


def bars(rows: Sequence[Bar]) -> str:
    """Horizontal bars over the whole width = 1.  label and note are HTML; `mark` is a tick, `whisker` an interval."""
    lines = []
    for row in rows:
        parts = "".join(
            f'<i style="width:{100 * share:.3f}%;background:{colour}" title="{escape(hover)}"></i>'
            for share, colour, hover in row.parts
            if share > 0
        )
        if row.whisker is not None:
            low, high = row.whisker
            parts += f'<u style="left:{100 * low:.3f}%;width:{100 * (high - low):.3f}%"></u>'
        if row.mark is not None:
            parts += f'<s style="left:{100 * row.mark:.3f}%"></s>'
        lines.append(
            f'<span class="l">{row.label}</span><span class="b">{parts}</span><span class="v">{row.note}</span>'
        )
    return f'<div class="bars">{"".join(lines)}</div>'


def folded(summary: str, body: str) -> str:
    return f"<details><summary>{escape(summary)}</summary>{body}</details>"


def figure(caption: str, remark: str, chart: str) -> str:
    """A framed chart; caption is HTML."""
    return f"<figure><figcaption>{caption} <small>{escape(remark)}</small></figcaption>{chart}</figure>"


def note(text: str) -> str:
    """A remark that should not be overlooked."""
    return f'<p class="note">{escape(text)}</p>'


def lang_name(code: str) -> str:
    """A language's English name with its code, HTML; codes outside the table (merged, und) as they are."""
    try:
        name = languages.get(code).name
    except KeyError:
        name = {"und": "no language", "merged": "all lists as one"}.get(code, "")
    return f"{escape(name)} <code>{escape(code)}</code>" if name else f"<code>{escape(code)}</code>"


def words(text: str, lang: str = "") -> str:
    """A text of any script: it reads in its own direction and leaves its surroundings alone."""
    tag = f' lang="{escape(lang)}"' if lang and lang not in ("merged", "und", "other") else ""
    return f'<bdi dir="auto"{tag}>{escape(text)}</bdi>'


def count(value: float) -> str:
    return f"{value:,.0f}"


def percent(value: float) -> str:
    """A share as percent; small ones with two digits, since chance is small too."""
    return f"{100 * value:.{2 if 0 < value < 0.01 else 1}f}%"


def short(value: Any) -> str:
    """A number as people say it: 55,216 or 2.3M or 29.4B."""
    for limit, unit in ((1e9, "B"), (1e6, "M")):
        if abs(value) >= limit:
            return f"{value / limit:.1f}{unit}"
    return f"{value:,.0f}"


STYLE = """
:root{--bg:#fbfaf7;--paper:#fff;--ink:#1d1c1a;--soft:#615e57;--line:#e2dfd7;--track:#efece5;
--s1:#0b6e99;--s2:#d1662a;--s3:#7a5ea8;--s4:#b8a23a;--s5:#4b8f5c;--s6:#a34a5e;--s7:#8b8880;--s8:#c9c5bb;
--good:#1f7a3f;--bad:#b3362b}
@media(prefers-color-scheme:dark){:root{--bg:#141518;--paper:#1c1e22;--ink:#ecebe7;--soft:#a5a29a;--line:#33363c;
--track:#282b30;--s1:#4fb3dc;--s2:#f0935a;--s3:#b39be0;--s4:#d9c463;--s5:#7cc48f;--s6:#e08799;--s7:#85837c;
--s8:#55575c;--good:#6fd08e;--bad:#f08a7e}}
*{box-sizing:border-box}
html{scroll-behavior:smooth;-webkit-text-size-adjust:100%}
body{margin:0;background:var(--bg);color:var(--ink);
font:16px/1.55 system-ui,-apple-system,"Segoe UI","Noto Sans",Roboto,"Helvetica Neue",Arial,"Noto Sans Arabic",
"Noto Sans CJK SC","Noto Sans Thai","Noto Sans Devanagari",sans-serif}
header,main{max-width:68rem;margin:0 auto;padding:0 1.25rem}
header{padding-top:3rem;padding-bottom:1rem}
.brand{margin:0;color:var(--s1);font-weight:650;letter-spacing:.02em}
h1{margin:.1rem 0 .3rem;font-size:2.1rem;line-height:1.15;letter-spacing:-.015em;font-weight:680}
.sub{margin:0;color:var(--soft)}
nav{position:sticky;top:0;z-index:2;background:color-mix(in srgb,var(--bg) 92%,transparent);backdrop-filter:blur(6px);
border-bottom:1px solid var(--line);overflow-x:auto;white-space:nowrap;padding:.55rem 0;scrollbar-width:none}
nav a{color:var(--soft);text-decoration:none;font-size:.9rem;padding:.2rem .7rem}
nav a:first-child{margin-left:max(.55rem,calc((100vw - 68rem)/2 + .55rem))}
nav a:hover,nav a:focus-visible{color:var(--ink);text-decoration:underline;text-underline-offset:.3em}
section{padding:1.6rem 0 .6rem;scroll-margin-top:2.6rem}
h2{margin:0;font-size:1.35rem;letter-spacing:-.01em;font-weight:660}
h3{margin:1.6rem 0 .4rem;font-size:1rem;font-weight:650}
.lead{margin:.15rem 0 1.1rem;color:var(--soft);max-width:46rem}
code{font:.86em ui-monospace,SFMono-Regular,Menlo,Consolas,"Noto Sans Mono",monospace;color:var(--soft)}
.cards{display:grid;grid-template-columns:repeat(auto-fill,minmax(11rem,1fr));gap:.8rem;margin:0 0 1.2rem}
.card{background:var(--paper);border:1px solid var(--line);border-radius:.6rem;padding:.8rem 1rem}
.card b{display:block;font-size:1.7rem;line-height:1.2;font-weight:660;font-variant-numeric:tabular-nums}
.card span{display:block;font-size:.92rem}.card small{display:block;color:var(--soft);font-size:.8rem;line-height:1.35}
.scroll{overflow-x:auto;border:1px solid var(--line);border-radius:.6rem;background:var(--paper);margin:.4rem 0 1rem}
table{border-collapse:collapse;width:100%;font-size:.9rem;font-variant-numeric:tabular-nums}
th,td{padding:.38rem .8rem;text-align:left;white-space:nowrap;border-bottom:1px solid var(--line)}
td:has(>bdi){white-space:normal}
tbody tr:last-child td{border-bottom:0}
th{font-weight:600;color:var(--soft);font-size:.82rem;vertical-align:bottom}
.n{text-align:right}
th:first-child,td:first-child{position:sticky;left:0;background:var(--paper)}
tr.total td{font-weight:650;border-top:2px solid var(--line)}
.bars{display:grid;grid-template-columns:max-content minmax(6rem,1fr) max-content;gap:.34rem .8rem;align-items:center;
font-size:.9rem;margin:.4rem 0 1rem;font-variant-numeric:tabular-nums}
.bars .l{text-align:right}.bars .v{color:var(--soft);text-align:right;white-space:nowrap}
.bars .b{position:relative;display:flex;height:1.05rem;background:var(--track);border-radius:.2rem}
.bars i{display:block;height:100%}
.bars i:first-child{border-radius:.2rem 0 0 .2rem}
.bars u{position:absolute;top:calc(50% - 1px);height:2px;background:var(--ink);opacity:.75}
.bars s{position:absolute;top:-.15rem;bottom:-.15rem;width:2px;background:var(--s2)}
.bars.cell{display:block;margin:0;min-width:6rem}.bars.cell .b{height:.8rem}
.shade{display:block;margin:-.38rem -.8rem;padding:.38rem .8rem}
.legend{display:flex;flex-wrap:wrap;gap:.2rem 1.1rem;margin:.3rem 0;font-size:.85rem;color:var(--soft)}
.legend i{display:inline-block;width:.75rem;height:.75rem;border-radius:.15rem;margin-right:.4rem;
vertical-align:-.05rem}
.grid{display:grid;gap:1rem;grid-template-columns:repeat(auto-fill,minmax(15rem,1fr));margin:.4rem 0 1rem}
.grid.mid{grid-template-columns:repeat(auto-fill,minmax(19rem,1fr))}.grid.mid h3{margin-top:.4rem}
.grid.wide{grid-template-columns:repeat(auto-fit,minmax(22rem,1fr))}
figure{margin:0;background:var(--paper);border:1px solid var(--line);border-radius:.6rem;padding:.7rem .8rem}
figcaption{font-size:.88rem;margin-bottom:.3rem}figcaption small{color:var(--soft)}
svg{display:block;width:100%;height:auto}
svg text{fill:var(--soft);font:11px system-ui,sans-serif;font-variant-numeric:tabular-nums}
svg .grid-line{stroke:var(--line);stroke-width:1}
svg .curve{fill:none;stroke-width:2;stroke-linejoin:round;stroke-linecap:round}
details{margin:.4rem 0 1rem}summary{cursor:pointer;color:var(--s1);font-size:.92rem;padding:.2rem 0}
.shots{display:grid;gap:1rem;grid-template-columns:repeat(auto-fill,minmax(19rem,1fr));margin:.4rem 0 1rem}
.shot{display:grid;grid-template-columns:5.5rem 1fr;gap:.3rem .9rem;
align-content:start;background:var(--paper);
border:1px solid var(--line);border-radius:.6rem;padding:.9rem}
.shot img{width:5.5rem;height:5.5rem;object-fit:contain;border-radius:.35rem;background:#fff}
.shot .t{font-size:.95rem;font-weight:600;line-height:1.3}
.shot .t small{display:block;color:var(--soft);font-weight:400}
.shot dl{grid-column:1/3;display:grid;grid-template-columns:max-content 1fr;gap:.15rem .6rem;margin:.4rem 0 0;
font-size:.88rem}
.shot dt{color:var(--soft)}.shot dd{margin:0;min-width:0}
.shot dd>span bdi{display:inline-block;max-width:100%}
.shot .ok{color:var(--good);font-weight:650}.shot .no{color:var(--ink)}
.shot .rest{color:var(--soft);font-size:.82rem}
.tag{display:inline-block;font-size:.75rem;font-weight:600;border-radius:1rem;padding:.02rem .55rem;
border:1px solid currentColor}
.tag.ok{color:var(--good)}.tag.no{color:var(--bad)}
.note{border-left:3px solid var(--s2);padding:.1rem 0 .1rem .9rem;margin:.8rem 0;color:var(--ink);max-width:48rem}
footer{color:var(--soft);font-size:.85rem}
@media print{nav{display:none}body{background:#fff}}
""".strip()
