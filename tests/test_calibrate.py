"""The fit finds what made the steps, in spite of hiccups, and leaves out what it cannot tell."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ttcsim.analysis.calibrate.columns import Columns, hats, told_apart
from ttcsim.analysis.calibrate.fit import Sample, _drift, fit
from ttcsim.analysis.measure.batches import StepBatch, predicted_s
from ttcsim.hwprofiles.calibration import Calibration, datasheet
from ttcsim.hwprofiles.catalogue import load_profile
from ttcsim.hwprofiles.curves import (
    DecodeAttentionCurve,
    Elementwise,
    GemmCurve,
    Overheads,
    PrefillAttentionCurve,
)
from ttcsim.simulator.model_catalogue import load_model
from ttcsim.simulator.step_cost import Prefill, StepCost

PROFILE = load_profile("cpu_2core")
MODEL = load_model("tiny-40m").with_dtype("fp32")
SAID = {"source": "made up", "error": "none"}
SLOWDOWN = {1: 3.0, 2: 3.5, 4: 2.5, 8: 3.2, 16: 4.0, 64: 3.0, 512: 3.5}


def truth() -> Calibration:
    """What makes the steps of these tests."""
    return datasheet(PROFILE).model_copy(
        update={
            "engine": "made up",
            "gemm": {"fp32": GemmCurve(compute_efficiency=1, memory_efficiency=1, latency_s=0,
                                       exponent=np.inf, slowdown=SLOWDOWN, **SAID)},
            "decode_attention": DecodeAttentionCurve(
                latency_s=0, memory_efficiency=0.4, sequence_head_s=0, **SAID),
            "prefill_attention": PrefillAttentionCurve(
                latency_s=0.0002, compute_efficiency=0.3, extra_tokens=0, **SAID),
            "elementwise": Elementwise(traffic=1, **SAID),
            "overheads": Overheads(
                step_s=0, layer_s=0, sequence_s=0.0004, logit_s=0, tail=0, **SAID),
        }
    )  # fmt: skip


def batches(seed: int, count: int) -> list[StepBatch]:
    """Random steps: decoding at batch 1 to 16, some with prompts."""
    rng = np.random.default_rng(seed)
    found = []
    for _ in range(count):
        decoders = int(rng.integers(0, 17))
        prompts = int(rng.integers(0, 3)) if decoders else 1
        context = decoders * int(rng.integers(40, 600))
        chunks = [
            Prefill(int(rng.integers(10, 200)), int(rng.integers(0, 300)), bool(rng.integers(2)))
            for _ in range(prompts)
        ]
        each = -(-context // max(1, decoders))
        shared = int(rng.integers(0, max(1, each))) * max(0, decoders - 1)
        found.append(StepBatch(decoders, context, each, tuple(chunks), shared))
    return found


def samples(rows: list[int], outliers: float = 0.0) -> tuple[list[Sample], Columns]:
    cost = StepCost(MODEL, PROFILE, truth())
    columns = Columns(MODEL, PROFILE, 1, rows, several=False)
    rng = np.random.default_rng(1)
    made = []
    for run in range(6):
        steps = batches(run, 200)
        parts = [columns.of(step) for step in steps]
        times = np.asarray([predicted_s(cost, step) for step in steps])
        times = np.where(rng.random(len(times)) < outliers, times * 6, times)
        made.append(
            Sample(np.asarray([t for t, _ in parts]), np.asarray([k for _, k in parts]), times)
        )
    return made, columns


def test_the_fit_finds_the_coefficients_that_made_the_steps() -> None:
    made, columns = samples(list(SLOWDOWN))
    found = fit(made)
    value = dict(zip(columns.names, found.coefficients, strict=True))
    assert found.median_error < 1e-3
    for rows, slowdown in SLOWDOWN.items():
        assert value[f"slowdown_{rows}"] == pytest.approx(slowdown, rel=0.02)
    assert value["sequence_s"] == pytest.approx(0.0004, rel=0.05)
    slowness = columns.decode_slowness(value["decode_attention"], value["prefill_attention"])
    assert slowness == pytest.approx(1 / 0.4, rel=0.02)
    assert value["layer_s"] == 0


def test_hiccups_do_not_move_the_median_step() -> None:
    clean, _ = samples(list(SLOWDOWN))
    shaken, _ = samples(list(SLOWDOWN), outliers=0.05)
    plain, robust = fit(clean), fit(shaken)
    assert robust.coefficients / robust.scale == pytest.approx(
        plain.coefficients / plain.scale, rel=0.05, abs=1e-5
    )


def test_slower_minutes_are_not_taken_for_longer_contexts() -> None:
    """Runs with long contexts met a slow machine: what differs within runs tells."""
    made, columns = samples(list(SLOWDOWN))
    context = columns.names.index("decode_attention")
    rng = np.random.default_rng(2)
    met = []
    for number, sample in enumerate(made):
        reading = sample.terms[:, context]
        slow = number % 2 == 0
        kept = reading > np.quantile(reading, 0.3) if slow else reading < np.quantile(reading, 0.7)
        times = sample.measured_s * (1.1 if slow else 1.0) * rng.normal(1, 0.02, len(reading))
        met.append(Sample(sample.terms[kept], sample.known_s[kept], times[kept]))
    found = fit(met, speeds=True)
    value = dict(zip(columns.names, found.coefficients, strict=True))
    slowness = columns.decode_slowness(value["decode_attention"], value["prefill_attention"])
    assert slowness == pytest.approx(1.05 / 0.4, rel=0.04)
    for rows, slowdown in SLOWDOWN.items():
        assert value[f"slowdown_{rows}"] == pytest.approx(1.05 * slowdown, rel=0.04)


def test_steps_count_for_fewer_if_the_halves_of_runs_differ() -> None:
    rng = np.random.default_rng(3)
    weights = np.ones(400)
    steady = [(rng.normal(speed, 0.02, 400), weights) for speed in rng.normal(0, 0.04, 200)]
    assert _drift(steady) == pytest.approx((0.04 / 0.02) ** 2, rel=0.3)
    drifting = [
        (residuals + np.repeat(rng.normal(0, 0.02, 2), 200), weights) for residuals, _ in steady
    ]
    assert _drift(drifting) == pytest.approx(0.04**2 / (0.02**2 / 2 * 400), rel=0.4)
    assert _drift([(rng.normal(0, 1, 400), weights) for _ in range(50)]) < 0.01
    assert _drift(steady[:1]) == 0


def test_totals_are_kept_although_the_fit_is_robust() -> None:
    shaken, _ = samples(list(SLOWDOWN), outliers=0.05)
    found = fit(shaken)
    terms = np.concatenate([sample.terms for sample in shaken])
    known = np.concatenate([sample.known_s for sample in shaken])
    measured = np.concatenate([sample.measured_s for sample in shaken])
    assert (terms @ found.coefficients + known).sum() == pytest.approx(measured.sum())
    assert found.scale > 1.1


def test_intervals_hold_the_coefficients_and_nothing_is_negative() -> None:
    made, _ = samples(list(SLOWDOWN))
    found = fit(made)
    assert np.all(found.low <= found.coefficients)
    assert np.all(found.coefficients <= found.high)
    assert np.all(found.low >= 0)


def test_the_same_seed_gives_the_same_intervals() -> None:
    made, _ = samples(list(SLOWDOWN), outliers=0.02)
    assert np.array_equal(fit(made, seed=3).low, fit(made, seed=3).low)


def test_columns_and_cost_model_agree_on_every_batch() -> None:
    made, columns = samples(list(SLOWDOWN))
    reading = 1 / 0.4 - columns.decode_slowness(0, 1 / 0.3)
    assert reading > 0
    coefficients = np.asarray([*SLOWDOWN.values(), 0, 0.0004, 0.0002, reading, 1 / 0.3])
    for sample in made:
        total = sample.terms @ coefficients + sample.known_s
        # The cost model lets the larger of reading and computing a prompt's context count.
        assert np.median(np.abs(total / sample.measured_s - 1)) < 1e-6


def test_a_chunk_of_one_token_reads_what_is_cached_as_a_decoder_does() -> None:
    cost, columns = StepCost(MODEL, PROFILE, truth()), Columns(MODEL, PROFILE, 1, [1, 64], False)
    reading = 1 / 0.4 - columns.decode_slowness(0, 1 / 0.3)
    attention = np.asarray([0, 0, 0, 0, 0, reading, 1 / 0.3])

    def step(prior: int) -> StepBatch:
        return StepBatch(2, 800, 400, (Prefill(1, prior, True),), 0)

    added = (columns.of(step(600))[0] - columns.of(step(300))[0]) @ attention
    assert added == pytest.approx(
        predicted_s(cost, step(600)) - predicted_s(cost, step(300)), rel=1e-6
    )


@given(st.floats(0.5, 600), st.lists(st.integers(1, 512), min_size=1, max_size=8, unique=True))
def test_hats_sum_to_one_and_interpolate(value: float, rows: list[int]) -> None:
    known = np.asarray(sorted(rows), dtype=float)
    weights = hats(value, known)
    assert weights.sum() == pytest.approx(1)
    assert np.all(weights >= 0)
    assert weights @ known == pytest.approx(min(max(value, known[0]), known[-1]))


@settings(max_examples=25)
@given(st.integers(0, 100), st.integers(1, 300))
def test_rows_are_told_apart_only_where_steps_speak_for_them(seed: int, count: int) -> None:
    steps = batches(seed, count)
    chosen = told_apart(steps)
    assert chosen == sorted(set(chosen))
    tokens = [step.tokens for step in steps]
    if len(chosen) > 1:
        for rows in chosen:
            nearest = [min(chosen, key=lambda m, t=t: abs(m - t)) for t in tokens]
            assert nearest.count(rows) >= 8 or 8 * len(chosen) > count


def test_a_slowdown_is_linear_between_its_rows_and_constant_beyond() -> None:
    curve = truth().gemm["fp32"]
    assert curve.slowdown_at(1) == 3.0
    assert curve.slowdown_at(6) == pytest.approx((2.5 + 3.2) / 2)
    assert curve.slowdown_at(9999) == 3.5
    assert datasheet(PROFILE).gemm["fp32"].slowdown_at(7) == 1.0
