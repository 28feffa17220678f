"""What a step costs: never less on a weaker device, linear in context, stretches summed exactly."""

from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from support import cost, scenario

from ttcsim.errors import InputError
from ttcsim.hwprofiles.calibration import datasheet
from ttcsim.hwprofiles.catalogue import load_calibration, load_profile
from ttcsim.hwprofiles.curves import norm
from ttcsim.hwprofiles.profile import HardwareProfile
from ttcsim.hwprofiles.quantity import Quantity
from ttcsim.simulator.model_catalogue import load_model
from ttcsim.simulator.operators import Operators
from ttcsim.simulator.plans import plans_of
from ttcsim.simulator.step_cost import Prefill, StepCost
from ttcsim.simulator.step_row import TICKS_PER_S, UNITS_PER_J, EnergyLine, StepRow

DENSE, MOE = "Llama-3.1-8B", "Qwen3-30B-A3B"
COSTS = {(model, tp): cost(model, tp=tp) for model in (DENSE, MOE) for tp in (1, 2)}
COSTS["gpt-oss-20b", 1] = cost("gpt-oss-20b")  # sliding windows, narrow weights
MIXED = "Qwen3-8B"  # where one kernel serves decoders and prompts
COSTS[MIXED, 2] = cost(MIXED, "rtx_pro_6000_server", tp=2)

cases = st.sampled_from(sorted(COSTS))


def test_kv_in_fp8_is_read_as_its_kernels_were_measured() -> None:
    model, h200 = load_model(DENSE), load_profile("h200_sxm")
    calibration = load_calibration("h200_sxm")
    assert calibration is not None
    assert calibration.decode_attention_fp8 is not None
    plain = StepCost(model, h200, calibration).row(8)
    narrow = StepCost(replace(model, kv_dtype="fp8"), h200, calibration).row(8)
    share = narrow.duration_per_context / plain.duration_per_context
    wide, own = calibration.decode_attention, calibration.decode_attention_fp8
    assert share == pytest.approx(0.5 * wide.memory_efficiency / own.memory_efficiency)
    assert 0.5 < share < 1
    heads_s = 8 * model.attention.kv_heads * (own.sequence_head_s - wide.sequence_head_s)
    more_s = 32 * (own.latency_s - wide.latency_s + heads_s)
    assert narrow.duration - plain.duration == pytest.approx(more_s * TICKS_PER_S)


def test_decoding_on_a_latent_keeps_the_curve_of_wide_kv() -> None:
    model, h200 = load_model("DeepSeek-V3.1"), load_profile("h200_sxm")
    calibration = load_calibration("h200_sxm")
    assert calibration is not None
    wide = StepCost(model, h200, calibration, 8).operators.attention
    narrow = StepCost(replace(model, kv_dtype="fp8"), h200, calibration, 8).operators.attention
    assert narrow.by_decoders(8) == wide.by_decoders(8)


def test_layers_of_experts_may_cost_an_engine_more() -> None:
    model, profile = load_model(MOE), load_profile("h100_sxm")
    bundled = load_calibration("h100_sxm")
    assert bundled is not None

    def decode(dtype: str, factor: float) -> int:
        overheads = bundled.overheads.model_copy(update={"expert_layer_s": {dtype: 1e-4}})
        calibration = bundled.model_copy(update={"overheads": overheads})
        return StepCost(model, profile, calibration, overhead_factor=factor).row(8).duration

    for factor in (1.0, 0.5):
        more = decode("bf16", factor) - decode("fp8", factor)  # the model's experts are bf16
        assert more == pytest.approx(factor * 48 * 1e-4 * TICKS_PER_S)


@st.composite
def batches(draw: st.DrawFn) -> tuple[int, int, int, tuple[Prefill, ...]]:
    """(decoders, summed context, spread, prefills) of a step that does something."""
    decoders = draw(st.integers(0, 4) | st.integers(0, 300))
    length = draw(st.sampled_from([20, 1000, 20_000]))
    contexts = [draw(st.integers(1, length)) for _ in range(min(decoders, 2))]
    longest = max(contexts, default=0)
    context = sum(contexts) + (decoders - len(contexts)) * min(contexts, default=0)
    tokens = st.integers(1, 64) | st.integers(1, 8192)
    prefill = st.builds(Prefill, tokens, st.integers(0, 30_000), st.booleans())
    prefills = tuple(draw(st.lists(prefill, max_size=3)))
    assume(decoders or prefills)
    return decoders, context, decoders * longest - context, prefills


