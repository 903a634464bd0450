"""What a run did and what came of it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from nexus_jobs.chaos.checker import Kind, Verdict
from nexus_jobs.chaos.history import History, Reply

_NAMED: Final = 20
"""Breaches that are printed; a run that is broken has thousands."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """`seconds` is how long jobs were offered; `odd` are answers that no client should get, and
    `log` is the platform's, kept where the promise was broken.
    """

    database: str
    seed: int
    seconds: float
    offered: int
    injected: Mapping[str, int]
    odd: Mapping[str, int]
    history: History
    verdict: Verdict
    log: Path | None

    @property
    def kept(self) -> bool:
        """Whether the promise was kept."""
        return not self.verdict.breaches

    def lines(self) -> Iterator[str]:
        """The report, for people."""
        replies = [one.reply for one in self.history.tries]
        verdict = self.verdict
        yield f"database  {self.database}, seed {self.seed}"
        yield f"faults    {sum(self.injected.values())} injected"
        yield from (f"          {count:>5} {name}" for name, count in sorted(self.injected.items()))
        yield (
            f"jobs      {self.offered} offered in {self.seconds:.0f} s "
            f"({self.offered / self.seconds:.0f}/s), {len(replies)} tries: "
            + ", ".join(f"{replies.count(reply)} {reply}" for reply in Reply)
        )
        yield f"checked   {sum(verdict.states.values())} rows, {len(self.history.told)} answers"
        yield from (
            f"          {count:>5} {state}" for state, count in sorted(verdict.states.items())
        )
        yield from (
            f"          {count:>5} of them stored, but {reply} as their clients see it"
            for reply, count in sorted(verdict.unasked.items())
        )
        yield from (f"odd       {count:>5} {answer}" for answer, count in self.odd.items())
        yield ", ".join(f"{kind} {verdict.count(kind)}" for kind in Kind)
        yield from (f"  {b.kind}: {b.job}: {b.why}" for b in verdict.breaches[:_NAMED])
        if len(verdict.breaches) > _NAMED:
            yield f"  and {len(verdict.breaches) - _NAMED} more"
        if self.log is not None:
            yield f"the platform's log is in {self.log}"
