"""Ages of free pages: they count only pages that were free and resident in every sample."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from giveback.accounting.page_ledger import Ages

PAGE = 4096


def mask(*held: int) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
    return np.array(held, dtype=bool)


def test_a_page_ages_only_while_it_is_free_and_resident() -> None:
    ages = Ages()
    assert ages.add_sample(mask(1, 1, 0), 0.0, PAGE) == ()
    assert ages.add_sample(mask(1, 1, 1), 10.0, PAGE) == ((0.0, 3 * PAGE), (10.0, 2 * PAGE))
    assert ages.add_sample(mask(1, 0, 1), 15.0, PAGE) == ((5.0, 2 * PAGE), (15.0, PAGE))
    assert ages.add_sample(mask(1, 1, 0), 20.0, PAGE) == ((0.0, 2 * PAGE), (20.0, PAGE))
    assert ages.add_sample(mask(1, 1), 25.0, PAGE) == ()


@given(st.lists(st.lists(st.booleans(), min_size=5, max_size=5), min_size=2, max_size=6))
def test_the_amounts_fall_with_age_and_begin_with_all(samples: list[list[bool]]) -> None:
    ages = Ages()
    for now_s, held in enumerate(samples):
        found = ages.add_sample(np.array(held), float(now_s), PAGE)
    amounts = [amount for _, amount in found]
    assert amounts == sorted(amounts, reverse=True)
    assert [age for age, _ in found] == sorted(age for age, _ in found)
    assert (amounts[0] if amounts else 0) == sum(samples[-1]) * PAGE
