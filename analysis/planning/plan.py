"""The cheapest deployment and strategy that meet service level objectives."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ttcsim.analysis.planning.accuracy import expected_accuracy
from ttcsim.analysis.planning.best_first import best_first
from ttcsim.analysis.planning.option import Option
from ttcsim.analysis.planning.result import PlanResult
from ttcsim.analysis.planning.search import Objective, Search
from ttcsim.analysis.planning.slo import Slo, parse_slos
from ttcsim.analysis.planning.space import Candidate, candidates, expand_strategy
from ttcsim.analysis.planning.trials import Screened, workers
from ttcsim.errors import InputError, unknown_name
from ttcsim.hwprofiles.catalogue import load_profile
from ttcsim.simulator.model_catalogue import load_model
from ttcsim.simulator.simulate import questions_of
from ttcsim.workloads.strategy import Strategy
from ttcsim.workloads.trace import Trace

Progress = Callable[[str], None]

RANK = {"meets": 0, "misses": 1, "dearer": 2, "ruled out": 3}
"""In which order options are listed."""


def plan(
    *,
    models: Sequence[str],
    hardware: Sequence[str],
    strategies: Sequence[Strategy | str],
    slo: Sequence[str | Slo],
    question_rate: float | None = None,
    deadline_s: float | None = None,
    trace: str | Trace | None = None,
    questions: int | None = None,
    tensor_parallel: Sequence[int] = (1, 2, 4, 8),
    pipeline_parallel: Sequence[int] = (1,),
    weight_dtype: Sequence[str | None] = (None,),
    kv_cache_dtype: Sequence[str | None] = (None,),
    max_num_seqs: Sequence[int | None] = (None,),
    max_num_batched_tokens: Sequence[int | None] = (None,),
    enable_prefix_caching: Sequence[bool | None] = (None,),
    minimise: Objective = "usd",
    seeds: int = 4,
    max_replicas: int = 64,
    scenario: Mapping[str, Any] | None = None,
    jobs: int | None = None,
    progress: Progress | None = None,
) -> PlanResult:
    """Find the cheapest deployment and strategy that meet objectives.

    Args:
        models, hardware: Names to choose from.
        strategies: Strategies, or texts with ranges: "best_of_n:n=4|8" or "majority_vote:n=4..32".
        slo: Objectives such as "makespan_p95:60s" or "accuracy:0.8".
        question_rate: Questions per second (Poisson). [1/s]
        deadline_s: Instead: time in which all questions, asked at once, must be answered. [s]
        trace: Name of a trace, or one; default: the scenario's, or that of scenarios.
        questions: How many are asked in each simulation; default: all of the trace, and with a rate
            as many as arrive while the engines could settle ten times.
        tensor_parallel, pipeline_parallel, weight_dtype, kv_cache_dtype: Ways to serve the model.
        max_num_seqs, max_num_batched_tokens, enable_prefix_caching: Engine settings.
        minimise: usd per hour, or joules per question.
        seeds: Seeds that a plan must meet the objectives with; the margin for a fresh one is a
            one-sided prediction bound.
        max_replicas: Most replicas of a deployment.
        scenario: Other fields of the scenario, such as scorer or dprime.
        jobs: Processes; None for one a core.
        progress: Called with words about what is done.

    Raises:
        InputError: If an argument is not valid.
    """
    slos = _slos(slo, deadline_s)
    _check_load(question_rate, deadline_s)
    if minimise not in ("usd", "joules"):
        raise unknown_name("minimise", minimise, ("usd", "joules"))
    if seeds < 3:
        raise InputError(f"seeds: at least 3 are needed to know their spread (found {seeds})")
    if max_replicas < 1:
        raise InputError(f"max_replicas: must be at least 1 (found {max_replicas})")
    chosen = _strategies(strategies)
    choices: dict[str, Sequence[Any]] = {
        "model": models,
        "hardware": hardware,
        "tensor_parallel": tensor_parallel,
        "pipeline_parallel": pipeline_parallel,
        "weight_dtype": weight_dtype,
        "kv_cache_dtype": kv_cache_dtype,
        "max_num_seqs": max_num_seqs,
        "max_num_batched_tokens": max_num_batched_tokens,
        "enable_prefix_caching": enable_prefix_caching,
    }
    _check_choices(choices)
    base: dict[str, Any] = {**(scenario or {}), "arrivals": {"kind": "all_at_once"}}
    if question_rate is not None:
        base["arrivals"] = {"kind": "poisson", "rate": question_rate}
    if isinstance(trace, str):
        base["trace"] = trace
    if questions is not None:
        base["questions"] = questions
    everything = candidates(choices, chosen)
    first = everything[0].scenario(base, 1)
    asked = trace if isinstance(trace, Trace) else questions_of(first)
    count = first.questions or len(asked.questions)
    rate = question_rate or count / (deadline_s or 1.0)
    least = count if question_rate is not None and first.questions is None else None
    say = progress or (lambda words: None)
    accuracies = {
        each.label(): expected_accuracy(
            first.model_copy(update={"strategy": each}), asked.questions[: first.questions]
        )
        for each in chosen
    }
    with workers(base, asked, jobs) as pool:
        found = pool.screen(everything, lambda done, of: say(f"estimates: {done} of {of}"))
        screened = dict(zip(everything, found, strict=True))
        search = Search(slos, rate, least, minimise, seeds, max_replicas, pool, say)
        meets, others = best_first(search, screened, accuracies)
        neighbours = _neighbours(search, meets[0], meets + others, screened) if meets else []
    options = sorted(meets + others, key=lambda each: (RANK[each.status], each.cost))
    winner = meets[0] if meets else None
    deployed = None
    if winner is not None:
        deployed = winner.candidate.scenario(base, winner.replicas, max(1, winner.scorers))
    return PlanResult(
        winner=winner,
        runners_up=tuple(meets[1:]),
        options=tuple(options),
        neighbours=tuple(neighbours),
        slos=slos,
        minimise=minimise,
        seeds=seeds,
        simulations=search.simulations,
        scenario=deployed,
    )


def _check_load(question_rate: float | None, deadline_s: float | None) -> None:
    if question_rate is None and deadline_s is None:
        raise InputError("plan needs a load: a question rate, or a deadline for a batch")
    if question_rate is not None and deadline_s is not None:
        raise InputError("a question rate and a deadline for a batch exclude each other")
    if question_rate is not None and not 0 < question_rate < math.inf:
        raise InputError(f"question_rate: must be above 0 (found {question_rate:g})")


def _check_choices(choices: Mapping[str, Sequence[Any]]) -> None:
    for name, values in choices.items():
        if isinstance(values, str):
            raise InputError(f"{name}: expected a list, found '{values}'")
        if not values:
            raise InputError(f"{name}: nothing to choose from")
    for model in choices["model"]:
        load_model(model)
    for device in choices["hardware"]:
        load_profile(device)


def _slos(texts: Sequence[str | Slo], deadline_s: float | None) -> tuple[Slo, ...]:
    texts = [texts] if isinstance(texts, str) else texts
    slos = tuple(each for each in texts if isinstance(each, Slo))
    slos += parse_slos([each for each in texts if isinstance(each, str)])
    if deadline_s is not None:
        if not 0 < deadline_s < math.inf:
            raise InputError(f"deadline: must be above 0 s (found {deadline_s:g})")
        slos = (*slos, Slo("deadline", deadline_s))
    if not slos:
        raise InputError("plan needs an objective, such as --slo makespan_p95:60s")
    return slos


def _strategies(given: Sequence[Strategy | str]) -> list[Strategy]:
    found: list[Strategy] = []
    for each in [given] if isinstance(given, str) else given:
        found += expand_strategy(each) if isinstance(each, str) else [each]
    if not found:
        raise InputError("strategies: nothing to choose from")
    return list({each.label(): each for each in found}.values())


def _neighbours(
    search: Search,
    winner: Option,
    options: Sequence[Option],
    screened: Mapping[Candidate, Screened],
) -> list[tuple[str, Option]]:
    """What became of candidates that differ in one thing, and of the winner with a replica less."""
    found: list[tuple[str, Option]] = []
    own = screened[winner.candidate]
    if winner.replicas > search.fewest(own)[0]:
        fewer = search.tried(winner.candidate, own, winner.replicas - 1)
        found.append(("a replica less", fewer))
    elif winner.replicas > 1:
        reason = "less than the full rate needs: work would pile up"
        fewer = Option(winner.candidate, "ruled out", reason, winner.replicas - 1)
        found.append(("a replica less", fewer))
    by_candidate = {each.candidate: each for each in options}
    others = [each for each in by_candidate if each != winner.candidate]
    found += [(what, by_candidate[each]) for what, each in winner.candidate.neighbours(others)]
    return found
