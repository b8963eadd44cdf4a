"""Score the advice of `giveback usage` and two other rules on series of what a VM needed.

    .venv/bin/python benchmarks/advice.py [--seeds 20]

Each rule sees days 1 to 14 and is scored on days 15 to 28: the hours in which the VM would have
needed more than the rule allows, by how much at worst, and the RAM that it allows relative to the
most that was needed. Times and amounts are simulated, so the figures do not depend on the machine.

The other rules: the Kubernetes Vertical Pod Autoscaler's memory target (the 90th percentile of daily
peaks, older ones weighted by half for each day, and 15 %), and the 95th percentile of all hours and
15 %. Source: kubernetes/autoscaler, vertical-pod-autoscaler/pkg/recommender (its defaults).
"""

from __future__ import annotations

import argparse
import math
import random
import statistics
from typing import TYPE_CHECKING

from giveback.manager.history.usage.advice import advise
from giveback_kernel.units import GIB

if TYPE_CHECKING:
    from collections.abc import Callable

DAYS, TRAIN_DAYS, HOURS = 28, 14, 24
RAM_BYTES = 16 * GIB
MARGIN = 1.15
HALF_LIFE_DAYS = 1.0


def constant(_: int, rng: random.Random) -> float:
    """Return 4 GiB and 2 % of noise."""
    return 4.0 * rng.gauss(1, 0.02)


def growing(hour: int, rng: random.Random) -> float:
    """Return what begins with 3 GiB and grows by 0.1 GiB a day."""
    return (3.0 + 0.1 * hour / 24) * rng.gauss(1, 0.02)


def weekly(hour: int, rng: random.Random) -> float:
    """Return 2 GiB, in working hours 6 GiB, and 9 GiB on one night of the week."""
    day, time = divmod(hour, 24)
    level = 9.0 if day % 7 == 5 and time < 4 else 6.0 if day % 7 < 5 and 8 <= time < 18 else 2.0
    return level * rng.gauss(1, 0.03)


def bursty(_: int, rng: random.Random) -> float:
    """Return 2 GiB, and in one hour of 30 a burst of 2 to 7 GiB more."""
    burst = rng.uniform(2.0, 7.0) if rng.random() < 1 / 30 else 0.0
    return 2.0 * rng.gauss(1, 0.05) + burst


def leaking(hour: int, rng: random.Random) -> float:
    """Return what leaks 0.5 GiB a day."""
    return (2.0 + 0.5 * hour / 24) * rng.gauss(1, 0.01)


def restarted(hour: int, rng: random.Random) -> float:
    """Return a leak of 1.5 GiB a day that a restart each Sunday ends."""
    return (1.5 + 1.5 * (hour % 168) / 24) * rng.gauss(1, 0.01)


SERIES: dict[str, Callable[[int, random.Random], float]] = {
    one.__name__: one for one in (constant, growing, weekly, bursty, leaking, restarted)
}


def series(name: str, seed: int) -> list[int]:
    """Return what was needed in each hour of 28 days, in bytes, at most the VM's RAM."""
    rng = random.Random(f"{name}{seed}")
    made = SERIES[name]
    return [min(RAM_BYTES, max(0, int(made(hour, rng) * GIB))) for hour in range(DAYS * HOURS)]


def giveback(hours: list[int]) -> float:
    """Return the advice; without one the VM keeps its RAM."""
    advice = advise({hour * 3600: value for hour, value in enumerate(hours)}, RAM_BYTES)
    return advice.ram_bytes or RAM_BYTES


def vpa(hours: list[int]) -> float:
    """Return the weighted 90th percentile of daily peaks and 15 %."""
    peaks = [max(hours[day * HOURS : (day + 1) * HOURS]) for day in range(len(hours) // HOURS)]
    newest = len(peaks) - 1
    weighted = sorted(
        (peak, 0.5 ** ((newest - day) / HALF_LIFE_DAYS)) for day, peak in enumerate(peaks)
    )
    total, below = sum(weight for _, weight in weighted), 0.0
    for peak, weight in weighted:
        below += weight
        if below >= 0.9 * total:
            return peak * MARGIN
    return weighted[-1][0] * MARGIN


def p95(hours: list[int]) -> float:
    """Return the 95th percentile and 15 %."""
    return sorted(hours)[math.ceil(0.95 * len(hours)) - 1] * MARGIN


RULES: dict[str, Callable[[list[int]], float]] = {
    "giveback": giveback, "VPA-like": vpa, "p95 + 15 %": p95,
}  # fmt: skip


def score(rule: str, name: str, seed: int) -> tuple[int, float, float]:
    """Return hours short, the worst shortage in GiB, and RAM relative to the most needed later."""
    hours = series(name, seed)
    seen, later = hours[: TRAIN_DAYS * HOURS], hours[TRAIN_DAYS * HOURS :]
    allowed = RULES[rule](seen)
    short = [need - allowed for need in later if need > allowed]
    return len(short), max(short, default=0.0) / GIB, allowed / max(later)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=20)
    args = parser.parse_args()
    print(
        f"| series | rule | hours short of {TRAIN_DAYS * HOURS} | worst, GiB | RAM / most needed |"
    )
    print("| --- | --- | ---: | ---: | ---: |")
    for name in SERIES:
        for rule in RULES:
            scores = [score(rule, name, seed) for seed in range(args.seeds)]
            short = statistics.mean(one[0] for one in scores)
            worst = max(one[1] for one in scores)
            ratio = statistics.median(one[2] for one in scores)
            print(f"| {name} | {rule} | {short:.1f} | {worst:.2f} | {ratio:.2f} |")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
