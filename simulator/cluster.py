"""Deployments as running things: engines behind a router, and the devices they stand on."""

from collections.abc import Callable

from ttcsim.simulator.agenda import Agenda
from ttcsim.simulator.device import Device
from ttcsim.simulator.engine import Engine
from ttcsim.simulator.lockstep import LockstepScheduler, decodes_in_lockstep
from ttcsim.simulator.plans import Plan
from ttcsim.simulator.request import Request
from ttcsim.simulator.scheduler import Scheduler, SchedulerConfig


class Cluster:
    """The replicas of one deployment behind a front end and a router.

    Attributes:
        ingest: From sending a request to the input of an engine. [as]
        ingest_gap: Least time between two requests that reach an engine. [as]
    """

    def __init__(self, plan: Plan, engines: list[Engine]) -> None:
        self.plan = plan
        self.engines = engines
        self.config: SchedulerConfig = plan.scheduler
        self._rule: str = plan.deployment.router
        self.ingest = 0
        self.ingest_gap = 0
        self._latest = -1  # when the last request reached an engine
        self._turn = 0
        self._homes: dict[str, Engine] = {}

    def reaches_engine(self, now: int) -> int:
        """When a request that is sent now comes out of the front end, which keeps the order."""
        at = now + self.ingest
        if self._latest >= 0 and at < self._latest + self.ingest_gap:
            at = self._latest + self.ingest_gap
        self._latest = at
        return at

    def route(self, question_id: str) -> Engine:
        """The engine that gets the next call of a question."""
        engines = self.engines
        if len(engines) == 1:
            return engines[0]
        if self._rule == "question" and question_id in self._homes:
            return self._homes[question_id]
        chosen = engines[self._turn % len(engines)]
        if self._rule != "round_robin":
            for step in range(1, len(engines)):  # ties go round, as with vLLM's router
                other = engines[(self._turn + step) % len(engines)]
                if other.load < chosen.load:
                    chosen = other
        self._turn += 1
        self._homes[question_id] = chosen
        return chosen


def make_clusters(
    agenda: Agenda,
    plans: list[Plan],
    colocated: bool,
    on_first_token: Callable[[Request], None],
    on_end: Callable[[Request], None],
) -> tuple[dict[str, Cluster], list[Device]]:
    """Build all engines; colocated deployments take turns on the devices of the first."""
    clusters: dict[str, Cluster] = {}
    devices: list[Device] = []
    index = 0
    for plan in plans:
        if not devices or not colocated:
            stages = plan.deployment.pipeline_parallel
            own = [Device(plan.cost.idle_w, stages) for _ in range(plan.deployment.replicas)]
            devices += own
        engines = []
        for replica, device in enumerate(own):
            scheduler = _make(plan)
            engines.append(
                Engine(agenda, scheduler, plan.cost, device, index, replica, on_first_token, on_end)
            )
            index += 1
        clusters[plan.name] = Cluster(plan, engines)
    return clusters, devices


def _make(plan: Plan) -> Scheduler:
    step_by_step = plan.deployment.engine.step_by_step
    if step_by_step or not decodes_in_lockstep(plan.scheduler):
        return Scheduler(plan.scheduler)
    return LockstepScheduler(plan.scheduler)
