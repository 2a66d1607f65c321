"""The frame of a report: style and the one script, which draws what is embedded as JSON."""

from __future__ import annotations

from html import escape

from plotly.offline import get_plotlyjs

# Nothing may be loaded: the page holds all it needs, and works where there is no network.
_POLICY = (
    "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data: blob:; font-src data:"
)

_STYLE = """
:root { color-scheme: light dark; --text: #1b1b1b; --dim: #555; --ground: #fff; --line: #d0d0d0; --link: #005a8f;
  --grey: #757575; --soft: #f4f4f4; --notice: #fff3d6; }
@media (prefers-color-scheme: dark) {
  :root { --text: #ececec; --dim: #b0b0b0; --ground: #16181b; --line: #44484d; --link: #7cc4f0; --soft: #212429;
    --grey: #8c9096; --notice: #453510; }
}
* { box-sizing: border-box; }
body { margin: 0; background: var(--ground); color: var(--text); font: 16px/1.5 system-ui, sans-serif; }
header, main, footer { max-width: 1200px; margin: 0 auto; padding: 0 1.25rem; }
h1 { margin: 1.5rem 0 .25rem; font-size: 1.75rem; } h2 { margin: 2.5rem 0 .5rem; font-size: 1.3rem; }
h3 { margin: 1.5rem 0 0; font-size: 1.05rem; }
a { color: var(--link); } footer { margin-top: 3rem; padding-bottom: 2rem; color: var(--dim); font-size: .875rem; }
nav ul { display: flex; flex-wrap: wrap; gap: .25rem 1.25rem; padding: 0; list-style: none; }
.skip { position: absolute; left: -100vw; } .skip:focus { left: 1rem; top: 1rem; background: var(--ground);
  padding: .5rem 1rem; z-index: 9; }
:focus-visible { outline: 3px solid #E69F00; outline-offset: 2px; }
.notice { background: var(--notice); border-left: 5px solid #E69F00; padding: .6rem 1rem; }
figure { margin: 1rem 0 1.5rem; }
.wide { overflow-x: auto; } .plot { min-width: 44rem; }
.sheet img { display: block; width: 100%; max-width: 44rem; image-rendering: pixelated; }
.sheet p { margin: .5rem 0 .1rem; font-size: .9rem; } .sheet ol { font-size: .9rem; columns: 14rem; }
figcaption { color: var(--dim); font-size: .9rem; max-width: 80ch; }
dl { display: grid; grid-template-columns: repeat(auto-fill, minmax(17rem, 1fr)); gap: .5rem 1.5rem; margin: 1rem 0; }
dt { color: var(--dim); font-size: .85rem; } dd { margin: 0; overflow-wrap: anywhere; }
pre { background: var(--soft); padding: .75rem 1rem; overflow-x: auto; font-size: .875rem; }
details { margin: .75rem 0; } summary { cursor: pointer; padding: .25rem 0; }
.scroll { overflow: auto; max-height: 80vh; margin: .75rem 0; }
table { border-collapse: collapse; font-size: .9rem; font-variant-numeric: tabular-nums; }
caption { text-align: left; color: var(--dim); padding-bottom: .4rem; }
caption span { display: inline-block; position: sticky; left: 0; max-width: calc(100vw - 2.5rem); }
th, td { padding: .3rem .7rem; text-align: right; border-bottom: 1px solid var(--line); vertical-align: top; }
thead th { position: sticky; top: 0; background: var(--ground); }
th[scope=row], th.group, td.text, thead th:first-child, .words th, .words td { text-align: left; }
td, th[scope=row] { white-space: nowrap; } #metrics td, .words td { white-space: normal; }
th[scope=row] { font-weight: normal; } .beside tr:first-child > * { font-weight: 600; padding-top: .8rem; }
th.group { padding-top: .8rem; }
td.grey { color: var(--grey); font-style: italic; } .held > * { color: var(--dim); }
td small { display: block; color: var(--dim); white-space: nowrap; }
.claim { font-size: 1.1rem; max-width: 80ch; } h4 { margin: 1rem 0 0; }
.verdict { display: inline-block; padding: 0 .6rem; border-radius: .8rem; color: #fff; font-weight: 600; }
.reproduced { background: #00694d; } .contradicted { background: #a84300; } .undecided { background: #5f5f5f; }
.not-testable { background: #5f5f5f; font-style: italic; }
abbr { text-decoration: underline dotted; text-underline-offset: .2em; cursor: help; }
.plot text:not(.hoverlayer *) { fill: var(--text) !important; }
@media print { .modebar, nav, .skip { display: none; } .scroll { max-height: none; } }
"""

# Sharing would send the data to a third party.
_SCRIPT = """
const options = {responsive: true, displaylogo: false, showSendToCloud: false, plotlyServerURL: "",
  modeBarButtonsToRemove: ["select2d", "lasso2d"]};
for (const place of document.querySelectorAll(".plot")) {
  const figure = JSON.parse(document.getElementById(place.id + "-data").textContent);
  Plotly.newPlot(place, figure.data, figure.layout, options);
}
"""


def page(title: str, head: str, sections: list[tuple[str, str, str]], foot: str) -> str:
    """Return a whole page.

    Args:
        title: of the page, as text.
        head: HTML below the title.
        sections: id, title and HTML of each.
        foot: HTML of the footer.
    """
    links = "".join(f'<li><a href="#{key}">{escape(name)}</a></li>' for key, name, _ in sections)
    body = "".join(
        f'<section id="{key}" aria-labelledby="{key}-title"><h2 id="{key}-title">{escape(name)}</h2>{content}</section>'
        for key, name, content in sections
    )
    return (
        '<!DOCTYPE html><html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<title>{escape(title)}</title><link rel="icon" href="data:,"><style>{_STYLE}</style></head><body>'
        f'<a class="skip" href="#main">Skip to the results</a><header><h1>{escape(title)}</h1>{head}'
        f'<nav aria-label="Sections"><ul>{links}</ul></nav></header><main id="main" tabindex="-1">{body}</main>'
        f"<footer>{foot}</footer><script>{get_plotlyjs()}</script><script>{_SCRIPT}</script></body></html>\n"
    )


def drawing(key: str, json: str, height: int, caption: str) -> str:
    """Return a figure: the place where it is drawn, its data, and its caption (as text).

    Args:
        key: unique id.
        json: the plotly figure.
        height: in pixels, kept free until it is drawn.
        caption: what it shows.
    """
    data = json.replace("<", "\\u003c")
    return (
        f'<figure aria-labelledby="{key}-caption"><div class="wide">'
        f'<div class="plot" id="{key}" style="min-height:{height}px"></div></div>'
        f'<script type="application/json" id="{key}-data">{data}</script>'
        f'<figcaption id="{key}-caption">{escape(caption)}</figcaption></figure>'
    )
