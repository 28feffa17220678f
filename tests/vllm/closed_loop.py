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

import environment  # noqa: F401  # isort: skip (vLLM reads it when it is imported)
import generate
import vllm
from oracle import make_scheduler, model_output
from vllm.sampling_params import SamplingParams
from vllm.utils.hashing import sha256
from vllm.v1.core.kv_cache_utils import get_request_block_hasher
from vllm.v1.request import Request as RealRequest
from vllm.v1.request import RequestStatus

from ttcsim.analysis.measure.recorder.step_recorder import Json, Observer, delivered
from ttcsim.simulator import cluster
from ttcsim.simulator.request import Batch, Request
from ttcsim.simulator.scenario import Scenario, make_scenario
from ttcsim.simulator.scheduler import Scheduler, SchedulerConfig
from ttcsim.simulator.simulate import simulate
from ttcsim.workloads.question import Question, Sample
from ttcsim.workloads.trace import Trace, TraceHeader

WORKLOADS = [
    ("best_of_n", "best_of_n:n=16", 1),
    ("first_finish", "first_finish:n=16,k=2", 1),
    ("beam_search", "beam_search:n=16,width=4,problems_in_flight=none", 1),
    ("first_finish, two pipeline stages", "first_finish:n=16,k=2", 2),
    ("beam_search, two pipeline stages", "beam_search:n=16,width=4,problems_in_flight=none", 2),
]
"""Name, strategy, pipeline stages."""
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


class Compared(Scheduler):
    """Our scheduler with vLLM's beside it: asked the same, expected to answer the same."""

    counts = Counts()

    def __init__(self, config: SchedulerConfig) -> None:
        super().__init__(config)
        settings = {**generate.DEFAULT_CONFIG, **asdict(config)}
        self._real, self.depth = make_scheduler(settings)
        if self.depth != config.queue_depth:
            raise DifferenceError(f"batches in flight: {config.queue_depth}, vLLM {self.depth}")
        self._observer = Observer(self._real)
        caching = config.enable_prefix_caching
        self._hasher = get_request_block_hasher(config.block_size, sha256) if caching else None
        self._tokens: dict[str, Callable[[int], int]] = {}
        self._flights: list[tuple[object, list[list[int]], Batch]] = []

    def add(self, request: Request) -> None:
        super().add(request)
        self.counts.requests += 1
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
        self.counts.aborted += 1
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
        tokens = [self._sample(name) for name in output.num_scheduled_tokens]
        self._flights.append((output, tokens, batch))
        self.counts.steps += bool(batch.scheduled)
        self.counts.preemptions += len(ours)
        self.counts.hit_tokens += sum(batch.admitted.values())
        return batch

    def update(self, batch: Batch) -> list[Request]:
        finished = super().update(batch)
        output, tokens, own = self._flights.pop(0)
        assert own is batch
        result = self._real.update_from_output(output, model_output(output, tokens))
        theirs = [name for name, (_, reason) in delivered(result).items() if reason is not None]
        self._compare("finished", sorted(request.id for request in finished), sorted(theirs))
        self._compare("free blocks", self.pool.free_blocks, self._free_blocks)
        return finished

    @property
    def _free_blocks(self) -> int:
        return int(self._real.kv_cache_manager.block_pool.get_num_free_blocks())

    def _sample(self, request_id: str) -> list[int]:
        """The token that a scheduled request samples, none if it is only partly prefilled."""
        request = self._real.requests[request_id]
        if request.is_prefill_chunk:
            return []
        return [self._tokens[request_id](request.num_computed_tokens)]

    def _compare(self, what: str, ours: object, theirs: object) -> None:
        if ours != theirs:
            raise DifferenceError(f"step {self.counts.steps}: {what}: ours {ours}, vLLM {theirs}")


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


def scenario(strategy: str, stages: int, step_by_step: bool) -> Scenario:
    """A GPU that schedules asynchronously, with so little KV that requests are preempted."""
    engine = {
        "num_gpu_blocks": 130, "max_num_seqs": 48, "max_num_batched_tokens": 512,
        "max_model_len": 1024, "step_by_step": step_by_step,
    }  # fmt: skip
    return make_scenario(
        strategy,
        {
            "generator": {"model": "Llama-3.1-8B", "hardware": "h100_sxm", "engine": engine,
                          "pipeline_parallel": stages},
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


def check(name: str, strategy: str, stages: int) -> bool:
    """Run a strategy on both schedulers and, with ours, many steps at once; compare."""
    Compared.counts = Counts()
    usual = cluster.Scheduler
    cluster.Scheduler = Compared  # type: ignore[misc]
    try:
        compared = simulate(scenario(strategy, stages, step_by_step=True), trace=trace())
    except DifferenceError as error:
        print(f"{name}: {error}")
        return False
    finally:
        cluster.Scheduler = usual  # type: ignore[misc]
    fast = simulate(scenario(strategy, stages, step_by_step=False), trace=trace())
    counts = Compared.counts
    same = fast.calls.rows() == compared.calls.rows()
    print(
        f"{name}: identical {counts.steps}/{counts.steps} steps, {counts.requests} requests,"
        f" {counts.preemptions} preemptions, {counts.hit_tokens} cache-hit tokens,"
        f" {counts.aborted} cancelled; many steps at once {'agree' if same else 'DIFFER'}"
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
