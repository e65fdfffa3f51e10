"""Which rows stay in a buffer, by random priorities or by scores, within a budget of rows or bytes."""

from __future__ import annotations

from collections.abc import Sequence


def lowest_priorities(priorities: Sequence[float], sizes: Sequence[int], budget: int) -> list[int]:
    """The rows with the lowest priorities whose sizes fit together into a budget.

    With independent uniform priorities and sizes of one this is a uniform sample without replacement, and keeping it
    while rows stream in is reservoir sampling: a row once dropped never comes back. With scores it is the best rows.

    Args:
        priorities: One number per row; of equal ones the first row comes first.
        sizes: Cost of every row, at least 1, in the unit of the budget.
        budget: What the chosen rows may cost together.

    Returns:
        Indices of the chosen rows, ascending: the longest run of rows in order of priority that fits.

    Source: bottom-k sampling, Cohen and Kaplan (2007); for equal sizes algorithm R's distribution, Vitter (1985).
    """
    chosen: list[int] = []
    spent = 0
    for index in sorted(range(len(priorities)), key=lambda row: (priorities[row], row)):
        spent += sizes[index]
        if spent > budget:
            break
        chosen.append(index)
    return sorted(chosen)


def fair_shares(demands: Sequence[int], budget: int) -> list[int]:
    """Splits a budget evenly among claimants, none of which gets more than it asks for.

    What a small claimant leaves goes to the others (max-min fairness); a remainder goes to the first ones.

    Args:
        demands: What every claimant can use, at least 0.
        budget: What there is.

    Returns:
        Shares that sum to ``min(budget, sum(demands))``.
    """
    shares: list[int] = [0] * len(demands)
    left = min(budget, sum(demands))
    hungry: list[int] = [index for index, demand in enumerate(demands) if demand > 0]
    while left and hungry:
        # Equal parts as long as there are any; only then the remainder, one by one.
        each = left // len(hungry)
        for index in hungry if each else hungry[:left]:
            given = min(max(each, 1), demands[index] - shares[index])
            shares[index] += given
            left -= given
        hungry = [index for index in hungry if shares[index] < demands[index]]
    return shares