def duration(of: StepCost, batch: tuple[int, int, int, tuple[Prefill, ...]]) -> int:
    decoders, context, spread, prefills = batch
    return of.row(decoders, spread, prefills, context=context).duration_at(context)


def energy(row: StepRow, context: int) -> int:
    fixed, slope = row.energy_piece(context)
    return fixed + slope * context


def scaled(profile: HardwareProfile, **factors: float) -> HardwareProfile:
    """The device with some of its rates multiplied: bandwidth, flops, link."""

    def times(number: Quantity | None, name: str) -> Quantity:
        assert number is not None
        return Quantity(number * factors.get(name, 1.0), "a test")

    hbm = profile.memory.hbm
    hbm = hbm.model_copy(update={"bytes_per_s": times(hbm.bytes_per_s, "bandwidth")})
    link = profile.links.intra_node
    assert link is not None
    link = link.model_copy(update={"bytes_per_s": times(link.bytes_per_s, "link")})
    peaks = {name: times(peak, "flops") for name, peak in profile.peak_flops_per_s.items()}
    update: dict[str, Any] = {
        "memory": profile.memory.model_copy(update={"hbm": hbm}),
        "links": profile.links.model_copy(update={"intra_node": link}),
        "peak_flops_per_s": peaks,
    }
    return profile.model_copy(update=update)


# -- weaker devices ----------------------------------------------------------------------------


@given(
    cases,
    batches(),
    st.sampled_from(["bandwidth", "flops", "link"]),
    st.floats(0.05, 1.0),
    st.booleans(),
)
@settings(deadline=None)
def test_a_step_is_never_faster_with_less(
    case: tuple[str, int],
    batch: tuple[int, int, int, tuple[Prefill, ...]],
    rate: str,
    factor: float,
    bound: bool,
) -> None:
    base = COSTS[case]
    profile = base.profile
    calibration = datasheet(profile) if bound else base.calibration
    before = StepCost(base.model, profile, calibration, base.tp)
    after = StepCost(base.model, scaled(profile, **{rate: factor}), calibration, base.tp)
    assert duration(after, batch) >= duration(before, batch)


@pytest.mark.parametrize(
    ("case", "rate", "batch"),
    [
        ((DENSE, 1), "bandwidth", (8, 8000, 0, ())),
        ((DENSE, 1), "flops", (0, 0, 0, (Prefill(4096, 0, True),))),
        ((DENSE, 2), "link", (0, 0, 0, (Prefill(4096, 0, True),))),
        ((MOE, 1), "bandwidth", (64, 64_000, 0, ())),
        ((MOE, 1), "flops", (0, 0, 0, (Prefill(8192, 0, True),))),
        ((MOE, 2), "link", (0, 0, 0, (Prefill(4096, 0, True),))),
    ],
)
def test_half_the_rate_that_matters_slows_the_step_down(
    case: tuple[str, int], rate: str, batch: tuple[int, int, int, tuple[Prefill, ...]]
) -> None:
    base = COSTS[case]
    half = StepCost(base.model, scaled(base.profile, **{rate: 0.5}), base.calibration, base.tp)
    slowed = duration(half, batch) / duration(base, batch)
    assert slowed > (1.02 if rate == "link" else 1.3)
    assert slowed <= 2.0


def test_the_link_does_not_matter_to_one_device() -> None:
    base = COSTS[DENSE, 1]
    batch = (8, 8000, 0, (Prefill(512, 0, True),))
    slow = StepCost(base.model, scaled(base.profile, link=0.1), base.calibration)
    assert duration(slow, batch) == duration(base, batch)


@given(cases, batches(), st.integers(1, 64), st.integers(0, 5000))
@settings(deadline=None)
def test_more_context_is_never_cheaper(
    case: tuple[str, int],
    batch: tuple[int, int, int, tuple[Prefill, ...]],
    more: int,
    spread: int,
) -> None:
    decoders, context, uneven, prefills = batch
    row = COSTS[case].row(decoders, uneven, prefills)
    assert row.duration_at(context + more) >= row.duration_at(context)
    assert energy(row, context + more) >= energy(row, context)
    assert COSTS[case].row(decoders, uneven + spread, prefills).duration >= row.duration


