"""Deployments as running things: engines behind a router, and the devices they stand on."""

from collections.abc import Callable

from ttcsim.simulator.agenda import Agenda
from ttcsim.simulator.device import Device
from ttcsim.simulator.engine import Engine
from ttcsim.simulator.kv_loading import HostTier, LoadingScheduler
from ttcsim.simulator.lockstep import LockstepScheduler, decodes_in_lockstep
from ttcsim.simulator.plans import Plan
from ttcsim.simulator.request import Request
from ttcsim.simulator.scheduler import Scheduler, SchedulerConfig
from ttcsim.simulator.speculation import Acceptance
from ttcsim.simulator.step_row import TICKS_PER_S


class Cluster:
    """The replicas of one deployment, each behind a front end of its own, and a router.

    Attributes:
        ingest: From sending a request to the input of an engine. [as]
        ingest_gap: Least time between two requests that reach an engine. [as]
        ingest_per_token: To tokenise a token of a prompt, one prompt at a time. [as]
    """

    def __init__(self, plan: Plan, engines: list[Engine]) -> None:
        self.plan = plan
        self.engines = engines
        self.config: SchedulerConfig = plan.scheduler
        self._rule: str = plan.deployment.router
        self.prefiller: Cluster | None = None  # prefills prompts, and their KV comes here
        self.ingest = 0
        self.ingest_gap = 0
        self.ingest_per_token = 0
        replicas = plan.deployment.replicas
        self._tokenised = [0] * replicas  # when the last prompt was
        self._latest = [-1] * replicas  # when the last request reached an engine
        self._turn = 0
        self._homes: dict[str, Engine] = {}

    def reaches_engine(self, now: int, engine: Engine, prompt_tokens: int) -> int:
        """When a request that is sent now comes out of the front end, which keeps the order.

        Data-parallel engines of a replica have one front end together.
        """
        replica = engine.replica // self.plan.deployment.data_parallel
        tokenised = max(now, self._tokenised[replica]) + prompt_tokens * self.ingest_per_token
        self._tokenised[replica] = tokenised
        at = tokenised + self.ingest
        latest = self._latest[replica]
        if latest >= 0 and at < latest + self.ingest_gap:
            at = latest + self.ingest_gap
        self._latest[replica] = at
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
    seed: int,
    kv_link: str,
) -> tuple[dict[str, Cluster], list[Device]]:
    """Build all engines; a colocated scorer takes turns on the devices of the generator."""
    prefilled = any(plan.name == "prefiller" for plan in plans)
    clusters: dict[str, Cluster] = {}
    devices: list[Device] = []
    index = 0
    for plan in plans:
        if plan.name != "scorer" or not colocated:
            stages = plan.deployment.pipeline_parallel
            own = [Device(plan.cost.idle_w, stages) for _ in range(plan.engines)]
            devices += own
        engines = []
        for replica, device in enumerate(own):
            receives = prefilled and plan.name == "generator"
            scheduler = _make(plan, seed, receives)
            engine = Engine(
                agenda, scheduler, plan.cost, device, index, replica, on_first_token, on_end
            )
            if isinstance(scheduler, LoadingScheduler):
                link = f"links.{kv_link}" if receives else "memory.host"
                rate = plan.profile.require(f"{link}.bytes_per_s")
                engine.fetch_ticks_per_token = round(plan.kv_bytes_per_token / rate * TICKS_PER_S)
            engines.append(engine)
            index += 1
        clusters[plan.name] = Cluster(plan, engines)
    if prefilled:
        clusters["generator"].prefiller = clusters["prefiller"]
    return clusters, devices


def _make(plan: Plan, seed: int, receives: bool) -> Scheduler:
    if receives or plan.offloaded_blocks:
        return LoadingScheduler(plan.scheduler, HostTier(plan.offloaded_blocks))
    speculative = plan.deployment.engine.speculative_config
    if speculative is not None:
        acceptance = Acceptance(speculative.acceptance_rate, seed)
        return Scheduler(plan.scheduler, acceptance.accepted)
    step_by_step = plan.deployment.engine.step_by_step
    if step_by_step or not decodes_in_lockstep(plan.scheduler):
        return Scheduler(plan.scheduler)
    return LockstepScheduler(plan.scheduler)
