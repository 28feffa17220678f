"""Who used the joules: every step's energy split over its requests, exactly, in integers.

A prefill gets the share of the step by which it lengthened the step. The rest of the energy is a
line in context: what does not depend on context is split equally over the decoders, what does
follows each one's own context. Rounding remainders are kept, so everything sums to the total.
"""

from collections import defaultdict

from ttcsim.simulator.request import Batch, Request
from ttcsim.simulator.step_row import StepRow


class EnergyLedger:
    """Energy of one engine by request. [10 aJ]

    In lock-step all decoders pay the same share per step and the same rate per context token, so
    running sums over steps replace a payment per request and step: a request that decoded in steps
    a+1..b with context `base + step` owes  d(share) + base·d(slope) + d(moment).
    """

    def __init__(self) -> None:
        self.total = 0
        self.remainder = 0
        self._share = 0  # sum over steps of the equal share
        self._slope = 0  # sum over steps of energy per context token
        self._moment = 0  # sum over steps of energy per context token times step number
        self.steps = 0
        self._late: defaultdict[int, list[Request]] = defaultdict(list)

    def step(self, batch: Batch, row: StepRow, decode_duration: int) -> None:
        """Book a step that has run; `decode_duration` is what it had taken without prefills."""
        self.steps += 1
        fixed, slope = row.energy_piece(batch.context_tokens)
        energy = fixed + slope * batch.context_tokens
        self.total += energy
        if batch.prefills:
            duration = row.duration_at(batch.context_tokens)
            left = energy * decode_duration // duration if duration else 0
            self._book_prefills(batch, energy - left)
            energy = left
            slope = slope * decode_duration // duration if duration else 0
        fixed = energy - slope * batch.context_tokens
        if batch.contexts:
            self._pay_each(batch.contexts, fixed, slope)
        else:
            self._book_decoders(1, fixed, slope, batch.decoders)
        self._settle_late()

    def stretch(self, steps: int, context: int, decoders: int, row: StepRow) -> None:
        """Book `steps` pure decode steps, the first with summed context `context`."""
        for count, fixed, slope in row.energies(steps, context, decoders):
            contexts = count * context + decoders * (count * (count - 1) // 2)
            self.total += count * fixed + slope * contexts
            self.steps += 1
            self._book_decoders(count, fixed, slope, decoders)
            self.steps += count - 1
            context += decoders * count
        self._settle_late()

    def skip(self) -> None:
        """An empty batch has come back: a step that took no time and no energy."""
        self.steps += 1
        self._settle_late()

    def _pay_each(self, contexts: dict[Request, int], fixed: int, slope: int) -> None:
        """Without lock-step: pay every decoder its part of this step at once."""
        share, rest = divmod(fixed, len(contexts))
        self.remainder += rest
        for request, context in contexts.items():
            request.energy += share + slope * context

    def _book_prefills(self, batch: Batch, energy: int) -> None:
        tokens = sum(batch.prefills.values())
        left = energy
        for request, count in batch.prefills.items():
            part = energy * count // tokens
            request.energy += part
            left -= part
        self.remainder += left

    def _book_decoders(self, count: int, fixed: int, slope: int, decoders: int) -> None:
        """Add `count` equal steps, the first of which is number `self.steps`."""
        if not decoders:
            self.remainder += count * fixed
            return
        share = fixed // decoders
        self.remainder += count * (fixed - share * decoders)
        self._share += count * share
        self._slope += count * slope
        self._moment += slope * (count * self.steps + count * (count - 1) // 2)

    def start(self, request: Request) -> None:
        """A request was prefilled in the step just booked; it pays for its steps from now on."""
        if request.decoding or request.last_step > self.steps:
            request.owes_energy = True
            request.paid_share = self._share
            request.paid_slope = self._slope
            request.paid_moment = self._moment

    def leave(self, request: Request) -> None:
        """A decoding request finished, was cancelled or preempted: book what it owes.

        Steps of it that are still in flight are booked when they have run.
        """
        if not request.owes_energy:
            return
        if request.last_step > self.steps:
            self._late[request.last_step].append(request)
        else:
            self._settle(request)

    def _settle_late(self) -> None:
        if self._late:
            for request in self._late.pop(self.steps, ()):
                if request.owes_energy:
                    self._settle(request)

    def _settle(self, request: Request) -> None:
        request.energy += (
            self._share - request.paid_share
            + request.base * (self._slope - request.paid_slope)
            + self._moment - request.paid_moment
        )  # fmt: skip
        request.owes_energy = False
