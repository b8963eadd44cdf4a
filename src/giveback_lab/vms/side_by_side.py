"""Run several coroutines concurrently; when one ends the group, the others end with it."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Coroutine, Iterable


async def side_by_side(
    works: Iterable[Coroutine[Any, Any, None]], until: str = asyncio.FIRST_EXCEPTION
) -> None:
    """Run all to their end, or until one has ended (`asyncio.FIRST_COMPLETED`); then cancel the rest.

    The first error cancels the others and is raised unchanged.
    """
    tasks = [asyncio.ensure_future(work) for work in works]
    try:
        # Not gather: it would cancel the tasks itself, and again below while they clean up.
        done, _ = await asyncio.wait(tasks, return_when=until)
        for task in done:
            task.result()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
