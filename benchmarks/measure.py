# SPDX-License-Identifier: Apache-2.0
"""Times contestants against each other on a machine that may run other processes.

All contestants run in each round, one after the other, in rotating order. A round in which other processes used the
processors, or other machines of the host the memory, is discarded and counted. Ratios are taken within a round, so that
slow drift cancels.
"""

import gc
import math
import os
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

FOREIGN_LIMIT = 0.06  # of the processors' time; a compiler running meanwhile doubles times
SLOW_MEMORY = 2.0  # times the undisturbed time; no counter shows other virtual machines' use of the memory
FEWEST_ROUNDS = 3  # clean ones that a verdict needs
TICK = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Settings:
    """`rounds`: clean ones to reach. `attempts`, `seconds`: limits on a disturbed machine.

    `slice`: seconds for which each contestant runs in a round. A round has to last for many ticks of /proc/stat.
    `thorough`: big lists, slow contestants and compilers too. `budget`: seconds in all; after that, each race that is
    left has the fewest rounds.
    """

    rounds: int = 21
    attempts: int = 45
    seconds: float = 25.0
    slice: float = 0.12
    judged: bool = True
    thorough: bool = True
    budget: float = math.inf
    compiled_tensors: int = 30  # lists with more are not compiled: it takes seconds for ten, minutes for hundreds


FULL = Settings()
QUICK = Settings(rounds=5, attempts=9, seconds=2.0, slice=0.06, thorough=False, budget=100.0)
SMOKE = Settings(rounds=1, attempts=1, slice=0.0, judged=False, thorough=False)
HOST = Settings(rounds=5, attempts=10, seconds=0.5, slice=0.005)  # of what takes microseconds


@dataclass(frozen=True)
class Contestant:
    """`run(calls)` makes so many calls and returns the seconds that one of them took.

    `undisturbed`: for a yardstick. Takes the time of a call and returns the shortest known time of one.
    """

    name: str
    run: Callable[[int], float]
    undisturbed: Callable[[float], float] | None = None


@dataclass
class Result:
    """All rounds of one race. `times[name][i]`: seconds per call; `foreign[i]`: None where it cannot be known.

    `limits[name]`: seconds that a yardstick takes at most in a clean round.
    """

    times: dict[str, list[float]]
    calls: dict[str, int]
    foreign: list[float | None] = field(default_factory=list)
    limits: dict[str, float] = field(default_factory=dict)

    @property
    def clean(self) -> list[int]:
        """The indices of the undisturbed rounds."""
        alone = [i for i, foreign in enumerate(self.foreign) if foreign is None or foreign <= FOREIGN_LIMIT]
        return [i for i in alone if all(self.times[name][i] <= limit for name, limit in self.limits.items())]

    @property
    def trusted(self) -> bool:
        """Whether there are enough clean rounds for a verdict."""
        return len(self.clean) >= FEWEST_ROUNDS

    def _used(self) -> list[int]:
        # Without enough clean rounds all are used; the verdict then is "disturbed".
        return self.clean if self.trusted else list(range(len(self.foreign)))

    def seconds(self, name: str) -> float:
        """Median over the rounds."""
        return statistics.median(self.times[name][i] for i in self._used())

    def ratio(self, slow: str, fast: str) -> tuple[float, float, float]:
        """How many times longer `slow` takes than `fast`: lower quartile, median, upper quartile over the rounds.

        >>> result = Result({"a": [2.0, 4.0, 6.0], "b": [1.0, 1.0, 1.0]}, {}, [0.0, 0.0, 0.0])
        >>> result.ratio("a", "b")
        (3.0, 4.0, 5.0)
        """
        return quartiles([self.times[slow][i] / self.times[fast][i] for i in self._used()])

    def range(self, name: str) -> tuple[float, float, float]:
        """Seconds of one contestant: lower quartile, median, upper quartile over the rounds."""
        return quartiles([self.times[name][i] for i in self._used()])

    def spread(self, name: str, twin: str) -> float:
        """The distance from 1 of the quartiles of a contestant against itself: the resolution of this measurement."""
        low, _, high = self.ratio(name, twin)
        return max(high - 1.0, 1.0 - low)


def quartiles(values: Sequence[float]) -> tuple[float, float, float]:
    """Lower quartile, median, upper quartile.

    >>> quartiles([4.0, 1.0, 3.0, 2.0, 5.0]), quartiles([7.0])
    ((2.0, 3.0, 4.0), (7.0, 7.0, 7.0))
    """
    if len(values) == 1:
        return values[0], values[0], values[0]
    low, middle, high = statistics.quantiles(values, n=4, method="inclusive")
    return low, middle, high


def busy_seconds() -> float | None:
    """Busy seconds of this process's processors since boot, for all processes; None if unknown."""
    try:
        lines = Path("/proc/stat").read_text().splitlines()
        ours = {f"cpu{i}" for i in os.sched_getaffinity(0)}
    except (OSError, AttributeError):
        return None
    total = 0
    for name, *fields in (line.split() for line in lines if line.startswith("cpu")):
        if name in ours:
            user, nice, system, _idle, _iowait, irq, softirq, steal = map(int, fields[:8])
            total += user + nice + system + irq + softirq + steal
    return total / TICK


class Watch:
    """Measures the part of the processors' time that other processes and virtual machines used since its creation."""

    def __init__(self) -> None:
        self.busy, self.own, self.wall = busy_seconds(), time.process_time(), time.perf_counter()

    def foreign(self) -> float | None:
        busy = busy_seconds()
        if busy is None or self.busy is None:
            return None
        own, wall = time.process_time() - self.own, time.perf_counter() - self.wall
        return max(0.0, busy - self.busy - own) / (wall * len(os.sched_getaffinity(0)))


def calls_for(contestant: Contestant, seconds: float) -> int:
    """The number of calls that take so many seconds, with the preparations between them."""
    contestant.run(1)
    calls = 1
    while True:
        begin = time.perf_counter()
        contestant.run(calls)
        took = time.perf_counter() - begin
        if took >= 0.2 * seconds:  # shorter samples are too noisy
            return max(1, round(calls * seconds / max(took, 1e-9)))
        calls *= 4


def race(contestants: Sequence[Contestant], settings: Settings, on_gpu: bool = False) -> Result:
    """Runs the contestants in rounds until `settings.rounds` of them were clean, or a limit is reached.

    `on_gpu`: times are the GPU's, which load on the processors does not change.
    """
    calls = {c.name: calls_for(c, settings.slice) for c in contestants}
    result = Result({c.name: [] for c in contestants}, calls)
    collecting = gc.isenabled()
    gc.collect()
    gc.disable()
    deadline = time.perf_counter() + settings.seconds
    try:
        for attempt in range(settings.attempts):
            first = attempt % len(contestants)
            watch = Watch()
            for c in (*contestants[first:], *contestants[:first]):
                if not on_gpu:
                    c.run(1)  # warms caches and threads
                result.times[c.name].append(c.run(calls[c.name]))
                if c.undisturbed is not None and settings.judged:
                    result.limits[c.name] = SLOW_MEMORY * c.undisturbed(result.times[c.name][-1])
            result.foreign.append(None if on_gpu else watch.foreign())
            enough, attempted = len(result.clean) == settings.rounds, len(result.foreign) >= FEWEST_ROUNDS
            if enough or (attempted and time.perf_counter() > deadline):
                break
    finally:
        if collecting:
            gc.enable()
    return result