@given(cases, st.integers(1, 600), st.integers(1, 8192), st.integers(0, 8192))
@settings(deadline=None)
def test_more_prompt_is_never_faster(
    case: tuple[str, int], decoders: int, tokens: int, more: int
) -> None:
    """Within padding to whole tiles the times may be equal, never lower."""
    assume(tokens > 1 or case[0] != MIXED)  # one token has the decoders' kernel
    row = COSTS[case].row
    short = row(decoders, 0, (Prefill(tokens, 0, True),)).duration
    assert row(decoders, 0, (Prefill(tokens + more, 0, True),)).duration >= short
    assert row(decoders, 0, (Prefill(tokens, more, True),)).duration >= short
    assert row(decoders).duration <= short


# -- linear in context, exact sums -------------------------------------------------------------


@given(cases, batches(), st.integers(0, 10**6), st.integers(0, 10**6))
@settings(deadline=None)
def test_a_step_is_linear_in_context(
    case: tuple[str, int],
    batch: tuple[int, int, int, tuple[Prefill, ...]],
    first: int,
    second: int,
) -> None:
    decoders, _, spread, prefills = batch
    row = COSTS[case].row(decoders, spread, prefills)
    rise = row.duration_at(second) - row.duration_at(first)
    assert rise == row.duration_per_context * (second - first)
    assert row.duration_per_context > 0


@given(cases, st.integers(1, 300), st.integers(0, 2000), st.integers(1, 60), st.integers(1, 9000))
@settings(deadline=None)
def test_a_stretch_is_the_sum_of_its_steps(
    case: tuple[str, int], decoders: int, spread: int, steps: int, longest: int
) -> None:
    row = COSTS[case].row(decoders, spread)
    context = decoders * longest
    contexts = [context + decoders * step for step in range(steps)]
    assert row.durations(steps, context, decoders) == sum(map(row.duration_at, contexts))
    assert stretch_energies(row, steps, context, decoders) == [energy(row, c) for c in contexts]


def stretch_energies(row: StepRow, steps: int, context: int, decoders: int) -> list[int]:
    """Energy of every step of a stretch, by its pieces."""
    found = []
    for count, fixed, slope in row.energies(steps, context, decoders):
        assert count > 0
        found += [fixed + slope * (context + decoders * step) for step in range(count)]
        context += decoders * count
    return found


@given(
    st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 1000)), min_size=1, max_size=5),
    st.integers(1, 50),
    st.integers(0, 3000),
    st.integers(1, 64),
)
def test_pieces_follow_the_lowest_line_through_every_bend(
    lines: list[tuple[int, int]], steps: int, context: int, decoders: int
) -> None:
    row = StepRow(10, 1, [EnergyLine(fixed, 0.0, 0.0, slope) for fixed, slope in lines])
    contexts = [context + decoders * step for step in range(steps)]
    lowest = [min(fixed + slope * c for fixed, slope in lines) for c in contexts]
    assert stretch_energies(row, steps, context, decoders) == lowest


def test_a_long_stretch_is_few_pieces() -> None:
    row = COSTS[DENSE, 1].row(64)
    assert len(row.energies(10_000, 64 * 1000, 64)) < 200


# -- sliding windows -----------------------------------------------------------------------------


@given(st.integers(0, 400), st.integers(1, 400))
def test_pairs_in_a_window_are_those_of_each_query(prior: int, tokens: int) -> None:
    attention = load_model("gpt-oss-20b").attention
    seen = [min(prior + number, 128) for number in range(tokens + 1)]
    halves = [(left + right) / 2 for left, right in pairwise(seen)]
    assert attention.pairs_in_window(tokens, prior) == sum(halves)
    if prior + tokens <= 128:
        assert attention.pairs_in_window(tokens, prior) == tokens * (tokens / 2 + prior)


def test_windows_are_read_as_far_as_contexts_fill_them() -> None:
    of = COSTS["gpt-oss-20b", 1]
    window_s, _ = of.operators.attention.window_token()
    context_s, _ = of.operators.attention.context_token()
    assert window_s == context_s  # half of the layers each

    def seconds(context: int) -> float:
        return of.row(3, context=context).duration_at(context) / TICKS_PER_S

    empty = seconds(0)
    assert seconds(3 * 100) - empty == pytest.approx(300 * (context_s + window_s), rel=1e-9)
    full = 3 * 128
    assert seconds(full) - empty == pytest.approx(full * (context_s + window_s), rel=1e-9)
    assert seconds(9000) - seconds(full) == pytest.approx((9000 - full) * context_s, rel=1e-9)
    assert of.row(3).duration_at(9000) == of.row(3, context=9000).duration_at(9000)


