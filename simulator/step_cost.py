"""How long one engine step takes and how many joules: operators on one device, overheads, power.

    duration = sum of operator curves + all-reduces + overheads + tail of uneven contexts
    power    = limited(idle + active·(1 - all-reduce share) + joules per FLOP · FLOP/s)

`docs/cost-model.md` says what each term means; `operators.py` has them. For a fixed set of decoders
both duration and energy are (piecewise) linear in their summed context, so a stretch of steps has a
closed-form sum. Inside, time and energy are integers (`step_row.py`): sums are exact.

A token of context that several decoders share is read from memory once: on CPUs the others find it
in the cache. Layers with a sliding window w read min(C, decoders·w) tokens of a summed context C:
exact while all contexts are shorter than the window or none is, too many in between.
"""

import sys
from collections.abc import Sequence

from ttcsim.hwprofiles.calibration import Calibration
from ttcsim.hwprofiles.profile import HardwareProfile
from ttcsim.simulator.architecture import Architecture
from ttcsim.simulator.attention_time import MixedAttention
from ttcsim.simulator.operators import GRAPH_TOKENS, Operators
from ttcsim.simulator.power import power_lines
from ttcsim.simulator.step_row import TICKS_PER_S, UNITS_PER_J, EnergyLine, StepRow


class Prefill:
    """One request's share of prefill in a step: `tokens` new ones after `prior` cached ones.

    `samples` says whether its last token is among them, so that it gets an output token.
    """

    __slots__ = ("prior", "samples", "tokens")

    def __init__(self, tokens: int, prior: int, samples: bool) -> None:
        self.tokens = tokens
        self.prior = prior
        self.samples = samples

    def __repr__(self) -> str:
        return f"Prefill({self.tokens}, {self.prior}, {self.samples})"


