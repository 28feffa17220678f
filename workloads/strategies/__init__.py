"""The strategies that come with ttcsim, by name."""

from typing import Any

from pydantic import ValidationError

from ttcsim.errors import InputError, invalid, unknown_name
from ttcsim.workloads.strategies.agent import AgentLoop
from ttcsim.workloads.strategies.sampling import BestOfN, FirstFinish, MajorityVote, Single
from ttcsim.workloads.strategies.search import BeamSearch, Dvts
from ttcsim.workloads.strategies.sequential import BudgetForcing, SelfRefine
from ttcsim.workloads.strategies.verification import GenerativeVerification
from ttcsim.workloads.strategy import Strategy

STRATEGIES: dict[str, type[Strategy]] = {
    kind.name: kind
    for kind in (
        Single,
        BestOfN,
        MajorityVote,
        FirstFinish,
        BeamSearch,
        Dvts,
        BudgetForcing,
        SelfRefine,
        GenerativeVerification,
        AgentLoop,
    )
}

__all__ = [
    "STRATEGIES",
    "AgentLoop",
    "BeamSearch",
    "BestOfN",
    "BudgetForcing",
    "Dvts",
    "FirstFinish",
    "GenerativeVerification",
    "MajorityVote",
    "SelfRefine",
    "Single",
    "make_strategy",
    "parse_strategy",
]


def make_strategy(name: str, parameters: dict[str, Any] | None = None) -> Strategy:
    """Make a strategy from its name and parameters.

    Raises:
        InputError: If the name is unknown or a parameter is out of range.
    """
    if name not in STRATEGIES:
        raise unknown_name("strategy", name, STRATEGIES)
    kind, given = STRATEGIES[name], parameters or {}
    for parameter in given:
        if parameter not in kind.model_fields:
            raise unknown_name(f"parameter of {name}", parameter, kind.model_fields)
    try:
        return kind.model_validate(given)
    except ValidationError as error:
        raise invalid(f"strategy {name}", error) from None


def parse_strategy(text: str) -> Strategy:
    """Read `name` or `name:parameter=value,parameter=value`, as on the command line.

    >>> parse_strategy("first_finish:n=16,k=1")
    FirstFinish(n=16, k=1)
    """
    name, _, rest = text.partition(":")
    parameters: dict[str, Any] = {}
    for item in filter(None, rest.split(",")):
        key, equals, value = item.partition("=")
        if not equals:
            raise InputError(f"strategy '{text}': expected parameter=value, found '{item}'")
        parameters[key.strip()] = None if value.strip() == "none" else value.strip()
    return make_strategy(name.strip(), parameters)