@given(st.integers(1, 40), st.integers(0, 6000), st.integers(1, 50))
def test_a_row_holds_for_the_steps_that_are_alike(decoders: int, context: int, growth: int) -> None:
    of = COSTS["gpt-oss-20b", 1]
    row = of.row(decoders, context=context)
    alike = min(of.steps_alike(decoders, context, growth), 200)
    assert alike >= 1
    for step in {0, alike - 1}:
        later = context + step * growth
        own = of.row(decoders, context=later)
        assert row.duration_at(later) == own.duration_at(later)
        assert energy(row, later) == energy(own, later)
    if alike < 200:  # from the next one on, windows are full
        assert context + alike * growth >= decoders * 128


def test_a_prompt_beyond_the_window_costs_half_of_the_layers_less() -> None:
    """Twice as long a prompt: four times the pairs in layers that see all, twice in the others."""
    of = COSTS["gpt-oss-20b", 1]

    def attention_s(tokens: int) -> float:
        attention = of.operators.attention.prefill
        pairs = 12 * tokens**2 / 2 + 12 * (128 * 64 + (tokens - 128) * 128)
        computed = pairs + 24 * tokens * attention.extra_tokens
        return 24 * attention.latency_s + attention.head_flops * computed / attention.flops_per_s

    for tokens in (512, 4096, 16384):
        whole = of.row(0, 0, (Prefill(tokens, 0, True),)).duration / TICKS_PER_S
        rest = of.operators.by_tokens(tokens)[0] + of.operators.by_samples(1)[0]
        assert whole - rest == pytest.approx(attention_s(tokens), rel=1e-9)


# -- decoders beside a prompt --------------------------------------------------------------------


def attention_us(of: StepCost, decoders: int, context: int, chunk: int) -> float:
    """Attention of a step in one layer: what the step takes without anything else. [us]"""
    prefills = (Prefill(chunk, 0, True),) if chunk else ()
    row = of.row(decoders, 0, prefills, context=decoders * context)
    samples = decoders + len(prefills)
    rest_s = of.operators.by_tokens(chunk + decoders)[0] + of.operators.by_samples(samples)[0]
    attention_s = row.duration_at(decoders * context) / TICKS_PER_S - rest_s
    return 1e6 * attention_s / of.model.layers


def test_beside_a_prompt_each_head_of_a_decoder_takes_a_tile() -> None:
    """64 decoders of 1000 tokens: each of 32 heads computes as if it had `decoder_rows` rows."""
    of = cost(DENSE, "rtx_pro_6000_server")
    prompt, mixed = of.calibration.prefill_attention, of.calibration.mixed_attention
    assert mixed is not None
    tokens = mixed.decoder_rows * 64 * (1000 + prompt.extra_tokens)
    tokens += 256 * (128 + prompt.extra_tokens)
    rate = of.profile.peak("bf16") * prompt.compute_efficiency
    by_hand_s = prompt.latency_s + 4 * 128 * 32 * tokens / rate
    assert attention_us(of, 64, 1000, 256) == pytest.approx(1e6 * by_hand_s, rel=1e-6)


def test_one_long_context_beside_a_prompt_waits_for_a_compute_unit() -> None:
    of = cost(DENSE, "rtx_pro_6000_server")
    prompt, mixed = of.calibration.prefill_attention, of.calibration.mixed_attention
    assert mixed is not None
    rate = of.profile.peak("bf16") * prompt.compute_efficiency / 188
    by_hand_s = 4 * 128 * mixed.decoder_rows * 16_000 / rate
    assert attention_us(of, 1, 16_000, 64) == pytest.approx(1e6 * by_hand_s, rel=1e-6)


@pytest.mark.parametrize(
    ("model", "tp", "chunk", "decoders", "context", "chunk_us", "both_us"),
    [
        ("Qwen3-32B", 2, 512, 16, 512, 24.6, 73),
        ("Qwen3-32B", 2, 512, 64, 512, 24.6, 218),
        ("Qwen3-32B", 2, 512, 64, 1024, 24.6, 343),
        ("Qwen3-32B", 2, 512, 128, 512, 24.6, 435),
        (DENSE, 1, 512, 64, 1024, 24.9, 349),
        (DENSE, 1, 2048, 1, 512, 174.0, 177),
        (DENSE, 1, 512, 4, 512, 24.9, 37),
        (DENSE, 1, 2048, 1, 2048, 174.0, 185),
    ],
)
def test_decoders_and_a_prompt_take_about_what_layers_took(
    model: str, tp: int, chunk: int, decoders: int, context: int, chunk_us: float, both_us: float
) -> None:
    """LLMServingSim's layers on an RTX PRO 6000 with vLLM 0.19."""
    of = cost(model, "rtx_pro_6000_server", tp=tp)
    added_us = attention_us(of, decoders, context, chunk) - attention_us(of, 0, 0, chunk)
    assert chunk_us + added_us == pytest.approx(both_us, rel=0.25)
    if decoders > 8:  # alone they take 0.3 to 0.75 of that
        assert 0.25 < attention_us(of, decoders, context, 0) / added_us < 0.8


