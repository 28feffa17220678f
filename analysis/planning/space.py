"""What a plan chooses from: strategies with ranges, devices, ways to share a model, knobs."""

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ttcsim.errors import InputError
from ttcsim.simulator.scenario import Scenario, make_scenario
from ttcsim.workloads.strategies import parse_strategy
from ttcsim.workloads.strategy import Strategy

Fields = dict[str, Any]

DEPLOYMENT = (
    "model", "hardware", "tensor_parallel", "pipeline_parallel", "weight_dtype", "kv_cache_dtype",
)  # fmt: skip
ENGINE = ("max_num_seqs", "max_num_batched_tokens", "enable_prefix_caching")


@dataclass(frozen=True)
class Candidate:
    """One deployment and strategy, the number of replicas left open.

    Attributes:
        knobs: Fields of the deployment and its engine that the plan chose, by name.
        strategy: How questions are answered.
    """

    knobs: tuple[tuple[str, Any], ...]
    strategy: Strategy

    @property
    def values(self) -> Fields:
        """What was chosen, the strategy included."""
        return {**dict(self.knobs), "strategy": self.strategy.label()}

    def neighbours(self, others: Iterable["Candidate"]) -> list[tuple[str, "Candidate"]]:
        """Candidates that differ in one thing, with its name."""
        found = []
        for other in others:
            own, theirs = self.values, other.values
            different = [name for name in own if own[name] != theirs[name]]
            if len(different) == 1:
                found.append((different[0], other))
        return found

    def scenario(self, base: Fields, replicas: int, scorers: int = 1, seed: int = 0) -> Scenario:
        """The candidate with so many replicas.

        Raises:
            InputError: If the fields make no scenario.
        """
        chosen = dict(self.knobs)
        generator = dict(base.get("generator") or {})
        engine = dict(generator.get("engine") or {})
        generator |= {name: chosen[name] for name in DEPLOYMENT if chosen.get(name) is not None}
        engine |= {name: chosen[name] for name in ENGINE if chosen.get(name) is not None}
        generator |= {"replicas": replicas, "engine": engine}
        fields = {**base, "generator": generator, "strategy": self.strategy, "seed": seed}
        if (
            "scorer" in self.strategy.deployments()
            and base.get("scorer_placement") != "same_engine"
        ):
            scorer = {"model": generator["model"], "hardware": generator["hardware"]}
            scorer |= base.get("scorer") or {}
            if base.get("scorer_placement") == "colocated":
                scorer |= {name: generator.get(name, 1) for name in ("tensor_parallel", "replicas")}
            else:
                scorer["replicas"] = scorers
            fields["scorer"] = scorer
        return make_scenario("plan", fields)


def candidates(
    choices: Mapping[str, Sequence[Any]], strategies: Sequence[Strategy]
) -> list[Candidate]:
    """All combinations of choices, in order."""
    names = list(choices)
    found = []
    for values in itertools.product(*choices.values()):
        knobs = tuple(zip(names, values, strict=True))
        found += [Candidate(knobs, strategy) for strategy in strategies]
    return found


def expand_strategy(text: str) -> Iterator[Strategy]:
    """A strategy, or several: `best_of_n:n=4|8|16`, or `n=4..32` for 4, 8, 16, 32.

    Raises:
        InputError: If a strategy or a range is not valid.
    """
    name, colon, rest = text.partition(":")
    if not colon:
        yield parse_strategy(name)
        return
    parameters = []
    for part in rest.split(","):
        key, equals, value = part.partition("=")
        options = _options(text, value) if equals else [value]
        parameters.append([f"{key}{equals}{option}" for option in options])
    for chosen in itertools.product(*parameters):
        yield parse_strategy(f"{name}:{','.join(chosen)}")


def _options(text: str, value: str) -> list[str]:
    if "|" in value:
        return value.split("|")
    if ".." not in value:
        return [value]
    low, _, high = value.partition("..")
    try:
        first, last = int(low), int(high)
    except ValueError:
        raise InputError(f"--strategy {text}: {value} is not a range such as 4..32") from None
    if not 1 <= first <= last:
        raise InputError(f"--strategy {text}: {value} must go up, from at least 1")
    found = []
    while first <= last:
        found.append(str(first))
        first *= 2
    return found
