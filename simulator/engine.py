"""One model replica over time: vLLM's step loop around a scheduler, with modelled durations.

The engine wakes at loop boundaries that matter and never once per token: a stretch of steps in
which nothing can be decided is one event, cut short when something arrives. Order within one
instant is fixed: first whatever strategies and arrivals do, then steps that end, then the loop
boundary, where the engine looks at its input. So no result depends on how a stretch was cut.
"""

from collections.abc import Callable

from ttcsim.errors import StuckError
from ttcsim.simulator.agenda import BOUNDARY, NORMAL, STEP_ENDS, Agenda, Due
from ttcsim.simulator.device import Device
from ttcsim.simulator.flight import Flight, Stretch
from ttcsim.simulator.kv_loading import LoadingScheduler
from ttcsim.simulator.ledger import EnergyLedger
from ttcsim.simulator.lockstep import LockstepScheduler
from ttcsim.simulator.pipeline import Pipeline
from ttcsim.simulator.request import Batch, Request, Status
from ttcsim.simulator.scheduler import Scheduler
from ttcsim.simulator.series import EngineSeries
from ttcsim.simulator.step_cost import Prefill, StepCost

FRUITLESS_STEPS = 100_000
"""Steps in a row without a token after which an engine counts as stuck."""

Listener = Callable[[Request], None]