@given(st.integers(2, 200), st.integers(1, 9000), st.integers(1, 600), st.sampled_from([0, 3, 90]))
@settings(deadline=None, max_examples=60)
def test_a_prompt_beside_decoders_is_never_free(
    decoders: int, context: int, chunk: int, drafts: int
) -> None:
    """Else it would pay a negative share of the step."""
    model, small = load_model(MIXED), load_model("Qwen3-0.6B")
    profile, calibration = load_profile("l40s"), load_calibration("l40s")
    assert calibration is not None
    drafter = StepCost(small, profile, calibration) if drafts else None
    of = StepCost(model, profile, calibration, drafter=drafter, drafts=drafts)
    summed, verified = decoders * context, decoders * drafts
    beside = of.row(decoders, 0, (Prefill(chunk, 0, True),), verified, summed)
    assert beside.duration_at(summed) > of.decode_duration(decoders, 0, summed, verified)


def test_beside_a_prompt_decoders_take_no_less_than_alone() -> None:
    of = cost(DENSE, "rtx_pro_6000_server")
    alone_us = attention_us(of, 1, 16, 0)
    assert attention_us(of, 0, 0, 2) < alone_us
    assert attention_us(of, 1, 16, 2) == pytest.approx(alone_us, rel=1e-6)
    # Where each query head has KV of its own, reading it is what takes time, beside a prompt too.
    model = load_model(DENSE)
    heads = replace(model, attention=replace(model.attention, kv_heads=model.attention.heads))
    of = StepCost(heads, of.profile, of.calibration)
    beside = of.row(64, 0, (Prefill(512, 0, True),))
    assert beside.duration_per_context == of.row(64).duration_per_context


def test_chunks_of_one_token_leave_decoders_their_kernel() -> None:
    of = cost(DENSE, "rtx_pro_6000_server")
    slopes = [of.row(8, 0, (Prefill(n, 99, True),)).duration_per_context for n in (1, 2)]
    assert slopes[0] == of.row(8).duration_per_context < slopes[1]


def test_only_wide_kv_in_flash_attention_2_is_read_so() -> None:
    for name in ("h100_sxm", "h200_sxm", "b200_sxm", "cpu_2core"):
        calibration = load_calibration(name)
        assert calibration is not None
        assert calibration.mixed_attention is None
    assert COSTS[DENSE, 1].operators.attention.mixed() is None
    chunk = (Prefill(512, 0, True),)
    of = COSTS[DENSE, 1]
    assert of.row(64, 0, chunk).duration_per_context == of.row(64).duration_per_context
    profile, calibration = load_profile("rtx_4090"), load_calibration("rtx_4090")
    assert calibration is not None
    for dtype, mixes in (("bf16", True), ("fp8", False)):
        model = replace(load_model(DENSE), kv_dtype=dtype)
        of = StepCost(model, profile, calibration)
        alone, beside = of.row(64), of.row(64, 0, chunk)
        assert (beside.duration_per_context > alone.duration_per_context) is mixes
    latent = cost("DeepSeek-V3", "rtx_pro_6000_server", tp=8)
    assert latent.operators.attention.mixed() is None


def test_windows_are_read_per_head_beside_a_prompt_too() -> None:
    of = cost("gemma-3-27b-it", "rtx_pro_6000_server")
    sizes, mixed = of.model.attention, of.operators.attention.mixed()
    assert mixed is not None
    assert sizes.window
    chunk = (Prefill(256, 0, True),)
    layers = sizes.full_layers
    filling, full = of.row(32, 0, chunk, context=32 * 100), of.row(32, 0, chunk)
    per_token = full.duration_per_context / TICKS_PER_S
    assert per_token == pytest.approx(layers * mixed.context_token_s, rel=1e-9)
    per_token = filling.duration_per_context / TICKS_PER_S
    layers += sizes.sliding_layers
    assert per_token == pytest.approx(layers * mixed.context_token_s, rel=1e-9)
    edge = 32 * sizes.window  # where windows are full, both are the same step
    assert filling.duration_at(edge) == pytest.approx(full.duration_at(edge), rel=1e-9)


