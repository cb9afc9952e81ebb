"""How the page of packs looks: light and dark, wide and narrow.

Blue and orange of Okabe and Ito's palette, which colour-blind readers tell apart; loss is
underlined too, and unused slots are hatched, so that nothing is said by colour alone.
"""

STYLE = """:root {
  color-scheme: light dark;
  --page: #f4f5f6; --card: #ffffff; --ink: #1a1d20; --muted: #565c63; --line: #cfd4d9;
  --loss: #0072b2; --loss-back: #dcecf8; --free: #9aa1a8; --image: #e69f00;
  --note: #fdf1d6;
}
@media (prefers-color-scheme: dark) {
  :root {
    --page: #121518; --card: #1b1f23; --ink: #e4e7ea; --muted: #a3abb3; --line: #3a4148;
    --loss: #56b4e9; --loss-back: #15364c; --free: #6d757d; --image: #e69f00;
    --note: #3b2f10;
  }
}
* { box-sizing: border-box; }
body { margin: 0; background: var(--page); color: var(--ink);
  font: 16px/1.5 system-ui, "Segoe UI", Roboto, "Noto Sans", sans-serif; }
main { max-width: 68rem; margin: 0 auto; padding: 1rem; }
h1 { font-size: 1.5rem; margin: .5rem 0; overflow-wrap: anywhere; }
h2 { font-size: 1.2rem; margin: 2.5rem 0 .25rem; }
h3 { font-size: 1rem; font-weight: 600; margin: 0; overflow-wrap: anywhere; }
code { font-family: ui-monospace, "DejaVu Sans Mono", monospace; font-size: .9em;
  unicode-bidi: isolate; }
.facts { margin: .1rem 0; color: var(--muted); font-size: .875rem; }
.facts b { color: var(--ink); }
.legend { display: flex; flex-wrap: wrap; gap: .4rem 1.25rem; margin: .75rem 0; padding: 0;
  list-style: none; font-size: .875rem; }
.key { display: inline-block; width: 1.1em; height: .8em; margin-right: .45em; }
.key.loss { background: var(--loss); }
.key.free { background: var(--free); }
.key.image { background: var(--image); }
.key.unused, .strip { border: 1px solid var(--line);
  background: repeating-linear-gradient(135deg, var(--card) 0 4px, var(--line) 4px 6px); }
.strip { display: block; width: 100%; height: 1.1rem; margin: .4rem 0 .75rem; }
.strip rect.loss { fill: var(--loss); }
.strip rect.free { fill: var(--free); }
.strip rect.image { fill: var(--image); }
.strip path { stroke: var(--card); stroke-width: 2px; vector-effect: non-scaling-stroke; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-size: .875rem; font-variant-numeric: tabular-nums; }
caption { text-align: start; color: var(--muted); padding-bottom: .25rem; }
th, td { padding: .2rem .75rem; border-top: 1px solid var(--line); text-align: end; }
th:first-child { text-align: start; padding-left: 0; }
article { background: var(--card); border: 1px solid var(--line); border-radius: .4rem;
  margin: .6rem 0; padding: .6rem .8rem; overflow: hidden; }
.source { border: 1px solid var(--line); border-radius: .25rem; padding: 0 .4em;
  unicode-bidi: isolate; }
.text { margin: .5rem 0 0; white-space: pre-wrap; overflow-wrap: anywhere; }
.text > * { unicode-bidi: isolate; }
mark { color: inherit; background: var(--loss-back); text-decoration: underline var(--loss) 2px;
  text-underline-offset: .2em; text-decoration-skip-ink: none; }
.free { color: var(--muted); }
.chip { border: 1px solid currentColor; border-radius: .25rem; padding: 0 .3em; font-size: .8em;
  font-family: ui-monospace, "DejaVu Sans Mono", monospace; white-space: nowrap; }
figure { margin: .5rem 0 0; border-left: 4px solid var(--image); padding-left: .4rem; }
.tiles { display: flex; flex-wrap: wrap; gap: .4rem; }
.tiles .chip { align-self: center; }
.tiles img { display: block; height: 9rem; max-width: 100%; object-fit: contain; }
.tiles img[src^="data:image/png"] { image-rendering: pixelated; }
.tiles img:focus { height: auto; width: 24rem; }
figcaption { font-size: .8rem; color: var(--muted); }
.note { background: var(--note); border-radius: .4rem; padding: .4rem .8rem; font-size: .875rem;
  overflow-wrap: anywhere; }
.note ul { margin: .2rem 0; padding-left: 1.2rem; }
"""