class StepCost:
    """Cost of any batch of one model on `tensor_parallel` devices of one kind.

    With a pipeline, of the whole way through it: its stages work one after the other, each with
    `tensor_parallel` devices. With `data_parallel` engines that share experts, of one of them.

    A `drafter` on the same devices proposes `drafts` tokens a step, one after the other; they are
    verified together with the next token.

    Raises:
        InputError: If the profile or the calibration lacks a number that this model needs.
    """

    def __init__(
        self,
        model: Architecture,
        profile: HardwareProfile,
        calibration: Calibration,
        tensor_parallel: int = 1,
        pipeline_parallel: int = 1,
        expert_parallel: bool = False,
        truncated_sampling: bool = True,
        overhead_factor: float = 1.0,
        data_parallel: int = 1,
        drafter: "StepCost | None" = None,
        drafts: int = 0,
        fuse_allreduce_rms: bool = True,
        max_cudagraph_capture_size: int = GRAPH_TOKENS,
    ) -> None:
        self.model = model
        self.profile = profile
        self.calibration = calibration
        self.tp = tensor_parallel
        self.operators = Operators(
            model,
            profile,
            calibration,
            tensor_parallel,
            pipeline_parallel,
            expert_parallel,
            truncated_sampling,
            overhead_factor,
            data_parallel,
            fuse_allreduce_rms,
            max_cudagraph_capture_size,
        )
        self._attention = self.operators.attention
        self._drafter = drafter
        self._drafts = drafts
        self._sequence_s: float = self.operators.sequence_s
        self.compute_dtype: str = self.operators.compute_dtype
        self.idle_w: float = float(profile.power.idle_w) * tensor_parallel
        self._by_tokens: dict[int, tuple[float, float, float]] = {}
        self._by_samples: dict[int, tuple[float, float]] = {}
        self._by_decoders: dict[int, tuple[float, float, float]] = {}
        self._decode_steps: dict[int, _DecodeStep] = {}
        sizes = model.attention
        self._window: int = (sizes.window or 0) if sizes.sliding_layers else 0
        self._window_flops: float = self._attention.window_token(1 + drafts)[1]
        self._cached_ticks = round(self._attention.cached_token_s(1 + drafts) * TICKS_PER_S)
        self._context = self._context_cost(self._attention.layer_context_s(1 + drafts))
        self._mixed = mixed = self._attention.mixed(1 + drafts)
        self._mixed_context = self._context_cost(mixed.context_token_s) if mixed else self._context
        prefill = self._attention.prefill
        self._sizes = sizes
        self._full_layers: int = sizes.full_layers
        self._sliding_layers: int = sizes.sliding_layers
        self._linear = model.linear is not None
        self._prefill_latency_s: float = prefill.latency_s
        self._head_flops: float = prefill.head_flops
        self._flops_per_s: float = prefill.flops_per_s
        self._extra_tokens: float = prefill.extra_tokens
        self._context_token_s: float = prefill.context_token_s
        self.row(1)  # missing numbers show up now, not in the middle of a run

    def _context_cost(self, layer_s: float) -> "_ContextCost":
        """What a token of context adds if a layer takes so long for it."""
        sizes = self.model.attention
        context_s, window_s = sizes.full_layers * layer_s, sizes.sliding_layers * layer_s
        flops = self._attention.context_token(1 + self._drafts)[1]
        if self._drafter is not None:
            draft_s, draft_flops = self._drafter._attention.context_token()
            context_s += self._drafts * draft_s
            flops += self._drafts * draft_flops
        return _ContextCost(
            round(context_s * TICKS_PER_S),
            self._energy_lines(context_s, flops),
            round(window_s * TICKS_PER_S),
            self._energy_lines(context_s + window_s, flops + self._window_flops),
        )

    def _energy_lines(self, context_s: float, context_flops: float) -> list[EnergyLine]:
        """The power model's lines, if a token of context takes so long and so many FLOPs."""
        found = []
        power, most_w = self.calibration.power, float(self.profile.power.max_w)
        for line in power_lines(power, most_w, self.tp):
            joules = line.watts * context_s + line.j_per_flop * context_flops
            slope = round(joules * UNITS_PER_J)
            found.append(EnergyLine(line.watts, line.j_per_flop, line.saved_w, slope))
        return found

    def row(
        self,
        decoders: int,
        spread: int = 0,
        prefills: Sequence[Prefill] = (),
        drafts: int = 0,
        context: int | None = None,
        shared: int = 0,
    ) -> StepRow:
        """Cost of a step as a function of the decoders' summed context.

        It holds at the summed context `context` and for `steps_alike` steps from there on; without
        one, where all sliding windows are full. `spread` is decoders · longest context - summed
        context of the decoders: how uneven they are; `drafts` are all the tokens that decoders
        verify; `shared` is the part of their context that another of them has, too, and that is
        counted again for it. [tokens]
        """
        if not prefills and self._drafter is None:
            step = self._of_decode_step(decoders)
            seconds = step.seconds + step.tail_s * spread
            return self._row(
                seconds, step.flops, step.all_reduce_s, decoders, context, shared, self._context
            )
        tokens = samples = decoders + drafts
        longest = 0
        for prefill in prefills:
            tokens += prefill.tokens
            longest = max(longest, prefill.tokens)
            if prefill.samples:
                samples += 1
        token_s, all_reduce_s, token_flops = self._of_tokens(tokens)
        sample_s, sample_flops = self._of_samples(samples)
        decode_s, decode_flops, tail_s = self._of_decoders(decoders)
        attention_s, attention_flops = self._prefill_attention(prefills)
        per_token = self._context
        # Chunks of one token go through the decoders' kernel.
        if self._mixed is not None and decoders and longest > 1:
            per_token = self._mixed_context
            decode_s = self._mixed_s(self._mixed, decoders, context or 0, decode_s, attention_s)
        seconds = token_s + sample_s + decode_s + tail_s * spread
        flops = token_flops + sample_flops + decode_flops
        seconds += attention_s
        flops += attention_flops
        if self._drafter is not None:
            sequences = samples - drafts
            seconds -= drafts * self._sequence_s  # overhead of a sequence, not of its tokens
            draft_s, draft_all_reduce_s, draft_flops = self._drafting(
                self._drafter, tokens, sequences, decoders, prefills
            )
            seconds += draft_s
            all_reduce_s += draft_all_reduce_s
            flops += draft_flops
        least_s = self.operators.least_s(tokens) if prefills else 0.0
        return self._row(
            seconds, flops, all_reduce_s, decoders, context, shared, per_token, least_s
        )

    def _row(
        self,
        seconds: float,
        flops: float,
        all_reduce_s: float,
        decoders: int,
        context: int | None,
        shared: int,
        per_token: "_ContextCost",
        least_s: float = 0.0,
    ) -> StepRow:
        """A step of what does not depend on context and what each token of the decoders' adds.

        At this context it takes no less than `least_s`.
        """
        duration = int(seconds * TICKS_PER_S + 0.5) - shared * self._cached_ticks
        full = decoders * self._window
        if context is not None and context < full:
            slope, lines = per_token.ticks + per_token.window_ticks, per_token.filling_lines
        else:
            slope, lines = per_token.ticks, per_token.lines
            duration += full * per_token.window_ticks
            flops += full * self._window_flops
        if least_s:
            duration = max(duration, int(least_s * TICKS_PER_S + 0.5) - (context or 0) * slope)
        return StepRow(duration, slope, lines, flops, all_reduce_s)

    def steps_alike(self, decoders: int, context: int, growth: int) -> int:
        """Steps for which a row at this summed context holds if it grows by `growth` a step."""
        full = decoders * self._window
        return -(-(full - context) // growth) if context < full else sys.maxsize

    def _drafting(
        self,
        drafter: "StepCost",
        tokens: int,
        sequences: int,
        decoders: int,
        prefills: Sequence[Prefill],
    ) -> tuple[float, float, float]:
        """(seconds, the all-reduce part of them, FLOPs) of proposing drafts, context left out.

        The drafter first reads all tokens of the step, then goes on with one of each sequence.
        """
        seconds, all_reduce_s, flops = drafter._of_tokens(tokens)
        attention_s, attention_flops = drafter._prefill_attention(prefills)
        seconds += attention_s
        flops += attention_flops
        if sequences:
            token_s, token_all_reduce_s, token_flops = drafter._of_tokens(sequences)
            sample_s, sample_flops = drafter._of_samples(sequences)
            decode_s, decode_flops, _ = drafter._of_decoders(decoders)
            in_windows = decoders * drafter._window  # a drafter's windows are taken to be full
            decode_s += in_windows * drafter._context.window_ticks / TICKS_PER_S
            decode_flops += in_windows * drafter._window_flops
            sample_s -= sequences * self._sequence_s
            passes = self._drafts
            seconds += (passes - 1) * token_s + passes * (sample_s + decode_s)
            all_reduce_s += (passes - 1) * token_all_reduce_s
            flops += (passes - 1) * token_flops + passes * (sample_flops + decode_flops)
        return seconds, all_reduce_s, flops

    def decode_duration(
        self, decoders: int, spread: int, context: int, drafts: int = 0, shared: int = 0
    ) -> int:
        """Duration of a pure decode step. [as]"""
        return self.row(decoders, spread, (), drafts, context, shared).duration_at(context)

    # -- parts, each kept for the next step like it ----------------------------------------------

    def _of_decode_step(self, decoders: int) -> "_DecodeStep":
        found = self._decode_steps.get(decoders)
        if found is None:
            token_s, all_reduce_s, token_flops = self._of_tokens(decoders)
            sample_s, sample_flops = self._of_samples(decoders)
            decode_s, decode_flops, tail_s = self._of_decoders(decoders)
            seconds = token_s + sample_s + decode_s
            flops = token_flops + sample_flops + decode_flops
            found = self._decode_steps[decoders] = _DecodeStep(seconds, all_reduce_s, flops, tail_s)
        return found

    def _of_tokens(self, tokens: int) -> tuple[float, float, float]:
        found = self._by_tokens.get(tokens)
        if found is None:
            found = self._by_tokens[tokens] = self.operators.by_tokens(tokens)
        return found

    def _of_samples(self, samples: int) -> tuple[float, float]:
        found = self._by_samples.get(samples)
        if found is None:
            found = self._by_samples[samples] = self.operators.by_samples(samples)
        return found

    def _of_decoders(self, decoders: int) -> tuple[float, float, float]:
        found = self._by_decoders.get(decoders)
        if found is None:
            found = self._by_decoders[decoders] = self._attention.by_decoders(decoders)
        return found

    def _mixed_s(
        self,
        mixed: MixedAttention,
        decoders: int,
        context: int,
        alone_s: float,
        prompts_s: float,
    ) -> float:
        """Decoders in the kernel of prompts, what context adds left out. [s]

        With the prompts it takes no less than decoders alone, nor than a single head of one.
        """
        own_s = decoders * mixed.decoder_s + self._attention.linear(decoders, decoders)[0]
        windows = decoders * self._window
        mean, mean_in_window = context / decoders, min(context, windows) / decoders
        lone_s = mixed.lone_token_s * (
            self._full_layers * mean + self._sliding_layers * mean_in_window
        )
        least_s = max(alone_s + self._context.seconds(context, windows), lone_s)
        together_s = prompts_s + own_s + self._mixed_context.seconds(context, windows)
        return own_s + max(0.0, least_s - together_s)

    def _prefill_attention(self, prefills: Sequence[Prefill]) -> tuple[float, float]:
        """(seconds, FLOPs) of attention for the step's chunks of prompt."""
        if not prefills:
            return 0.0, 0.0
        full_s = sliding_s = self._prefill_latency_s
        full_pairs = sliding_pairs = 0.0
        for prefill in prefills:
            tokens, prior = prefill.tokens, prefill.prior
            pairs = tokens * (tokens / 2 + prior)
            full_s += self._chunk_s(tokens, prior, pairs)
            full_pairs += pairs
            if self._sliding_layers:
                pairs = self._sizes.pairs_in_window(tokens, prior)
                sliding_s += self._chunk_s(tokens, min(prior, self._window), pairs)
                sliding_pairs += pairs
        seconds = self._full_layers * full_s + self._sliding_layers * sliding_s
        pairs = self._full_layers * full_pairs + self._sliding_layers * sliding_pairs
        flops = self._head_flops * pairs
        if self._linear:
            tokens = sum([prefill.tokens for prefill in prefills])
            linear_s, linear_flops = self._attention.linear(len(prefills), tokens)
            return seconds + linear_s, flops + linear_flops
        return seconds, flops

    def _chunk_s(self, tokens: int, prior: int, pairs: float) -> float:
        """A chunk of prompt in one layer: arithmetic, or reading what is cached. [s]"""
        computed = pairs + tokens * self._extra_tokens
        compute_s = self._head_flops * computed / self._flops_per_s
        memory_s = prior * self._context_token_s
        return compute_s if compute_s > memory_s else memory_s


class _ContextCost:
    """What a token of the decoders' summed context adds to a step.

    Attributes:
        ticks, lines: Duration [as] and energy in layers without a window, a drafter's included.
        window_ticks: Duration in layers with a window, of a token within it. [as]
        filling_lines: Energy in all layers while windows fill.
    """

    __slots__ = ("filling_lines", "lines", "ticks", "window_ticks")

    def __init__(
        self,
        ticks: int,
        lines: list[EnergyLine],
        window_ticks: int,
        filling_lines: list[EnergyLine],
    ) -> None:
        self.ticks = ticks
        self.lines = lines
        self.window_ticks = window_ticks
        self.filling_lines = filling_lines

    def seconds(self, context: int, windows: int) -> float:
        """Duration of so much context, if windows hold so much of it. [s]"""
        ticks = self.ticks * context + self.window_ticks * min(context, windows)
        return ticks / TICKS_PER_S


class _DecodeStep:
    """A step of decoders only, as most are, but for their context.

    Seconds, the all-reduce part of them, FLOPs of a device, seconds per unit of spread.
    """

    __slots__ = ("all_reduce_s", "flops", "seconds", "tail_s")

    def __init__(self, seconds: float, all_reduce_s: float, flops: float, tail_s: float) -> None:
        self.seconds = seconds
        self.all_reduce_s = all_reduce_s
        self.flops = flops
        self.tail_s = tail_s