# -- what siblings share -------------------------------------------------------------------------


def test_on_a_cpu_context_that_is_read_again_costs_its_arithmetic() -> None:
    model, profile = load_model("tiny-40m").with_dtype("fp32"), load_profile("cpu_2core")
    plain = datasheet(profile)
    slow = plain.prefill_attention.model_copy(update={"compute_efficiency": 0.25})
    of = StepCost(model, profile, plain.model_copy(update={"prefill_attention": slow}))
    context_s, context_flops = of.operators.attention.context_token()
    arithmetic_s = context_flops / (0.25 * profile.peak("fp32"))
    assert arithmetic_s < context_s
    alone, shared = of.row(8), of.row(8, shared=700)
    saved_s = (alone.duration - shared.duration) / TICKS_PER_S
    assert saved_s == pytest.approx(700 * (context_s - arithmetic_s), rel=1e-9)
    assert shared.duration_per_context == alone.duration_per_context
    # With arithmetic slower than memory there is nothing to save.
    slow = plain.prefill_attention.model_copy(update={"compute_efficiency": 1e-4})
    of = StepCost(model, profile, plain.model_copy(update={"prefill_attention": slow}))
    assert of.row(8, shared=700).duration == of.row(8).duration


def test_on_a_gpu_siblings_are_no_faster() -> None:
    assert COSTS[DENSE, 1].row(8, shared=700).duration == COSTS[DENSE, 1].row(8).duration


# -- energy ------------------------------------------------------------------------------------


@given(cases, batches())
@settings(deadline=None)
def test_power_lies_between_idle_and_the_limit(
    case: tuple[str, int], batch: tuple[int, int, int, tuple[Prefill, ...]]
) -> None:
    of, (decoders, context, spread, prefills) = COSTS[case], batch
    row = of.row(decoders, spread, prefills)
    watts = energy(row, context) / UNITS_PER_J / (row.duration_at(context) / TICKS_PER_S)
    limit = float(of.profile.power.max_w) * of.tp
    assert of.calibration.power.idle_w * of.tp * (1 - 1e-9) <= watts <= limit * (1 + 1e-9)


def test_the_bent_limit_is_met_within_its_tangents() -> None:
    """Independent of the tangents: P/(1+(P/limit)^8)^(1/8) with the calibration's numbers."""
    of = COSTS[DENSE, 1]
    power, limit = of.calibration.power, float(of.profile.power.max_w)
    for tokens in (16, 512, 2048, 8192):
        row = of.row(0, 0, (Prefill(tokens, 0, True),))
        seconds = row.duration / TICKS_PER_S
        flops = 2.0 * tokens * (of.model.parameters - 2 * of.model.vocab * of.model.hidden)
        flops += 2.0 * of.model.vocab * of.model.hidden
        sizes = of.model.attention
        flops += of.model.layers * sizes.heads * 4.0 * sizes.head_dim * tokens * tokens / 2
        free = power.idle_w + power.active_w + power.j_per_flop * flops / seconds
        bent = free / (1 + (free / limit) ** 8) ** (1 / 8)
        assert energy(row, 0) / UNITS_PER_J / seconds == pytest.approx(bent, rel=0.02)


# -- levels ------------------------------------------------------------------------------------


@given(cases, batches())
@settings(deadline=None)
def test_the_datasheet_is_a_lower_bound(
    case: tuple[str, int], batch: tuple[int, int, int, tuple[Prefill, ...]]
) -> None:
    own = COSTS[case]
    bound = StepCost(own.model, own.profile, datasheet(own.profile), own.tp)
    assert duration(bound, batch) <= duration(own, batch)


def test_one_decoder_at_the_datasheet_reads_all_weights_once() -> None:
    profile, model = load_profile("h100_sxm"), load_model(DENSE)
    row = StepCost(model, profile, datasheet(profile)).row(1)
    read = model.weight_bytes() - model.vocab * model.hidden * 2  # embeddings are looked up
    floor = read / float(profile.memory.hbm.bytes_per_s or 0)
    assert row.duration / TICKS_PER_S == pytest.approx(floor, rel=0.02)
    per_token = model.kv_bytes_per_token() / float(profile.memory.hbm.bytes_per_s or 0)
    assert row.duration_per_context / TICKS_PER_S == pytest.approx(per_token, rel=1e-9)


