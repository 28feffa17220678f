"""One generate or score call inside an engine, in vLLM's words, and the batch of one step."""

from collections.abc import Sequence
from enum import Enum
from typing import Any, Final

from ttcsim.simulator.kv_cache import Block, Kept, Key


class Status(Enum):
    """Where a request stands."""

    WAITING = "waiting"
    RUNNING = "running"
    FINISHED = "finished"
    ABORTED = "aborted"


class Request:
    """A request and its scheduling state. [tokens]

    Attributes:
        prompt_tokens: Length of the prompt.
        max_tokens: Output limit.
        stop_at: Number (from 0) of the output token that is a stop token, or None.
        keys: Block keys of the prompt, and of the outputs as far as they are known.
        output_keys: Output block i has the key `output_keys | i`. Nobody else can look it up while
            this request holds blocks, so it is registered only when the block is released. None:
            `keys` holds the output keys too, and they are registered at once.
        outputs: Output tokens delivered so far.
        computed: Tokens whose KV exists or is being computed (advanced when scheduled).
        hold: Output tokens sampled by batches still in flight (asynchronous scheduling).
        chunked: Whether its last scheduled tokens left some of the known ones to be prefilled.
        drafts: Tokens a drafter has proposed; they are verified with the next token.
        inflight: Tokens scheduled in batches not yet returned.
        stale: Value of `inflight` at the last preemption, counted down as batches return.
        blocks: Physical blocks held, in order.
        registered: Number of those that hold a hash.
        kept: Its output blocks as it left them when it was preempted, if it is waiting.
        next_eligible_step: With pipelining, no decode before this `schedule()` call.
        resumed_at: Tokens known at the last admission; up to there it is prefill, then decode.
        cached_tokens: Prefix-cache hits at the first admission, None before it.
        recomputed_tokens: Tokens whose KV was computed again after a preemption.
        decoding, base, place, last_step: Lock-step state, see `lockstep.py`.
        fetching: Whether KV is on its way into its blocks, see `kv_loading.py`.
        prefilled: Tokens of the prompt whose KV another engine has, not yet asked for.
        energy: Energy booked so far. [10 aJ]
        owes_energy, paid_share, paid_slope, paid_moment: See `ledger.py`.
        tag: Whatever the owner of the request wants to find again.
    """

    __slots__ = (
        "arrival",
        "base",
        "blocks",
        "cached_tokens",
        "chunked",
        "computed",
        "decoding",
        "drafts",
        "energy",
        "fetching",
        "hold",
        "id",
        "inflight",
        "kept",
        "keys",
        "last_step",
        "lost_tokens",
        "max_tokens",
        "next_eligible_step",
        "output_keys",
        "outputs",
        "owes_energy",
        "paid_moment",
        "paid_share",
        "paid_slope",
        "place",
        "preemptions",
        "prefilled",
        "priority",
        "prompt_blocks",
        "prompt_tokens",
        "recomputed_tokens",
        "registered",
        "resumed_at",
        "stale",
        "status",
        "stop_at",
        "tag",
    )  # fmt: skip

    def __init__(
        self,
        id: str,
        prompt_tokens: int,
        max_tokens: int,
        keys: Sequence[Key] = (),
        *,
        output_keys: int | None = None,
        arrival: float = 0.0,
        priority: int = 0,
        stop_at: int | None = None,
        tag: Any = None,
    ) -> None:
        self.id = id
        self.prompt_tokens = prompt_tokens
        self.max_tokens = max_tokens
        self.keys: Sequence[Key] = keys
        self.output_keys = output_keys
        self.prompt_blocks = len(keys)
        self.arrival = arrival
        self.priority = priority
        self.stop_at = stop_at
        self.tag = tag
        self.status = Status.WAITING
        self.outputs = 0
        self.computed = 0
        self.hold = 0
        self.chunked = False
        self.drafts = 0
        self.inflight = 0
        self.stale = 0
        self.blocks: list[Block] = []
        self.registered = 0
        self.kept: Kept | None = None
        self.next_eligible_step = 0
        self.resumed_at = 0
        self.fetching = False
        self.prefilled = 0
        self.decoding = False
        self.base = 0
        self.last_step = 0
        self.place = 0
        self.preemptions = 0
        self.lost_tokens = 0
        self.recomputed_tokens = 0
        self.cached_tokens: int | None = None
        self.energy = 0
        self.owes_energy = False
        self.paid_share = 0
        self.paid_slope = 0
        self.paid_moment = 0

    @property
    def known(self) -> int:
        """Prompt and delivered output tokens."""
        return self.prompt_tokens + self.outputs

    def __repr__(self) -> str:
        return f"<request {self.id}: {self.status.value}, {self.computed}/{self.known}>"


class Batch:
    """What one `schedule()` call decided.

    Attributes:
        scheduled: Tokens of each scheduled request, in scheduled order. (The lock-step scheduler
            lists the prefills only; its decoders are those in `running` that decode.)
        prefills: The part of `scheduled` that is prompt, or recomputed after a preemption.
        samples: For each of `scheduled`, the number (from 0) of the output token it samples, or
            None if it is only partly prefilled.
        drafts: How many of the scheduled tokens of a request are drafts to verify.
        accepted: How many of them were accepted; known when the batch has run.
        decoders: Requests that decode: one token, and the drafts.
        context_tokens: Their contexts, summed, this step's token included. [tokens]
        longest_context: The longest of them. [tokens]
        admitted: Prefix-cache hit tokens of the requests taken from the waiting queue.
        loads: Tokens whose KV is to be fetched into the blocks of a request that waits for it.
        preempted: Requests that lost their blocks in this step.
        flushed: Requests that ended since the last call.
        contexts: Context of each decoder (step-by-step scheduler only). [tokens]
        finishing: Decoders whose last token is sampled in this step (lock-step scheduler only).
    """

    __slots__ = (
        "accepted", "admitted", "context_tokens", "contexts", "decoders", "drafts", "finishing",
        "flushed", "loads", "longest_context", "preempted", "prefills", "samples", "scheduled",
    )  # fmt: skip

    def __init__(self, decoders: int = 0, context_tokens: int = 0) -> None:
        # Most batches of a long run are quiet ones: they share what is empty.
        self.scheduled: dict[Request, int] = _NO_TOKENS
        self.prefills: dict[Request, int] = _NO_TOKENS
        self.samples: dict[Request, int | None] = _NO_SAMPLES
        self.drafts: dict[Request, int] = _NO_TOKENS
        self.accepted: dict[Request, int] = _NO_TOKENS
        self.decoders = decoders
        self.context_tokens = context_tokens
        self.longest_context = 0
        self.admitted: dict[Request, int] = _NO_TOKENS
        self.loads: dict[Request, int] = _NO_TOKENS
        self.preempted: list[Request] = _NOBODY
        self.flushed: list[Request] = _NOBODY
        self.contexts: dict[Request, int] = _NO_TOKENS
        self.finishing: list[tuple[int, Request]] = _NOBODY_LAST

    @staticmethod
    def to_fill() -> "Batch":
        """An empty batch with places of its own for what `schedule()` fills in."""
        batch = Batch()
        batch.scheduled, batch.prefills, batch.samples, batch.admitted = {}, {}, {}, {}
        batch.drafts, batch.accepted, batch.loads, batch.preempted = {}, {}, {}, []
        return batch


_NO_TOKENS: Final[dict[Request, int]] = {}
_NO_SAMPLES: Final[dict[Request, int | None]] = {}
_NOBODY: Final[list[Request]] = []
_NOBODY_LAST: Final[list[tuple[int, Request]]] = []
