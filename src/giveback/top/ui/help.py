"""The help of `giveback top`: keys, what the bar means, where more is said."""

from __future__ import annotations

from giveback.top.bars import GLYPHS

TEXT = f"""\
↑ ↓ PgUp PgDn Home End   select a VM
Enter  explain it: every byte, services, what would bring it back
d      doctor: why its memory does not come back
r      reclaim: a preview first, Enter confirms
t      replay the history; t or Esc goes back to live
s S o  next order, previous one, the other way round
/      filter: words in name, owner, condition; -word: without it
p      pause, and go on                          q  quit

The bar is the VM's RAM:
  {GLYPHS["needed"]}{GLYPHS["needed"]} needed    in use: neither free nor clean page cache
  {GLYPHS["cache"]}{GLYPHS["cache"]} cache     clean page cache that the host holds
  {GLYPHS["trapped"]}{GLYPHS["trapped"]} trapped   free in the guest, still held by the host
  {GLYPHS["returned"]}{GLYPHS["returned"]} returned  held once, and given back
  {GLYPHS["rest"]}{GLYPHS["rest"]} never touched, ballooned or swapped out
  {GLYPHS["held"]}{GLYPHS["held"]} resident, and the guest does not say for what
The host's bar adds {GLYPHS["others"]}{GLYPHS["others"]}: used by all other than VMs.

TREND     resident memory over the last minutes, of RAM
PRESSURE  part of the last 10 s in which tasks waited for memory
LAST REQUEST  asked by the daemon, and what the host got

In the replay: ← → one step, Shift+← Shift+→ ten.
"""
