"""The frame of a report: style and the one script, which draws what is embedded as JSON.

plotly, which draws, is most of a page. It is embedded compressed, unpacked by the browser, and waited for by no table.
Figures are drawn when they come near the screen.
"""

from __future__ import annotations

import base64
import functools
import gzip
from html import escape

from plotly.graph_objects import Figure
from plotly.offline import get_plotlyjs

# Nothing may be loaded: the page holds all it needs, and works where there is no network.
_POLICY = (
    "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data: blob:; font-src data:; "
    "connect-src data:"
)

_STYLE = """
:root { color-scheme: light dark; --text: #1b1b1b; --dim: #555; --ground: #fff; --line: #d0d0d0; --link: #005a8f;
  --grey: #757575; --soft: #f4f4f4; --shade: #0002; --notice: #fff3d6; --best: #dcefe4; }
@media (prefers-color-scheme: dark) {
  :root { --text: #ececec; --dim: #b0b0b0; --ground: #16181b; --line: #44484d; --link: #7cc4f0; --soft: #212429;
    --shade: #fff2; --grey: #8c9096; --notice: #453510; --best: #17402f; }
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
.wide { overflow-x: auto; } .plot { min-width: 20rem; } .plot.broad { min-width: 40rem; }
.plot:not(.drawn) { background: linear-gradient(var(--soft), var(--soft)) no-repeat; }
.sheet img { display: block; width: 100%; max-width: 44rem; image-rendering: pixelated; }
.sheet p { margin: .5rem 0 .1rem; font-size: .9rem; } .sheet ol { font-size: .9rem; columns: 14rem; }
figcaption { color: var(--dim); font-size: .9rem; max-width: 80ch; }
dl { display: grid; grid-template-columns: repeat(auto-fill, minmax(17rem, 1fr)); gap: .5rem 1.5rem; margin: 1rem 0; }
dt { color: var(--dim); font-size: .85rem; } dd { margin: 0; overflow-wrap: anywhere; }
pre { background: var(--soft); padding: .75rem 1rem; overflow-x: auto; font-size: .875rem; }
details { margin: .75rem 0; } summary { cursor: pointer; padding: .25rem 0; } summary h3 { display: inline; margin: 0; }
.scroll { overflow-x: auto; margin: .75rem 0; }
.scroll, .wide { background: linear-gradient(to left, var(--ground) 40%, transparent) right / 3rem 100% no-repeat local,
  linear-gradient(to left, var(--shade), transparent) right / 1rem 100% no-repeat scroll; }
table { border-collapse: collapse; font-size: .9rem; font-variant-numeric: tabular-nums; }
caption { text-align: left; color: var(--dim); padding-bottom: .4rem; }
caption span { display: inline-block; position: sticky; left: 0; max-width: min(calc(100vw - 2.5rem), 1160px); }
th, td { padding: .3rem .7rem; text-align: right; border-bottom: 1px solid var(--line); vertical-align: top; }
thead th { position: sticky; top: 0; background: var(--ground); }
th[scope=row], th.group, .text, thead th:first-child, .words th, .words td { text-align: left; }
th[scope=row], thead th:first-child { position: sticky; left: 0; background: var(--ground); }
td, th[scope=row] { white-space: nowrap; } .words td { white-space: normal; }
th[scope=row] { font-weight: normal; } .beside tr:first-child > * { font-weight: 600; padding-top: .8rem; }
th.group { padding-top: .8rem; }
td.best { background: var(--best); font-weight: 600; }
td.grey { color: var(--grey); font-style: italic; } .held > * { color: var(--dim); }
td small { display: block; color: var(--dim); white-space: nowrap; }
.claim { font-size: 1.1rem; max-width: 80ch; } h4 { margin: 1rem 0 0; }
.verdict { display: inline-block; padding: 0 .6rem; border-radius: .8rem; color: #fff; font-weight: 600; }
.reproduced { background: #00694d; } .contradicted { background: #a84300; } .undecided { background: #5f5f5f; }
.not-testable { background: #5f5f5f; font-style: italic; }
abbr { text-decoration: underline dotted; text-underline-offset: .2em; cursor: help; }
.plot text:not(.hoverlayer *) { fill: var(--text) !important; }
@media (max-width: 600px) { th, td { padding: .3rem .4rem; } th[scope=row], td.text { white-space: normal; }
  td.text { min-width: 6.5rem; } }
@media print { .modebar, nav, .skip { display: none; } .scroll { max-height: none; } }
"""

