"""Strategies in a closed loop on vLLM's asynchronous scheduler, the one that GPUs run.

Our engine simulates strategies that fork, cancel, score and continue. Whatever it asks of our
scheduler is asked of vLLM's own `AsyncScheduler`, too, and every decision is compared: who runs
with how many tokens, whose prefix was found, who loses its blocks, who has finished, how many
blocks are free. As long as they agree, each could be the one that drives the strategies. Exit code
1 at the first difference.
"""

import random
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from types import SimpleNamespace
from typing import Any

import environment  # noqa: F401  # isort: skip (vLLM reads it when it is imported)
import generate
import vllm
from oracle import make_scheduler, model_output
from vllm.sampling_params import SamplingParams
from vllm.utils.hashing import sha256
from vllm.v1.core.kv_cache_utils import get_request_block_hasher
from vllm.v1.outputs import DraftTokenIds
from vllm.v1.request import Request as RealRequest
from vllm.v1.request import RequestStatus

from ttcsim.analysis.measure.recorder.step_recorder import Json, Observer, delivered
from ttcsim.simulator import cluster
from ttcsim.simulator.kv_loading import LoadingScheduler
from ttcsim.simulator.request import Batch, Request
from ttcsim.simulator.scenario import Scenario, make_scenario
from ttcsim.simulator.scheduler import Scheduler, SchedulerConfig
from ttcsim.simulator.simulate import simulate
from ttcsim.workloads.question import Question, Sample
from ttcsim.workloads.trace import Trace, TraceHeader

BEST_OF_N = "best_of_n:n=16"
FIRST_FINISH = "first_finish:n=16,k=2"
BEAM_SEARCH = "beam_search:n=16,width=4,problems_in_flight=none"
WORKLOADS: list[tuple[str, str, Json]] = [
    ("best_of_n", BEST_OF_N, {}),
    ("first_finish", FIRST_FINISH, {}),
    ("beam_search", BEAM_SEARCH, {}),
    ("first_finish, two pipeline stages", FIRST_FINISH, {"pipeline_parallel": 2}),
    ("beam_search, two pipeline stages", BEAM_SEARCH, {"pipeline_parallel": 2}),
    ("best_of_n, draft model", BEST_OF_N, {"drafts": ("draft_model", 3)}),
    ("first_finish, draft module", FIRST_FINISH, {"drafts": ("mtp", 2)}),
    ("beam_search, draft module", BEAM_SEARCH, {"drafts": ("mtp", 1)}),
    ("beam_search, draft model, synchronous", BEAM_SEARCH,
     {"drafts": ("draft_model", 4), "async_scheduling": False}),
    ("first_finish, draft module, synchronous", FIRST_FINISH,
     {"drafts": ("mtp", 3), "async_scheduling": False}),
    ("best_of_n, prefilled elsewhere", BEST_OF_N, {"prefilled": True}),
    ("first_finish, prefilled elsewhere", FIRST_FINISH, {"prefilled": True}),
    ("beam_search, KV in host memory", BEAM_SEARCH, {"kv_offloading_bytes": 2e9}),
    ("best_of_n, KV in host memory, synchronous", BEST_OF_N,
     {"kv_offloading_bytes": 1e9, "async_scheduling": False}),
]  # fmt: skip
"""Name, strategy, and what is unusual about the engine."""
_MASK = (1 << 64) - 1


class DifferenceError(AssertionError):
    """Our scheduler and vLLM's have decided differently."""


@dataclass
class Counts:
    """What the compared steps contained: without preemptions and cancels they say little."""

    steps: int = 0
    requests: int = 0
    preemptions: int = 0
    hit_tokens: int = 0
    aborted: int = 0
    drafted: int = 0
    accepted: int = 0
    loaded: int = 0


COUNTS = Counts()


