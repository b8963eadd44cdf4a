"""A shared budget: no owner exhausts it, and all that was taken can be given back."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from giveback.host.budgets import Budget

STEPS = st.lists(st.tuples(st.integers(0, 4), st.integers(0, 20), st.booleans()), max_size=60)


@given(STEPS, st.integers(0, 60), st.integers(0, 30))
def test_no_limit_is_exceeded_and_returned_amounts_can_be_taken_again(
    steps: list[tuple[int, int, bool]], in_all: int, each: int
) -> None:
    budget, held = Budget(in_all, each), dict.fromkeys(range(5), 0)
    for owner, amount, takes in steps:
        if takes:
            fits = held[owner] + amount <= each and sum(held.values()) + amount <= in_all
            assert budget.take(owner, amount) == fits
            held[owner] += amount * fits
        else:
            given = min(amount, held[owner])
            budget.give(owner, given)
            held[owner] -= given
        assert all(budget.taken(one) == amount for one, amount in held.items())
        assert budget.taken_in_all == sum(held.values())


def test_more_than_was_taken_cannot_be_given_back() -> None:
    budget = Budget(10, 5)
    assert budget.take("a", 3)
    with pytest.raises(ValueError, match="1 more than it has taken"):
        budget.give("a", 4)
    assert budget.taken("a") == 3


def test_an_account_gives_back_all_that_it_took_also_after_an_error() -> None:
    budget = Budget(10, 5)

    def session() -> None:
        with budget.account("a") as account:
            assert account.take(2)
            assert account.take(3)
            assert not account.take(1)
            assert account.taken == 5
            raise KeyError

    with pytest.raises(KeyError):
        session()
    assert budget.taken_in_all == 0