def test_two_devices_are_faster_than_one_and_slower_than_half() -> None:
    batch = (16, 16_000, 0, (Prefill(2048, 0, True),))
    for model in (DENSE, MOE):
        one, two = (duration(COSTS[model, tp], batch) for tp in (1, 2))
        assert one / 2 < two < one


def test_norms_over_all_heads_add_a_small_all_reduce_a_layer() -> None:
    model, profile = load_model("MiniMax-M2.5"), load_profile("h100_sxm")
    found = load_calibration("h100_sxm")
    assert found is not None
    by_head = replace(model, attention=replace(model.attention, norms_all_heads=False))
    for tokens in (1, 64, 4096):
        with_norms = Operators(model, profile, found, 4).by_tokens(tokens)[1]
        without = Operators(by_head, profile, found, 4).by_tokens(tokens)[1]
        curve = found.all_reduce_curve(4)
        rate = curve.link_efficiency * profile.require("links.intra_node.bytes_per_s")
        own_s = norm(curve.latency_s, tokens * 8 / rate, curve.exponent)
        assert with_norms - without == pytest.approx(62 * own_s)
    assert Operators(model, profile, found, 1).by_tokens(64)[1] == 0


def test_devices_share_the_embedding_and_gather_logits() -> None:
    model, profile = load_model(DENSE), load_profile("h100_sxm")
    found = load_calibration("h100_sxm")
    assert found is not None
    curve, over = found.all_reduce_curve(4), found.overheads
    rate = curve.link_efficiency * profile.require("links.intra_node.bytes_per_s")

    def message_s(size: float) -> float:
        return norm(curve.latency_s, size / rate, curve.exponent)

    operators = Operators(model, profile, found, 4)
    assert operators.by_tokens(64)[1] == pytest.approx((2 * 32 + 1) * message_s(64 * 2 * 4096))
    head_s = operators.roofline_s(1, 64)[1]
    sampler_s = 64 * (over.sequence_s + model.vocab * over.logit_s)
    gather_s = operators.by_samples(64)[0] - head_s - sampler_s
    assert gather_s == pytest.approx(message_s(64 * model.vocab))


def test_all_reduces_take_over_norms_up_to_a_size() -> None:
    model, profile = load_model("Llama-3.1-70B"), load_profile("b200_sxm")
    found = load_calibration("b200_sxm")
    assert found is not None
    assert found.fused_norms is not None

    def saved_s(devices: int, tokens: int) -> float:
        fused, plain = (
            Operators(model, profile, found, devices, fuse_allreduce_rms=fuses).by_tokens(tokens)
            for fuses in (True, False)
        )
        assert fused[1:] == plain[1:]
        return plain[0] - fused[0]

    most = found.fused_norms.up_to_bytes[8] // (2 * 8192)  # tokens of 8192 values in bf16
    assert saved_s(8, most) == pytest.approx(2 * 80 * found.fused_norms.saved_s)
    assert saved_s(8, most + 1) == saved_s(1, 8) == 0
    slow = load_calibration("a100_sxm")
    assert slow is not None
    assert slow.fused_norms is None


@pytest.mark.parametrize(("name", "expert_layers"), [(DENSE, 0), (MOE, 48)])
def test_the_host_holds_up_prompts_that_no_graph_holds(name: str, expert_layers: int) -> None:
    model, profile = load_model(name), load_profile("h100_sxm")
    found = load_calibration("h100_sxm")
    assert found is not None
    assert found.eager is not None
    quick = found.model_copy(update={"eager": None})
    least_s = model.layers * found.eager.layer_s + expert_layers * found.eager.expert_layer_s

    def step_s(tokens: int, eager: bool = True, graphs: int = 512, context: int = 0) -> float:
        calibration = found if eager else quick
        cost = StepCost(model, profile, calibration, 2, max_cudagraph_capture_size=graphs)
        row = cost.row(1, prefills=[Prefill(tokens, 0, True)], context=context)
        return row.duration_at(context) / TICKS_PER_S

    assert step_s(700, eager=False) < least_s
    assert step_s(700) == pytest.approx(least_s, rel=1e-9)
    assert step_s(700, context=900) == pytest.approx(least_s, rel=1e-9)  # reads it meanwhile
    assert step_s(511) == step_s(511, eager=False)  # with the decoder 512 tokens
    assert step_s(512) == pytest.approx(least_s, rel=1e-9)
    assert step_s(700, graphs=2048) == step_s(700, eager=False, graphs=2048)
    assert step_s(16_000) == step_s(16_000, eager=False) > least_s