def compared(kind: type[Scheduler]) -> type[Any]:
    """A scheduler of ours with vLLM's beside it: asked the same, expected to answer the same."""

    class Compared(kind):  # type: ignore[valid-type, misc]
        def __init__(self, config: SchedulerConfig, *more: Any) -> None:
            super().__init__(config, *more)
            settings = {**generate.DEFAULT_CONFIG, **asdict(config)}
            self._real, self.depth = make_scheduler(settings)
            if self.depth != config.queue_depth:
                raise DifferenceError(f"batches in flight: {config.queue_depth}, vLLM {self.depth}")
            if config.num_speculative_tokens:
                _let_speculate(self._real, config)
            self._observer = Observer(self._real)
            caching = config.enable_prefix_caching
            self._hasher = get_request_block_hasher(config.block_size, sha256) if caching else None
            self._tokens: dict[str, Callable[[int], int]] = {}
            self._flights: list[tuple[Any, Batch]] = []

        def add(self, request: Request) -> None:
            super().add(request)
            COUNTS.requests += 1
            token = self._tokens[request.id] = _token_at(request, self.config.block_size)
            self._real.add_request(
                RealRequest(
                    request_id=request.id,
                    prompt_token_ids=[token(place) for place in range(request.prompt_tokens)],
                    sampling_params=SamplingParams(max_tokens=request.max_tokens, ignore_eos=True),
                    pooling_params=None,
                    arrival_time=request.arrival,
                    block_hasher=self._hasher,
                )
            )

        def abort(self, request: Request) -> None:
            super().abort(request)
            COUNTS.aborted += 1
            self._real.finish_requests(request.id, RequestStatus.FINISHED_ABORTED)

        def schedule(self) -> Batch:
            batch = super().schedule()
            output = self._real.schedule()
            found = self._observer.scheduled(output)
            self._compare("scheduled", _plain(batch.scheduled), found.get("sched", {}))
            self._compare("admitted", _plain(batch.admitted), found.get("admit", {}))
            ours = [request.id for request in batch.preempted]
            self._compare("preempted", sorted(ours), sorted(found.get("preempt", ())))
            self._compare("free blocks", self.pool.free_blocks, self._free_blocks)
            drafts = {name: len(ids) for name, ids in output.scheduled_spec_decode_tokens.items()}
            self._compare("drafts", _plain(batch.drafts), drafts)
            self._flights.append((output, batch))
            COUNTS.steps += bool(batch.scheduled)
            COUNTS.preemptions += len(ours)
            COUNTS.hit_tokens += sum(batch.admitted.values())
            return batch

        def update(self, batch: Batch) -> list[Request]:
            outputs = {request.id: request.outputs for request in batch.scheduled}
            finished = super().update(batch)
            output, own = self._flights.pop(0)
            assert own is batch
            accepted = _plain(batch.accepted)
            COUNTS.drafted += sum(batch.drafts.values())
            COUNTS.accepted += sum(accepted.values())
            sampled = {
                request.id for request in batch.scheduled if batch.samples[request] is not None
            }
            tokens = [
                self._samples(name, outputs[name], 1 + accepted.get(name, 0))
                if name in sampled
                else []
                for name in output.num_scheduled_tokens
            ]
            result = self._real.update_from_output(output, model_output(output, tokens))
            theirs = [name for name, (_, reason) in delivered(result).items() if reason is not None]
            if self._drafts and not self.config.async_scheduling:
                names = list(output.num_scheduled_tokens)
                self._real.update_draft_token_ids(
                    DraftTokenIds(names, [[1] * self._drafts] * len(names))
                )
            self._compare("finished", sorted(request.id for request in finished), sorted(theirs))
            self._compare("free blocks", self.pool.free_blocks, self._free_blocks)
            return finished

        @property
        def _free_blocks(self) -> int:
            return int(self._real.kv_cache_manager.block_pool.get_num_free_blocks())

        def _samples(self, request_id: str, first: int, count: int) -> list[int]:
            """Output tokens `first`, `first` + 1, ... of a request; none if it is gone."""
            request = self._real.requests.get(request_id)
            if request is None:
                return [0] * count
            token, prompt = self._tokens[request_id], request.num_prompt_tokens
            return [token(prompt + number) for number in range(first, first + count)]

        def _compare(self, what: str, ours: object, theirs: object) -> None:
            if ours != theirs:
                raise DifferenceError(f"step {COUNTS.steps}: {what}: ours {ours}, vLLM {theirs}")

    return Compared


