"""What was compared and how far to trust it, in words: the same on the terminal and in reports."""

from collections.abc import Mapping, Sequence
from typing import Any

from ttcsim.simulator.results import Result


def scene(*results: Result) -> str:
    """One line on what was served where, and what was asked."""
    return f"{served(*results)}; {asked(*results)}"


def served(*results: Result) -> str:
    """Models, and the devices that they are on."""
    scenario = results[-1].scenario
    deployments = {k: v for result in results for k, v in result.summary["deployments"].items()}
    placements = {result.summary["scorer_placement"] for result in results} - {None}
    found = [_served(deployments["generator"])]
    if "prefiller" in deployments:
        found.append(f"prompts by {_served(deployments['prefiller'])}")
    if "scorer" in deployments:
        where = "on the same devices" if "colocated" in placements else ""
        found.append(f"scorer {_served(deployments['scorer'], where)}")
    elif scenario["scorer_placement"] == "same_engine":
        found.append("scoring itself")
    return ", ".join(found)


def asked(*results: Result) -> str:
    """Questions, how they arrive, and the seed."""
    scenario, s = results[-1].scenario, results[-1].summary
    how = _arrivals(scenario["arrivals"])
    return f"{s['questions']} questions of {s['trace']}, {how}, seed {scenario['seed']}"


def _served(deployment: Mapping[str, Any], where: str = "") -> str:
    model = deployment["model"].rpartition("/")[2]
    replicas, size = deployment["replicas"], deployment["tensor_parallel"]
    stages, sharing = deployment["pipeline_parallel"], deployment["data_parallel"]
    sizes = [f"tp {size}"] if size > 1 else []
    sizes += [f"pp {stages}"] if stages > 1 else []
    sizes += [f"dp {sharing}"] if sharing > 1 else []
    sizes += [f"{replicas} replicas"] if replicas > 1 else []
    inside = f" ({', '.join(sizes)})" if sizes else ""
    devices = replicas * size * stages * sharing
    return f"{model} " + (where or f"on {devices} x {deployment['hardware']}{inside}")


def _arrivals(arrivals: Mapping[str, Any] | None) -> str:
    match arrivals:
        case {"kind": "poisson", "rate": rate}:
            return f"{rate:g} questions/s (Poisson)"
        case {"kind": "gamma", "rate": rate, "burstiness": shape}:
            return f"{rate:g} questions/s (burstiness {shape:g})"
        case {"kind": "closed_loop", "concurrency": concurrency}:
            return f"{concurrency} questions at a time"
        case {"kind": kind}:
            return str(kind).replace("_", " ")
    return "at the trace's times, else all at once"


def accuracy_text(s: Mapping[str, Any]) -> tuple[str, str]:
    """Accuracy and its source; there is none without the other."""
    expected = s["accuracy_expected"]
    value = s["accuracy"] if expected is None else expected
    if s["accuracy_source"] is None or value is None:
        return "-", ""
    of = "" if expected is not None else ", this run"
    return f"{value:.3f}", f"({s['accuracy_source']}{of})"


def percent(value: float | None) -> str:
    """A share in whole percent."""
    return "-" if value is None else f"{100 * value:.0f}%"


def wasted(s: Mapping[str, Any]) -> float:
    """Share of the output tokens that were cancelled or discarded."""
    output = float(s["output_tokens_per_question"])
    lost = float(s["cancelled_tokens_per_question"] + s["discarded_tokens_per_question"])
    return lost / output if output else 0.0


def notes(*summaries: Mapping[str, Any]) -> list[str]:
    """What the numbers rest on, a line each; warnings begin with an exclamation mark."""
    s = summaries[-1]
    found = [f"! {warning}" for warning in _warnings(summaries)]
    found += [
        f"times: {_levels(s['time_level'])}; {_levels(s['time_error'])}",
        f"joules: {_levels(s['energy_level'])}; {_levels(s['energy_error'])}",
        f"schedule: that of {s['engine_version']}",
    ]
    if any(each["resampled"] for each in summaries):
        found.append("samples: traced ones were drawn again where there are too few")
    dprime = next((x["scorer_dprime"] for x in summaries if x["scorer_dprime"] is not None), None)
    if dprime is not None:
        found.append(f"scores: modelled, d' = {dprime:g}")
    return found


OVERLOAD = 0.8
"""Share of questions answered while others still arrive, below which work is said to pile up."""


def _warnings(summaries: Sequence[Mapping[str, Any]]) -> list[str]:
    """What a reader must know before the numbers."""
    found = []
    piled = [
        f"{s['strategy']} ({percent(s['answered_while_arriving'])})"
        for s in summaries
        if s["answered_while_arriving"] is not None and s["answered_while_arriving"] < OVERLOAD
    ]
    if piled:
        found.append(
            "work piles up, so makespans depend on the length of the run; answered while questions"
            f" still came: {', '.join(piled)}"
        )
    if any(s["mixed_samples"] for s in summaries):
        found.append("samples were written by several models; all tokens are costed on this one")
    if models := summaries[-1]["transferred_from"]:
        found.append(f"lengths and answers are those of {', '.join(models)}, not of this model")
    return found


def _levels(levels: Mapping[str, str]) -> str:
    kinds = set(levels.values())
    if len(kinds) == 1:
        return kinds.pop()
    return ", ".join(f"{name} {level}" for name, level in levels.items())