# Sharing would send the data to a third party. What is drawn can be zoomed and saved with the mouse alone, so the
# buttons for that take no stop of the keyboard: tables hold the same numbers.
_SCRIPT = """
const options = {responsive: true, displaylogo: false, showSendToCloud: false, plotlyServerURL: "",
  modeBarButtonsToRemove: ["select2d", "lasso2d"]};
const dark = matchMedia("(prefers-color-scheme: dark)");
const read = place => JSON.parse(document.getElementById(place.id + "-data").textContent);
function scales(data) {
  return data.map(trace => trace.meta?.dark && dark.matches ? {...trace, colorscale: trace.meta.dark} : trace);
}
async function unpack() {
  const text = document.getElementById("plotly").textContent;
  const packed = await (await fetch("data:application/gzip;base64," + text)).blob();
  const script = document.createElement("script");
  script.textContent = await new Response(packed.stream().pipeThrough(new DecompressionStream("gzip"))).text();
  document.head.append(script);
}
const narrow = () => innerWidth < 600;
// Legends take their room from the page and not from what is drawn.
function fitted(place, {data, layout}) {
  const named = data.filter(trace => trace.name && trace.showlegend !== false && trace.type !== "heatmap").length;
  const rows = Math.ceil(named * 160 / place.clientWidth);
  const taller = {...layout, height: layout.height + 20 * Math.max(0, rows - 1)};
  if (!narrow()) return taller;
  const small = text => ({...text, font: {...text.font, size: 11}});
  return {...small(taller), margin: {...layout.margin, l: 40, r: 8}, annotations: layout.annotations?.map(small)};
}
let ready;
async function draw(place) {
  if (place.classList.contains("drawn")) return;
  place.classList.add("drawn");
  await (ready ??= unpack());
  const figure = read(place);
  await Plotly.newPlot(place, scales(figure.data), fitted(place, figure), options);
  const unstop = () => place.querySelectorAll(".modebar-btn").forEach(button => button.tabIndex = -1);
  unstop();
  place.on("plotly_afterplot", unstop);
}
const places = [...document.querySelectorAll(".plot")];
const near = new IntersectionObserver(entries => {
  for (const entry of entries) if (entry.isIntersecting) { near.unobserve(entry.target); draw(entry.target); }
}, {rootMargin: "600px"});
places.forEach(place => near.observe(place));
addEventListener("beforeprint", () => places.filter(place => place.offsetParent).map(draw));
dark.addEventListener("change", () => {
  for (const place of document.querySelectorAll(".plot.drawn"))
    if (place.data) Plotly.react(place, scales(read(place).data), place.layout, options);
});
"""


@functools.cache
def _packed_plotly() -> str:
    """Return plotly.js, gzipped, as base64; the same for every page."""
    return base64.b64encode(gzip.compress(get_plotlyjs().encode(), mtime=0)).decode()


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
        f'<footer>{foot}</footer><script type="text/plain" id="plotly">{_packed_plotly()}</script>'
        f"<script>{_SCRIPT}</script></body></html>\n"
    )


def drawing(key: str, figure: Figure, caption: str) -> str:
    """Return a figure: the place where it is drawn, its data, and its caption (as text).

    Args:
        key: unique id.
        figure: what is drawn; its height is kept free until then.
        caption: what it shows.
    """
    data = figure.to_json().replace("<", "\\u003c")
    broad = _is_broad(figure)
    # what scrolls on a telephone must take the focus, or the keyboard cannot scroll it
    focus = f' tabindex="0" role="region" aria-labelledby="{key}-caption"' if broad else ""
    return (
        f'<figure aria-labelledby="{key}-caption"><div class="wide"{focus}>'
        f'<div class="plot{" broad" * broad}" id="{key}" style="min-height:{int(figure.layout.height)}px"></div></div>'
        f'<script type="application/json" id="{key}-data">{data}</script>'
        f'<figcaption id="{key}-caption">{escape(caption)}</figcaption></figure>'
    )


def _is_broad(figure: Figure) -> bool:
    """Return whether a figure needs more room than a curve: panels side by side, or a scale of colours."""
    beside = any(axis.domain and axis.domain[0] > 0 for axis in figure.select_xaxes())
    return beside or any(trace.type == "heatmap" for trace in figure.data)