class ComparedLoading(compared(LoadingScheduler)):  # type: ignore[misc]
    """The same with KV from elsewhere: what is to be had, and when it has come, is said to vLLM."""

    def __init__(self, config: SchedulerConfig, *more: Any) -> None:
        super().__init__(config, *more)
        self._offers: dict[str, int] = {}
        self._real.connector = Connector(self._offers)

    def schedule(self) -> Batch:
        self._offers.clear()
        batch: Batch = super().schedule()
        COUNTS.loaded += sum(batch.loads.values())
        return batch

    def _offered(self, request: Request, hits: int) -> int:
        offered: int = super()._offered(request, hits)
        self._offers[request.id] = offered
        return offered

    def fetched(self, request: Request) -> None:
        if request.fetching:
            self._real.finished_recving_kv_req_ids.add(request.id)
        super().fetched(request)


class Connector:
    """A KV connector for vLLM's scheduler that offers what ours was offered."""

    requires_kv_delivery = False

    def __init__(self, offers: dict[str, int]) -> None:
        self._offers = offers

    def get_num_new_matched_tokens(self, request: RealRequest, computed: int) -> tuple[int, bool]:
        if request.request_id not in self._offers:
            raise DifferenceError(f"vLLM looks at {request.request_id}, ours does not")
        offered = self._offers[request.request_id]
        return offered, offered > 0

    def get_loaded_kv_cache_group_ids(self, request: RealRequest) -> tuple[int, ...]:
        return (0,)

    def request_finished(self, request: RealRequest, blocks: Any) -> tuple[bool, None]:
        return False, None

    def __getattr__(self, name: str) -> Callable[..., Any]:
        return lambda *arguments, **named: None


def _let_speculate(real: Any, config: SchedulerConfig) -> None:
    """What vLLM sets up from a speculative configuration, which asks for models on disk."""
    real.num_spec_tokens = real.num_lookahead_tokens = config.num_speculative_tokens
    slots = SimpleNamespace(max_num_new_slots_for_drafting=config.draft_slots)
    real.vllm_config.speculative_config = slots
    if config.async_scheduling:
        real._spec_token_placeholders = [-1] * config.num_speculative_tokens
    if config.speculative_method == "mtp":
        real.use_eagle = real.use_eagle_block_drop = True
        real.kv_cache_manager.use_eagle = True
        coordinator = real.kv_cache_manager.coordinator
        coordinator.eagle_group_ids = {0}
        coordinator.single_type_managers[0].use_eagle = True


def _plain(tokens: dict[Request, int]) -> Json:
    return {request.id: count for request, count in tokens.items()}


def _token_at(request: Request, block_size: int) -> Callable[[int], int]:
    """Tokens of a request by position: equal in blocks with equal keys, and nowhere else.

    Blocks that end in the output have the keys that a continuation of it will ask for.
    """
    keys, own = list(request.keys), request.output_keys

    def token(place: int) -> int:
        block = place // block_size
        if block < len(keys):
            key = hash(keys[block])
        else:
            key = hash(request.id) if own is None else own | block
        return 100 + _mixed(key * block_size + place % block_size) % 30000

    return token