def test_windows_are_part_of_what_the_device_does_meanwhile() -> None:
    model, profile = load_model("gemma-3-27b-it"), load_profile("b200_sxm")
    found = load_calibration("b200_sxm")
    assert found is not None
    assert found.eager is not None
    step = StepCost(model, profile, found, 8)
    context = 128 * 600
    row = step.row(128, prefills=[Prefill(600, 0, True)], context=context)
    assert row.duration_at(context) == pytest.approx(
        model.layers * found.eager.layer_s * TICKS_PER_S, rel=1e-12
    )


@pytest.mark.parametrize("devices", [2, 8])
def test_what_is_saved_is_no_more_than_what_is_there(devices: int) -> None:
    model, profile = load_model(DENSE), load_profile("h100_sxm")
    found = load_calibration("h100_sxm")
    assert found is not None
    fused, plain = (
        Operators(
            model, profile, found, devices, overhead_factor=0.0, fuse_allreduce_rms=fuses
        ).by_tokens(8)
        for fuses in (True, False)
    )
    assert fused == plain


def test_graphs_hold_at_most_twice_the_batch_limit() -> None:
    drafts = {"method": "mtp", "num_speculative_tokens": 3, "acceptance_rate": 0.5}
    for limit, wanted, proposed, held in (
        (8, None, None, 16),
        (None, None, None, 512),
        (1024, None, None, 512),
        (8, 64, None, 64),
        (8, 300, None, 288),  # the largest size that is captured
        (3, None, None, 4),
        (5, None, None, 8),
        (8, None, drafts, 64),
    ):
        options = {
            "max_num_seqs": limit,
            "max_cudagraph_capture_size": wanted,
            "speculative_config": proposed,
        }
        plan = plans_of(scenario("single", engine=options))[0]
        operators = plan.cost.operators
        assert operators.least_s(held) == 0 < operators.least_s(held + 1)


def test_a_router_in_fp32_takes_the_time_of_fp32_arithmetic() -> None:
    model, profile = load_model("MiniMax-M2.5"), load_profile("h100_sxm")
    found = load_calibration("h100_sxm")
    assert found is not None
    assert found.router_curve("fp32") is found.gemm_curve("bf16")
    with pytest.raises(InputError, match=r"gemm\.fp32"):
        found.gemm_curve("fp32")
    parts = replace(model.feed_forward, router_dtype=None)
    tokens = 8192
    wide = Operators(model, profile, found, 4).by_tokens(tokens)[0]
    narrow = Operators(replace(model, feed_forward=parts), profile, found, 4).by_tokens(tokens)[0]
    flops = 62 * 2 * tokens * 256 * 3072
    peak = profile.peak("fp32")
    assert 0.8 * flops / peak < wide - narrow < 1.3 * flops / peak


def test_a_missing_curve_is_named_before_the_run() -> None:
    found = load_calibration("h100_sxm")
    assert found is not None
    profile = load_profile("h100_sxm")
    with pytest.raises(InputError, match="moe"):
        StepCost(load_model(MOE), profile, found.model_copy(update={"moe": None}))
    with pytest.raises(InputError, match=r"all_reduce\.16"):
        StepCost(load_model(DENSE), profile, found, 16)


# -- what a step needs is looked up once -------------------------------------------------------


@pytest.mark.parametrize("pp", [1, 2])
@pytest.mark.parametrize("model", [DENSE, MOE])
def test_steps_do_not_search_the_profile(
    model: str, pp: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It takes longer than all the rest of a step, and there are steps of thousands of sizes."""
    calibration = load_calibration("h100_sxm")
    assert calibration is not None
    of = StepCost(
        load_model(model), load_profile("h100_sxm"), calibration, tensor_parallel=2,
        pipeline_parallel=pp,
    )  # fmt: skip

    def require(*_: object) -> float:
        raise AssertionError("searches the profile")

    monkeypatch.setattr(HardwareProfile, "require", require)
    for decoders in (3, 100, 700):
        assert of.row(decoders, 0, (Prefill(123, 0, True),)).duration > of.row(decoders).duration
