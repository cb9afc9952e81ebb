"""How the page of answers looks, beyond what it shares with the page of packs.

Right is blue, wrong is orange (Okabe and Ito), and each says so in a word and a sign, so that
nothing is said by colour alone. The filter is made of radio buttons, as the page runs no script.
"""

ANSWERS_STYLE = """:root { --right: #0072b2; --wrong: #b34700; }
@media (prefers-color-scheme: dark) { :root { --right: #56b4e9; --wrong: #f0a04b; } }
.filter { display: flex; flex-wrap: wrap; gap: .4rem 1.25rem; margin: 1.5rem 0 .5rem; padding: 0;
  border: 0; }
.filter legend { padding: 0; color: var(--muted); font-size: .875rem; }
main:has(#only-right:checked) article:not(.right),
main:has(#only-part:checked) article:not(.part),
main:has(#only-wrong:checked) article:not(.wrong) { display: none; }
.answers { display: grid; gap: .75rem; margin-top: .75rem;
  grid-template-columns: repeat(auto-fill, minmax(min(100%, 19rem), 1fr)); }
.answers article { margin: 0; border-top: 4px solid var(--wrong); }
.answers article.right { border-top-color: var(--right); }
.answers article.part { border-top-style: double; border-top-color: var(--right); }
.verdict { font-weight: 600; color: var(--wrong); }
.right .verdict, .part .verdict { color: var(--right); }
.answers header { display: flex; justify-content: space-between; gap: .75rem; }
.answers header code { color: var(--muted); overflow-wrap: anywhere; }
.answers img { display: block; max-width: 100%; max-height: 14rem; margin: .5rem 0;
  border-radius: .25rem; }
.answers img[src^="data:image/png"] { image-rendering: pixelated; min-height: 6rem; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .1rem .75rem; margin: .5rem 0 0; }
dt { color: var(--muted); font-size: .875rem; }
dd { margin: 0; white-space: pre-wrap; overflow-wrap: anywhere; unicode-bidi: isolate; }
dd.said { font-weight: 600; }
details { margin-top: .5rem; font-size: .875rem; }
summary { color: var(--muted); cursor: pointer; }
details ol { margin: .2rem 0; padding-left: 1.4rem; }
details li { overflow-wrap: anywhere; }
.settings { margin-top: 2.5rem; }
.settings dl { font-size: .875rem; }
"""
