"""Simulator and cost model for test-time compute: what it costs to let language models think.

>>> import ttcsim
>>> scenario = ttcsim.Scenario(
...     generator=ttcsim.Deployment(model="Llama-3.1-8B", hardware="h100_sxm"),
...     strategy="first_finish:n=4",
...     questions=5,
... )
>>> ttcsim.simulate(scenario).summary["accuracy_source"]
'trace'
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from ttcsim.compiled import use_compiled

if TYPE_CHECKING:
    __version__: str
    from ttcsim.analysis.calibrate.calibrate import calibrate as calibrate
    from ttcsim.analysis.calibrate.calibrate import write_calibration as write_calibration
    from ttcsim.analysis.compare import Comparison as Comparison
    from ttcsim.analysis.compare import compare as compare
    from ttcsim.analysis.estimate.estimate import estimate as estimate
    from ttcsim.analysis.estimate.figures import Estimate as Estimate
    from ttcsim.analysis.estimate.figures import Estimates as Estimates
    from ttcsim.analysis.measure.campaign import load_campaign as load_campaign
    from ttcsim.analysis.measure.foreign import load_measured as load_measured
    from ttcsim.analysis.measure.measure import Launch as Launch
    from ttcsim.analysis.measure.measure import measure as measure
    from ttcsim.analysis.planning.plan import plan as plan
    from ttcsim.analysis.planning.result import PlanResult as PlanResult
    from ttcsim.analysis.published.predict import predict_rows as predict_rows
    from ttcsim.analysis.published.report import PublishedReport as PublishedReport
    from ttcsim.analysis.published.rows import load_rows as load_rows
    from ttcsim.analysis.report import html_report as html_report
    from ttcsim.analysis.validate.validate import validate as validate
    from ttcsim.analysis.whatif.study import Study as Study
    from ttcsim.analysis.whatif.study import whatif as whatif
    from ttcsim.errors import InputError as InputError
    from ttcsim.hwprofiles.catalogue import load_calibration as load_calibration
    from ttcsim.hwprofiles.catalogue import load_profile as load_profile
    from ttcsim.simulator.model_catalogue import load_model as load_model
    from ttcsim.simulator.results import Result as Result
    from ttcsim.simulator.scenario import Deployment as Deployment
    from ttcsim.simulator.scenario import EngineOptions as EngineOptions
    from ttcsim.simulator.scenario import FrontEnd as FrontEnd
    from ttcsim.simulator.scenario import Scenario as Scenario
    from ttcsim.simulator.scenario import load_scenario as load_scenario
    from ttcsim.simulator.simulate import simulate as simulate
    from ttcsim.workloads.asked import Asked as Asked
    from ttcsim.workloads.caller import Call as Call
    from ttcsim.workloads.caller import Caller as Caller
    from ttcsim.workloads.question import Question as Question
    from ttcsim.workloads.question import Sample as Sample
    from ttcsim.workloads.readers import load_questions as load_questions
    from ttcsim.workloads.strategies import AgentLoop as AgentLoop
    from ttcsim.workloads.strategies import BeamSearch as BeamSearch
    from ttcsim.workloads.strategies import BestOfN as BestOfN
    from ttcsim.workloads.strategies import BudgetForcing as BudgetForcing
    from ttcsim.workloads.strategies import Dvts as Dvts
    from ttcsim.workloads.strategies import FirstFinish as FirstFinish
    from ttcsim.workloads.strategies import GenerativeVerification as GenerativeVerification
    from ttcsim.workloads.strategies import MajorityVote as MajorityVote
    from ttcsim.workloads.strategies import SelfRefine as SelfRefine
    from ttcsim.workloads.strategies import Single as Single
    from ttcsim.workloads.strategy import Outcome as Outcome
    from ttcsim.workloads.strategy import Program as Program
    from ttcsim.workloads.strategy import Strategy as Strategy
    from ttcsim.workloads.synthetic import SyntheticSpec as SyntheticSpec
    from ttcsim.workloads.trace import Trace as Trace
    from ttcsim.workloads.trace import write_trace as write_trace

IS_COMPILED = use_compiled()
"""Whether the core runs in compiled form (`ttcsim.compiled`); results are the same."""

# Names are imported when they are first used, so that `import ttcsim` and `--help` are quick.
_HOMES = {
    "ttcsim.analysis.calibrate.calibrate": ("calibrate", "write_calibration"),
    "ttcsim.analysis.compare": ("Comparison", "compare"),
    "ttcsim.analysis.estimate.estimate": ("estimate",),
    "ttcsim.analysis.estimate.figures": ("Estimate", "Estimates"),
    "ttcsim.analysis.measure.campaign": ("load_campaign",),
    "ttcsim.analysis.measure.foreign": ("load_measured",),
    "ttcsim.analysis.measure.measure": ("Launch", "measure"),
    "ttcsim.analysis.planning.plan": ("plan",),
    "ttcsim.analysis.planning.result": ("PlanResult",),
    "ttcsim.analysis.published.predict": ("predict_rows",),
    "ttcsim.analysis.published.report": ("PublishedReport",),
    "ttcsim.analysis.published.rows": ("load_rows",),
    "ttcsim.analysis.validate.validate": ("validate",),
    "ttcsim.analysis.whatif.study": ("Study", "whatif"),
    "ttcsim.analysis.report": ("html_report",),
    "ttcsim.errors": ("InputError",),
    "ttcsim.hwprofiles.catalogue": ("load_calibration", "load_profile"),
    "ttcsim.simulator.model_catalogue": ("load_model",),
    "ttcsim.simulator.results": ("Result",),
    "ttcsim.simulator.scenario": (
        "Deployment",
        "EngineOptions",
        "FrontEnd",
        "Scenario",
        "load_scenario",
    ),
    "ttcsim.simulator.simulate": ("simulate",),
    "ttcsim.workloads.asked": ("Asked",),
    "ttcsim.workloads.caller": ("Call", "Caller"),
    "ttcsim.workloads.question": ("Question", "Sample"),
    "ttcsim.workloads.readers": ("load_questions",),
    "ttcsim.workloads.strategies": (
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
    ),
    "ttcsim.workloads.strategy": ("Outcome", "Program", "Strategy"),
    "ttcsim.workloads.synthetic": ("SyntheticSpec",),
    "ttcsim.workloads.trace": ("Trace", "write_trace"),
}
_HOME = {name: home for home, names in _HOMES.items() for name in names}

__all__ = sorted(_HOME)


def __getattr__(name: str) -> Any:
    if name == "__version__":
        return _version()
    if name not in _HOME:
        raise AttributeError(f"module 'ttcsim' has no attribute '{name}'")
    value = getattr(import_module(_HOME[name]), name)
    globals()[name] = value
    return value


def _version() -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("ttcsim")
    except PackageNotFoundError:  # a checkout that is not installed
        return "0+checkout"


def __dir__() -> list[str]:
    return [*globals(), *_HOME]