class Engine:
    """A replica: submit requests, cancel them, hear of first tokens and of ends.

    Args:
        agenda: The clock.
        scheduler: Fresh scheduler; the engine owns it from now on.
        cost: Cost of its steps.
        device: What it runs on; engines that share one take turns, step by step.
        index: Settles the order of engines whose steps end at the same instant.
        replica: Its number within its deployment.
        on_first_token: Called at the end of the step that brought a request's first token.
        on_end: Called when a request has finished or has been dropped.
    """

    def __init__(
        self,
        agenda: Agenda,
        scheduler: Scheduler,
        cost: StepCost,
        device: Device,
        index: int,
        replica: int,
        on_first_token: Listener,
        on_end: Listener,
    ) -> None:
        self.replica = replica
        self._agenda = agenda
        self.scheduler = scheduler
        self.cost = cost
        self.device = device
        self.ledger = EnergyLedger()
        self.series = EngineSeries()
        self.last_end = 0  # when the last step ended
        self.announced = 0  # requests on their way here through the front end
        self.fetch_ticks_per_token = 0  # of KV from elsewhere
        self._fetched_at = 0  # when the link has brought all that was asked for
        self._lockstep = scheduler if isinstance(scheduler, LockstepScheduler) else None
        self._depth = scheduler.config.queue_depth
        stages = scheduler.config.pipeline_parallel_size
        self._pipeline = Pipeline(stages) if stages > 1 else None
        self._step_ends_at = STEP_ENDS + index
        self._boundary_at = BOUNDARY + index
        self._on_first_token, self._on_end = on_first_token, on_end
        self._inbox: list[Request] = []
        self._aborts: list[Request] = []
        self._flights: list[Flight] = []
        self._ends_at: int | None = None  # when the stretch or the flight under way ends
        self._stretch: Stretch | None = None
        self._end: _End | None = None  # the end of the flight or the stretch, on the agenda
        self._round = _Round(self._boundary_at, self)
        self._boundary_due = False
        self._looping = False
        self._queues = False  # waits for its turn on the device
        self._fruitless = 0
        self._blocks_before = -1  # blocks in use when the step that has just ended did so

    # -- from outside --------------------------------------------------------------------------

    def submit(self, request: Request) -> None:
        """Hand over a request; the engine sees it at its next loop boundary."""
        self.catch_up()
        self._inbox.append(request)
        self._look_up()

    def cancel(self, request: Request) -> None:
        """Drop a request at the end of the step that is running, or at once if none is."""
        self.catch_up()
        self._aborts.append(request)
        self._look_up()

    def yield_device(self) -> None:
        """Somebody else waits for the device: end the stretch with the current step."""
        self._cut_stretch()

    @property
    def load(self) -> int:
        """Requests on their way, handed over, waiting or running."""
        known = len(self.scheduler.waiting) + len(self.scheduler.running)
        return known + len(self._inbox) + self.announced

    def _look_up(self) -> None:
        if self._stretch is not None:
            # Whoever waits already is sure to be served first, and cannot be in a stretch.
            if self._aborts or not self.scheduler.waiting:
                self._cut_stretch()
        elif not self._flights:
            self._boundary_soon()

    # -- events --------------------------------------------------------------------------------

    def _end_at(self, tick: int) -> None:
        """Let the flight, or the stretch, end at `tick`, not when it was set to end before."""
        self._drop_end()
        self._ends_at = tick
        if not self._looping:
            self._put_end(tick)

    def _drop_end(self) -> None:
        if self._end is not None:
            self._end.cancelled = True
            self._end = None

    def _put_end(self, tick: int) -> None:
        self._end = _End(self._step_ends_at, self)
        self._agenda.put(tick, self._end)

    def _boundary_soon(self) -> None:
        if not self._boundary_due:
            self._boundary_due = True
            if not self._looping:
                self._agenda.put(self._now, self._round)

    def came_round(self) -> None:
        """The loop boundary is due now."""
        if self._boundary_due:  # if not, it has come early, see `catch_up`
            self._loop(ended=False)

    def ended(self) -> None:
        """The flight, or the stretch, ends now."""
        self._end = None
        self._loop(ended=True)

    @property
    def _now(self) -> int:
        return self._agenda.now

    # -- the loop ------------------------------------------------------------------------------

    def _loop(self, ended: bool) -> None:
        """Come round the loop, again and again as long as nobody else has something to do.

        Meanwhile the engine's own next end and boundary are not on the agenda; what is still due
        when the loop is left goes there.
        """
        agenda = self._agenda
        self._looping = True
        while True:
            if ended:
                self._end_now()
                if self._ends_at is not None and self._ends_at == agenda.now:
                    # An empty batch takes no time, and ends of steps come before the boundary.
                    if agenda.settle(self._step_ends_at):
                        continue
                    break
                if not agenda.settle(self._boundary_at):
                    break
            self._boundary()
            if self._ends_at is None or self._end is not None:
                break
            if not agenda.reach(self._ends_at, self._step_ends_at):
                break
            ended = True
        self._looping = False
        if self._boundary_due:
            agenda.put(self._now, self._round)
        if self._ends_at is not None and self._end is None:
            self._put_end(self._ends_at)

    def _end_now(self) -> None:
        if self._stretch is not None:
            self._stretch_ends()
        else:
            self._step_ends()

    def _boundary(self) -> None:
        """Look at the input, then decide batches until the queue is full."""
        self._boundary_due = False
        scheduler = self.scheduler
        blocks, self._blocks_before = self._blocks_before, -1
        if blocks < 0:  # no step has just ended
            blocks = scheduler.pool.used_blocks
        self._take_input()
        while scheduler.has_requests() and len(self._flights) < self._depth:
            if self._start_stretch():
                break
            batch = self._schedule()
            if not _nonempty(batch) and not scheduler.has_requests():
                break
        self._note(blocks)
        self._start_oldest()

    def _take_input(self) -> None:
        for request in self._inbox:
            self.scheduler.add(request)
        self._inbox.clear()
        if self._aborts:
            self._abort()

    def _abort(self) -> None:
        unseen = set(self._inbox)
        aborts, self._aborts = self._aborts, []
        for request in aborts:
            if request in unseen:
                self._aborts.append(request)  # first it has to be seen
            elif request.status is Status.WAITING or request.status is Status.RUNNING:
                self.scheduler.abort(request)
                self._left(request)
                self._on_end(request)

    def _schedule(self) -> Batch:
        batch = self.scheduler.schedule()
        for request in batch.preempted:
            self._left(request)
        for request, tokens in batch.loads.items():
            self._fetch(request, tokens)
        self._guard(batch)
        if not _nonempty(batch):
            self._flights.append(Flight(batch, None, 0))
            return batch
        prefills: list[Prefill] = []
        for request, tokens in batch.prefills.items():
            samples = batch.samples[request] is not None
            prefills.append(Prefill(tokens, request.computed - tokens, samples))
        spread = batch.decoders * batch.longest_context - batch.context_tokens
        drafts = _verified(batch)
        context = batch.context_tokens
        shared = self._shared_tokens(context, batch.longest_context)
        row = self.cost.row(batch.decoders, spread, prefills, drafts, context, shared)
        decode_duration = 0
        if batch.decoders and prefills:
            decode_duration = self.cost.decode_duration(
                batch.decoders, spread, context, drafts, shared
            )
        flight = Flight(batch, row, decode_duration)
        if self._pipeline is not None:
            flight.ends_at = self._pipeline.enter(self._ready_at(batch), flight.duration)
        self._flights.append(flight)
        return batch

    def _shared_tokens(self, context: int, longest: int) -> int:
        """Part of the decoders' summed context that another one has, too, in the same blocks.

        What requests share that do not decode in this step is taken for theirs, as far as it can
        be: together they have at least the longest context.
        """
        scheduler = self.scheduler
        return min(context - longest, scheduler.pool.shared * scheduler.config.block_size)

    def _fetch(self, request: Request, tokens: int) -> None:
        """Let KV of a request come, behind what is on the link already."""
        duration = tokens * self.fetch_ticks_per_token
        self._fetched_at = max(self._fetched_at, self._now) + duration
        self._agenda.call(self._fetched_at, NORMAL, lambda: self._arrive(request))

    def _arrive(self, request: Request) -> None:
        scheduler = self.scheduler
        assert isinstance(scheduler, LoadingScheduler)
        scheduler.fetched(request)
        self._look_up()

    def _ready_at(self, batch: Batch) -> int:
        """When the first stage can begin: not before tokens still in the pipeline are known. [as]

        Asynchronously, a request is scheduled again while its last token is on its way.
        """
        at = self._now
        for flight in self._flights:
            if flight.ends_at > at:
                for request in batch.scheduled:
                    if flight.batch.samples.get(request) is not None:
                        at = flight.ends_at
                        break
        return at

    def _guard(self, batch: Batch) -> None:
        """vLLM itself can loop without progress; say so instead of looping along."""
        if batch.decoders or batch.loads:
            self._fruitless = 0
            return
        for sample in batch.samples.values():
            if sample is not None:
                self._fruitless = 0
                return
        self._fruitless += 1
        if self._fruitless > FRUITLESS_STEPS:
            starving = next(iter(batch.prefills or self.scheduler.waiting))
            raise StuckError(f"no token in {self._fruitless} steps: {starving.id} starves")

    def _start_oldest(self) -> None:
        """Run the oldest batch as soon as the device is free; in a pipeline it runs already."""
        if self._flights and self._ends_at is None and not self._queues:
            if self._pipeline is not None:
                self._end_at(max(self._now, self._flights[0].ends_at))
                return
            self._queues = not self.device.acquire(self, self._run_oldest)
            if not self._queues:
                self._run_oldest()

    def _run_oldest(self) -> None:
        self._queues = False
        self._end_at(self._now + self._flights[0].duration)

    def _step_ends(self) -> None:
        """The oldest batch has run: deliver, start the next one, come round the loop."""
        flight = self._flights.pop(0)
        self._book(flight)
        self._come_back(flight.batch)

    def _come_back(self, batch: Batch) -> None:
        """Hand out what a batch has brought; the next one, if there is one, starts."""
        self._ends_at = None
        self.last_end = self._now
        self._deliver(batch)
        if self._pipeline is None:
            self.device.release()
        self._start_oldest()
        self._boundary_soon()

    def _book(self, flight: Flight) -> None:
        if flight.row is None:
            self.ledger.skip()
        else:
            self.device.busy_ticks += flight.duration
            self.ledger.step(flight.batch, flight.row, flight.decode_duration)

    def _deliver(self, batch: Batch) -> None:
        """Drop what was cancelled while the batch ran, then hand out its tokens."""
        if self._blocks_before < 0:
            self._blocks_before = self.scheduler.pool.used_blocks
        sampled: list[Request] = []
        for request in batch.prefills:
            if batch.samples[request] is not None:
                sampled.append(request)
                if self._lockstep is not None:
                    self.ledger.start(request)
        if self._aborts:
            self._abort()
        finished = self.scheduler.update(batch)
        for request in sampled:
            if request.status is not Status.ABORTED:
                self._on_first_token(request)
        for request in finished:
            self._left(request)
            self._on_end(request)

    def _left(self, request: Request) -> None:
        if self._lockstep is not None:
            self.ledger.leave(request)

    def _note(self, blocks_before: int) -> None:
        scheduler = self.scheduler
        running, waiting = len(scheduler.running), len(scheduler.waiting)
        blocks, energy = scheduler.pool.used_blocks, self.ledger.total
        self.series.note(self._now, running, waiting, blocks_before, blocks, energy)

    # -- many steps at once --------------------------------------------------------------------

    def _start_stretch(self) -> bool:
        """Take the coming quiet steps as one event, if there are several."""
        scheduler = self._lockstep
        if scheduler is None or len(self._flights) != self._depth - 1 or self.device.contended:
            return False
        if self._flights:  # asynchronous: one batch runs while the next is decided
            if self._ends_at is None or not _quiet(self._flights[0].batch):
                return False
        elif not self.device.free:
            return False
        decoders = scheduler.decoders
        context = scheduler.context_tokens + decoders
        steps = min(scheduler.quiet_steps(), self.cost.steps_alike(decoders, context, decoders))
        if steps < 2:
            return False
        longest = scheduler.longest_context() + 1
        spread = decoders * longest - context
        shared = self._shared_tokens(context, longest)
        row = self.cost.row(decoders, spread, context=context, shared=shared)
        queued = len(self._flights)
        origin = self._now if self._ends_at is None else self._ends_at
        if not queued:
            self.device.acquire(self, self._run_oldest)
        self._stretch = stretch = Stretch(self._now, origin, queued, steps, context, decoders, row)
        self._end_at(stretch.end(steps))
        return True

    def catch_up(self) -> None:
        """Let a step end that, taken by itself, would already have ended at this very instant."""
        stretch = self._stretch
        if stretch is not None and self._agenda.past(self._step_ends_at):
            steps = stretch.steps_until(self._now)
            if stretch.end(steps) == self._now:
                stretch.steps = steps
                self._drop_end()
                self._stretch_ends()
                if self._agenda.past(self._boundary_at):
                    self._boundary()

    def _cut_stretch(self) -> None:
        """Something has come up: end the stretch with the step that is running."""
        stretch = self._stretch
        if stretch is not None:
            steps = stretch.steps_until(self._now)
            if steps < stretch.steps:
                stretch.steps = steps
                self._end_at(stretch.end(steps))

    def _stretch_ends(self) -> None:
        """Book the steps that have run; asynchronously, the last one has yet to."""
        stretch, self._stretch = self._stretch, None
        assert stretch is not None
        assert self._lockstep is not None
        self.series.grew(stretch.block_ticks(self._lockstep.coming_blocks()))
        batch = self._lockstep.advance(stretch.steps)
        if not stretch.queued:
            self._book_quiet(stretch, stretch.steps, self._now - stretch.origin)
            self._come_back(batch)
            return
        if stretch.steps > 1:
            self._book(self._flights.pop(0))
            quiet = stretch.steps - 2
            self._book_quiet(
                stretch, quiet, stretch.row.durations(quiet, stretch.context, stretch.decoders)
            )
            self._flights.append(self._flight_of(stretch, batch.context_tokens - batch.decoders))
        self._flights.append(self._flight_of(stretch, batch.context_tokens, batch))
        self._step_ends()

    def _book_quiet(self, stretch: Stretch, steps: int, duration: int) -> None:
        if steps:
            self.device.busy_ticks += duration
            self.ledger.stretch(steps, stretch.context, stretch.decoders, stretch.row)

    @staticmethod
    def _flight_of(stretch: Stretch, context: int, batch: Batch | None = None) -> Flight:
        if batch is None:
            batch = Batch(decoders=stretch.decoders, context_tokens=context)
        return Flight(batch, stretch.row, stretch.row.duration_at(context))


def _nonempty(batch: Batch) -> bool:
    return bool(batch.scheduled) or batch.decoders > 0


def _verified(batch: Batch) -> int:
    """Draft tokens that decoders verify; padding of an admission counts as prefill."""
    if not batch.drafts:
        return 0
    drafts = 0
    for request, tokens in batch.drafts.items():
        if request not in batch.prefills:
            drafts += tokens
    return drafts


def _quiet(batch: Batch) -> bool:
    """Whether nobody waits for this batch to come back."""
    return not batch.prefills and not batch.finishing and batch.decoders > 0


class _EngineDue(Due):
    __slots__ = ("_engine",)

    def __init__(self, priority: int, engine: Engine) -> None:
        super().__init__(priority)
        self._engine = engine


class _End(_EngineDue):
    """A flight, or a stretch, ends."""

    __slots__ = ()

    def happen(self) -> None:
        self._engine.ended()


class _Round(_EngineDue):
    """The loop comes round to its boundary."""

    __slots__ = ()

    def happen(self) -> None:
        self._engine.came_round()
