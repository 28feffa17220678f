"""Run several strategies on the same questions, with common random numbers, side by side."""

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ttcsim.analysis import iso, paired
from ttcsim.analysis.view import View
from ttcsim.errors import InputError
from ttcsim.simulator.results import Result
from ttcsim.simulator.scenario import Scenario
from ttcsim.simulator.simulate import simulate
from ttcsim.workloads.strategies import parse_strategy
from ttcsim.workloads.strategy import Strategy
from ttcsim.workloads.trace import Trace

if TYPE_CHECKING:
    import pandas as pd

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Comparison:
    """Results of several strategies on one scenario, in the order in which they were given."""

    results: tuple[Result, ...]

    @property
    def summaries(self) -> list[dict[str, Any]]:
        """One summary a strategy."""
        return [result.summary for result in self.results]

    def differences(self, baseline: str | None = None) -> View[paired.Difference]:
        """Paired differences from a baseline (the first strategy if none is named)."""
        return paired.differences(self.results, baseline)

    def iso_accuracy(self, targets: Sequence[float] | None = None) -> View[iso.IsoAccuracy]:
        """The cheapest strategy for each accuracy, by makespan, joules and dollars."""
        return iso.iso_accuracy(self.summaries, targets)

    def iso_budget(
        self, budgets: Mapping[str, Sequence[float]] | None = None
    ) -> View[iso.IsoBudget]:
        """The most accurate strategy for each budget of seconds, joules or dollars a question."""
        return iso.iso_budget(self.summaries, budgets)

    def pareto(self) -> View[iso.ParetoPoint]:
        """The strategies that no other beats in accuracy, makespan, joules and dollars together."""
        return iso.pareto(self.summaries)

    def to_dict(self, tables: bool = False, baseline: str | None = None) -> dict[str, Any]:
        """Plain data for JSON; `baseline` is what the differences are from."""
        return {
            "schema_version": 1,
            "kind": "comparison",
            "results": [result.to_dict(tables) for result in self.results],
            "differences": self.differences(baseline).to_dicts(),
            "pareto": self.pareto().to_dicts(),
            "iso_accuracy": self.iso_accuracy().to_dicts(),
            "iso_budget": self.iso_budget().to_dicts(),
        }

    def to_pandas(self) -> "pd.DataFrame":
        """One row a strategy, one column a key of the summary."""
        import pandas as pd

        return pd.DataFrame(self.summaries)


def compare(
    scenario: Scenario,
    strategies: Iterable[Strategy | str],
    *,
    trace: Trace | None = None,
    jobs: int | None = 1,
    progress: Progress | None = None,
) -> Comparison:
    """Run a scenario once with each strategy; a strategy's row does not depend on the others.

    Args:
        scenario: Everything but the strategy, which is replaced.
        strategies: Strategies, or texts such as "best_of_n:n=8".
        trace: Questions to use instead of the scenario's.
        jobs: Processes; None for one a core. (A strategy defined in a script needs 1 where
            processes do not inherit the script.)
        progress: Called with (strategies done, strategies).

    Raises:
        InputError: If a strategy cannot be run on this scenario.
    """
    given = [strategies] if isinstance(strategies, str) else strategies
    chosen = [parse_strategy(each) if isinstance(each, str) else each for each in given]
    if not chosen:
        raise InputError("compare needs at least one strategy")
    labels = [each.label() for each in chosen]
    if twice := next((label for label in labels if labels.count(label) > 1), None):
        raise InputError(f"strategy {twice} is given twice")
    scenarios = [scenario.model_copy(update={"strategy": each}) for each in chosen]
    workers = min(jobs or os.cpu_count() or 1, len(scenarios))
    run = _serial if workers == 1 else _parallel
    return Comparison(tuple(run(scenarios, trace, workers, progress or (lambda done, n: None))))


def _serial(
    scenarios: Sequence[Scenario], trace: Trace | None, _: int, progress: Progress
) -> list[Result]:
    results = []
    for scenario in scenarios:
        results.append(simulate(scenario, trace=trace))
        progress(len(results), len(scenarios))
    return results


def _parallel(
    scenarios: Sequence[Scenario], trace: Trace | None, workers: int, progress: Progress
) -> list[Result]:
    with ProcessPoolExecutor(workers) as pool:
        # Strategies tend to be given from simple to complex: the long ones had better start first.
        futures: list[Future[Result]] = [
            pool.submit(simulate, scenario, trace=trace) for scenario in reversed(scenarios)
        ][::-1]
        try:
            for done, future in enumerate(as_completed(futures), 1):
                future.result()
                progress(done, len(futures))
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
        return [future.result() for future in futures]
