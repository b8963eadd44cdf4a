"""The benchmark page's style sheet, and the words of its method: constants."""

from __future__ import annotations

_LIGHT = """
  --page: #ffffff; --ink: #16191d; --muted: #5a6068; --rule: #d9dce0; --soft: #f4f5f7;
  --giveback: #0072b2; --other: #9aa0a8; --none: #4d4d4e; --reporting: #d55e00;
  --gen2a: #00835f; --gen2b: #b8548f; --best: #a87400;
  --met: #00734f; --missed: #b3261e; --noise: #8a5a00; --ours: rgb(0 114 178 / 9%);
"""
_DARK = """
  --page: #14171b; --ink: #e9ebee; --muted: #a6adb6; --rule: #353b43; --soft: #1c2026;
  --giveback: #4aa9e0; --other: #767d86; --none: #c9ced4; --reporting: #f08a45;
  --gen2a: #3fc296; --gen2b: #e08cbc; --best: #d9a638;
  --met: #4fcf9c; --missed: #ff8a80; --noise: #e6b450; --ours: rgb(74 169 224 / 16%);
"""
STYLE = f"""
:root {{ color-scheme: light dark; {_LIGHT} }}
@media screen and (prefers-color-scheme: dark) {{ :root {{ {_DARK} }} }}
* {{ box-sizing: border-box; }}
body {{
  margin: 0 auto; padding: 2rem 1.25rem 4rem; max-width: 64rem;
  background: var(--page); color: var(--ink); line-height: 1.5;
  font-family: system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", "Noto Sans",
    "Liberation Sans", Arial, sans-serif;
}}
h1 {{ font-size: clamp(1.4rem, 1.1rem + 1.8vw, 2.05rem); line-height: 1.2; margin: 0 0 .6rem;
  text-wrap: balance; }}
h2 {{ font-size: 1.3rem; margin: 3rem 0 .6rem; }}
h3 {{ font-size: 1rem; margin: 1.8rem 0 .4rem; }}
p {{ margin: .4rem 0; max-width: 48rem; }}
a {{ color: var(--giveback); }}
.kicker, small, .note {{ color: var(--muted); }}
.kicker {{ font-size: .9rem; margin: 0 0 .3rem; }}
.note {{ font-size: .9rem; }}
small {{ display: block; font-size: .78rem; font-weight: normal; line-height: 1.35; }}
figure {{ margin: 1.4rem 0 0; }}
figcaption {{ margin-bottom: .4rem; font-size: .92rem; color: var(--muted); }}
svg {{ display: none; width: 100%; height: auto; overflow: visible;
  stroke-linejoin: round; stroke-linecap: butt; }}
svg text {{ font-family: inherit; }}
@media screen and (max-width: 639px) {{ svg.narrow {{ display: block; }} }}
@media print, (min-width: 640px) {{ svg.wide {{ display: block; }} }}
.scroll {{ overflow-x: auto; }}
table {{ border-collapse: collapse; font-size: .87rem; }}
th, td {{ padding: .32rem .7rem .32rem 0; border-bottom: 1px solid var(--rule);
  vertical-align: top; text-align: left; font-weight: 400; }}
thead th {{ font-weight: 600; font-size: .8rem; vertical-align: bottom; }}
.figures td, .figures thead th + th {{ text-align: right; white-space: nowrap;
  font-variant-numeric: tabular-nums; padding: .32rem 0 .32rem .7rem; }}
.figures thead th + th {{ white-space: normal; min-width: 3.9rem; }}
.figures th:first-child {{ position: sticky; left: 0; background: var(--page);
  white-space: nowrap; padding-right: .8rem; }}
tr.ours td, tr.ours th {{ font-weight: 700; }}
tr.ours td {{ background: var(--ours); }}
.figures td.same {{ color: var(--muted); }}
.verdicts {{ width: 100%; }}
.verdicts th[scope="rowgroup"] {{ font-weight: 700; padding-top: 1.1rem; font-size: .95rem; }}
.verdict {{ font-weight: 700; white-space: nowrap; }}
.met {{ color: var(--met); }} .missed {{ color: var(--missed); }}
.noise {{ color: var(--noise); }} .unmeasured {{ color: var(--muted); }}
tr.gentle td, tr.gentle th {{ color: var(--muted); font-size: .8rem; }}
tr.gentle th {{ padding-left: 1rem; }}
.range {{ white-space: nowrap; }}
.overview {{ margin-top: 1.4rem; }}
.overview td {{ font-weight: 700; }} .overview td small {{ font-weight: 500; color: inherit; }}
.figures.overview th:first-child {{ white-space: normal; min-width: 8rem; max-width: 13rem; }}
tr.gentle .verdict {{ font-weight: 500; color: var(--muted); }}
pre {{ margin: .6rem 0; padding: .8rem 1rem; overflow-x: auto; border-radius: 6px;
  background: var(--soft); font: .84rem/1.5 ui-monospace, "SF Mono", Menlo, "DejaVu Sans Mono",
  Consolas, monospace; white-space: pre-wrap; overflow-wrap: anywhere; }}
dl {{ display: grid; grid-template-columns: max-content 1fr; gap: .2rem 1.2rem; margin: .6rem 0;
  font-size: .9rem; }}
dt {{ color: var(--muted); }} dd {{ margin: 0; overflow-wrap: anywhere; }}
li {{ margin: .2rem 0; overflow-wrap: anywhere; }}
@media screen and (max-width: 639px) {{
  body {{ padding: 1.2rem .9rem 3rem; }}
  dl {{ grid-template-columns: 1fr; gap: 0; }} dd {{ margin-bottom: .5rem; }}
  .verdicts thead {{ display: none; }}
  .verdicts, .verdicts tbody, .verdicts tr, .verdicts td, .verdicts th {{ display: block;
    border: 0; padding: 0; }}
  .verdicts tr {{ padding: .5rem 0; border-bottom: 1px solid var(--rule); }}
  .verdicts tr.gentle {{ padding-left: .8rem; }}
  .verdicts tr.gentle th {{ padding-left: 0; }}
  .verdicts th[scope="row"] {{ font-weight: 600; }}
  .verdicts td[data-label]::before {{ content: attr(data-label) " "; color: var(--muted); }}
}}
@media print {{
  body {{ max-width: none; padding: 0; font-size: 9.5pt; }}
  figure, tr {{ break-inside: avoid; }} h2, h3 {{ break-after: avoid; }}
  .scroll {{ overflow: visible; }} .figures {{ font-size: 6.6pt; width: 100%; }}
  .figures td, .figures thead th + th {{ padding-left: .25rem; min-width: 0; }}
}}
"""