def _mixed(number: int) -> int:
    """SplitMix64: neighbours become unlike."""
    number = (number * 0x9E3779B97F4A7C15) & _MASK
    number = ((number ^ (number >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    number = ((number ^ (number >> 27)) * 0x94D049BB133111EB) & _MASK
    return number ^ (number >> 31)


def scenario(strategy: str, changes: Json, step_by_step: bool) -> Scenario:
    """A GPU that schedules asynchronously, with so little KV that requests are preempted."""
    method, drafts = changes.get("drafts", (None, 0))
    speculative = {
        "method": method, "num_speculative_tokens": drafts, "acceptance_rate": 0.7,
        "model": "Qwen3-0.6B" if method == "draft_model" else None,
    }  # fmt: skip
    engine = {
        "num_gpu_blocks": 130, "max_num_seqs": 48, "max_num_batched_tokens": 512,
        "max_model_len": 1024, "step_by_step": step_by_step,
        "async_scheduling": changes.get("async_scheduling", True),
        "speculative_config": speculative if method else None,
        "kv_offloading_bytes": changes.get("kv_offloading_bytes"),
    }  # fmt: skip
    deployment = {"model": "Qwen3-8B", "hardware": "h100_sxm", "engine": engine,
                  "pipeline_parallel": changes.get("pipeline_parallel", 1)}  # fmt: skip
    return make_scenario(
        strategy,
        {
            "generator": deployment,
            "prefiller": deployment if changes.get("prefilled") else None,
            "scorer_placement": "same_engine",
            "strategy": strategy,
            "questions": 10,
            "arrivals": {"kind": "poisson", "rate": 4.0},
            "seed": 3,
        },
    )  # fmt: skip


def trace() -> Trace:
    """Questions with samples of very different lengths, right and wrong ones."""
    rng = random.Random(3)
    questions = []
    for number in range(10):
        samples = []
        for _ in range(16):
            answer = rng.randrange(3)
            tokens = min(400, 10 + int(rng.expovariate(1 / 110)))
            samples.append(Sample(tokens, answer, answer == 0))
        questions.append(Question(f"q{number}", rng.randint(20, 160), tuple(samples)))
    header = TraceHeader(
        name="closed loop", description="drawn", origin="drawn", licence="CC0-1.0",
        tokenizer="none", models=("none",), accuracy_source="trace",
    )  # fmt: skip
    return Trace(header, tuple(questions))


def check(name: str, strategy: str, changes: Json) -> bool:
    """Run a strategy on both schedulers and, with ours, many steps at once; compare."""
    global COUNTS
    COUNTS = Counts()
    usual = cluster.Scheduler, cluster.LoadingScheduler
    cluster.Scheduler = compared(Scheduler)  # type: ignore[misc]
    cluster.LoadingScheduler = ComparedLoading  # type: ignore[misc]
    try:
        slow = simulate(scenario(strategy, changes, step_by_step=True), trace=trace())
    except DifferenceError as error:
        print(f"{name}: {error}")
        return False
    finally:
        cluster.Scheduler, cluster.LoadingScheduler = usual  # type: ignore[misc]
    fast = simulate(scenario(strategy, changes, step_by_step=False), trace=trace())
    counts = COUNTS
    same = fast.calls.rows() == slow.calls.rows()
    print(
        f"{name}: identical {counts.steps}/{counts.steps} steps, {counts.requests} requests,"
        f" {counts.preemptions} preemptions, {counts.hit_tokens} cache-hit tokens,"
        f" {counts.aborted} cancelled, {counts.accepted} of {counts.drafted} drafts accepted,"
        f" {counts.loaded} tokens loaded; many steps at once {'agree' if same else 'DIFFER'}"
    )
    if not counts.hit_tokens or not counts.preemptions + counts.aborted:
        print("but without cache hits, and preemptions or cancels, this says little")
        return False
    return same


def main() -> int:
    print(f"vLLM {vllm.__version__}, AsyncScheduler, strategies in a closed loop", flush=True)
    same = [check(*workload) for workload in WORKLOADS]
    return 0 if all(same) else 1


if __name__ == "__main__":
    sys.exit(main())