METHOD = (
    (
        "Every cell is one strategy on one work in one round, in fresh VMs, seeded alike. Strategies "
        "take turns, so that a machine which drifts favours none, and they are compared within a "
        "round only: figures are ratios of two cells of one round, and of these the median. Bytes "
        "compare whenever they were measured. Times are held against none\u2019s of the same sitting, "
        "that is of one run of the command; those of two sittings as multiples of their own none\u2019s."
    ),
    (
        "Resident is read on the host each second: the mapping that is the guest's RAM, not the "
        "whole process. Residue is resident less what the guest itself has in use or reserved: held "
        "for nothing; guests are asked every ten seconds and at each mark, so that asking does not keep "
        "them from being idle. At a mark it is the median of the looks in the five seconds before, the "
        "mark's own among them. Footprint is resident "
        "memory times time; after the work it covers the same seconds for every strategy: as long "
        "as all cells of that work were watched. Returnable is what is resident at the work's end "
        "less what the VM truly needs; a dash where a share of it never was returned, as for all that "
        "was not measured. CPU is that of the VM's process on the host, from the "
        "beginning of the work to the end of those seconds."
    ),
    (
        "Several VMs count together: sums, but for the peak, which is that of the sum over time; "
        "a share counts as returned when the last VM has returned its own."
    ),
    (
        "The range behind a ratio is where its true median may lie. It is free of assumptions on "
        "the distribution: with fewer than six rounds from the least to the greatest (which holds "
        "the true median with 50 % for two rounds, 75 % for three, 94 % for five), with more the "
        "order statistics that hold it with 95 %; and it never is narrower than what none itself "
        "varies by from round to round. A difference inside that range is called none. A target is "
        "met or missed where the whole range is on one side of it, and inside the noise where not."
    ),
    (
        "The best other strategy is sought for each target and work anew, among all that are not "
        "giveback or a part of it. One that slows the work by more than 5 %, noise considered, or "
        "whose re-read takes more than 1.5 times as long as that of none or 16 MiB more from disk, "
        "or that has processes killed, hurts the work (\u2020). It is not left out: the first verdict "
        "counts it. Below it is the same target against the best that does not hurt. Less residue "
        "than 1 % of RAM is none: against an other with hardly any, that amount is the limit."
    ),
    (
        "Strategies of others are re-implementations of their published rules and constants, "
        "not their own programs."
    ),
)
