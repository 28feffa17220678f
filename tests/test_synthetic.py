"""Keyed draws and synthetic questions: stable under growth, faithful to their parameters."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from ttcsim.errors import InputError
from ttcsim.workloads import draws
from ttcsim.workloads.synthetic import SyntheticSpec, generate
from ttcsim.workloads.synthetic_fit import fit
from ttcsim.workloads.trace import Question, Sample, Trace, load_trace, read_trace, write_trace


def test_draws_are_pinned() -> None:
    # Published results rest on these: a change of the generator must be noticed.
    assert draws.bits(0, "q1", 3, "score") == draws.bits(0, "q1", "3", "score")
    assert draws.uniform(0, "q1", 3, "score") == 0.4101120444416232
    assert draws.permutation(0, 5, "q1") == [3, 4, 1, 2, 0]


@given(seed=st.integers(), question=st.text(max_size=5), sample=st.integers())
def test_draws_stay_in_range(seed: int, question: str, sample: int) -> None:
    assert 0 < draws.uniform(seed, question, sample) < 1
    assert abs(draws.normal(seed, question, sample)) < 10
    assert 0 <= draws.integer(seed, 3, question, sample) < 3
    assert sorted(draws.permutation(seed, 6, question, sample)) == list(range(6))


def test_draws_have_the_right_law() -> None:
    uniform = np.array([draws.uniform(1, "u", i) for i in range(20_000)])
    assert uniform.mean() == pytest.approx(0.5, abs=0.01)
    assert np.histogram(uniform, 10, (0, 1))[0] == pytest.approx(2000, rel=0.1)
    normal = np.array([draws.normal(1, "n", i) for i in range(20_000)])
    assert normal.mean() == pytest.approx(0, abs=0.03)
    assert normal.std() == pytest.approx(1, abs=0.02)
    firsts = [draws.permutation(1, 4, i)[0] for i in range(8000)]
    assert np.bincount(firsts) == pytest.approx(2000, rel=0.1)


def test_array_draws_depend_on_position_only() -> None:
    some = draws.uniforms(np.array([7, 2**63], dtype=np.uint64), 0, "key")
    many = draws.uniforms(np.arange(100_000, dtype=np.uint64), 0, "key")
    assert some[0] == many[7]
    assert many.mean() == pytest.approx(0.5, abs=0.005)
    assert np.corrcoef(many[:-1], many[1:])[0, 1] == pytest.approx(0, abs=0.02)
    assert draws.uniforms(np.arange(1, dtype=np.uint64), 1, "key")[0] != many[0]


def test_growing_changes_nothing_earlier() -> None:
    small = generate(SyntheticSpec(questions=5, samples=3), seed=4)
    large = generate(SyntheticSpec(questions=9, samples=8), seed=4)
    for few, many in zip(small.questions, large.questions, strict=False):
        assert many.samples[:3] == few.samples
        assert (many.id, many.prompt_tokens) == (few.id, few.prompt_tokens)
    assert generate(SyntheticSpec(questions=5, samples=3), seed=5).questions != small.questions


def test_defaults_are_the_fit_to_the_bundled_trace() -> None:
    fitted = fit(load_trace("math500_r1_8b")).model_dump()
    assert SyntheticSpec().model_dump() == pytest.approx(fitted, rel=1e-3)


def test_fit_finds_the_parameters_again() -> None:
    spec = SyntheticSpec(questions=4000, max_output_tokens=10**6)
    found = fit(generate(spec, seed=1))
    assert found.output_tokens == pytest.approx(spec.output_tokens, rel=0.05)
    assert found.prompt_tokens == pytest.approx(spec.prompt_tokens, rel=0.05)
    assert found.prompt_sd_log == pytest.approx(spec.prompt_sd_log, rel=0.03)
    assert found.sd_log_between == pytest.approx(spec.sd_log_between, rel=0.03)
    assert found.sd_log_within == pytest.approx(spec.sd_log_within, rel=0.01)
    assert found.alpha == pytest.approx(spec.alpha, rel=0.06)
    assert found.beta == pytest.approx(spec.beta, rel=0.06)
    assert found.wrong_answers == spec.wrong_answers
    correlation = found.length_accuracy_correlation
    assert correlation == pytest.approx(spec.length_accuracy_correlation, abs=0.05)


@pytest.mark.parametrize(
    ("alpha", "beta", "k", "expected"),
    [(0.5, 2, 1, 0.2), (0.5, 2, 4, 0.445887), (0.5, 2, 16, 0.684488), (1, 1, 4, 0.8)],
)
def test_pass_at_k_of_the_beta_binomial(alpha: float, beta: float, k: int, expected: float) -> None:
    # E[pass@k] = 1 - B(alpha, beta + k) / B(alpha, beta), with alpha for being correct.
    spec = SyntheticSpec(questions=20_000, samples=k, alpha=alpha, beta=beta)
    questions = generate(spec, seed=2).questions
    found = np.mean([any(sample.correct for sample in q.samples) for q in questions])
    assert found == pytest.approx(expected, abs=0.01)


def test_model_is_labelled_and_writable(tmp_path: object) -> None:
    trace = generate(SyntheticSpec(questions=3), seed=0)
    assert trace.header.accuracy_source == "model:beta-binomial"
    path = f"{tmp_path}/s.jsonl.gz"
    write_trace(trace, path)
    assert read_trace(path) == trace


def test_fixed_lengths_and_cap() -> None:
    spec = SyntheticSpec(
        prompt_tokens=50, prompt_sd_log=0, output_tokens=9, sd_log_between=0, sd_log_within=0
    )
    trace = generate(spec, seed=0)
    assert {question.prompt_tokens for question in trace.questions} == {50}
    assert {s.output_tokens for question in trace.questions for s in question.samples} == {9}
    capped = generate(SyntheticSpec(max_output_tokens=700), seed=0)
    assert max(s.output_tokens for q in capped.questions for s in q.samples) == 700


def test_the_mean_of_a_hundred_thousand_samples_is_what_was_asked_for() -> None:
    spec = SyntheticSpec(questions=100_000, samples=1, max_output_tokens=1_000_000)
    trace = generate(spec, seed=0)
    lengths = [question.samples[0].output_tokens for question in trace.questions]
    assert len(lengths) == 100_000
    assert sum(lengths) / len(lengths) == pytest.approx(spec.output_tokens, rel=0.02)


def test_bad_parameters_are_named() -> None:
    with pytest.raises(ValidationError, match="alpha"):
        SyntheticSpec(alpha=0)
    with pytest.raises(ValidationError, match="length_accuracy_correlation"):
        SyntheticSpec(length_accuracy_correlation=-1.5)


def test_fit_needs_spread_and_correctness() -> None:
    header = load_trace("math_rm8").header
    single = Trace(header, (Question("q", 1, (Sample(1, 1, True),)),) * 2)
    with pytest.raises(InputError, match="at least 2 questions of 2 samples"):
        fit(single)
    unjudged = Trace(header, (Question("q", 1, (Sample(1), Sample(2))),) * 2)
    with pytest.raises(InputError, match="needs samples with 'correct'"):
        fit(unjudged)


def test_fit_of_uniform_trace_stays_finite() -> None:
    header = load_trace("math_rm8").header
    same = Trace(header, (Question("q", 1, (Sample(5, 1, True), Sample(5, 1, True))),) * 3)
    spec = fit(same)
    assert spec.sd_log_between == spec.sd_log_within == spec.length_accuracy_correlation == 0
    assert spec.alpha / (spec.alpha + spec.beta) > 0.9


def test_describe_has_a_line_a_parameter() -> None:
    lines = SyntheticSpec().describe().splitlines()
    assert len(lines) == len(SyntheticSpec.model_fields)
    assert lines[0].split()[:2] == ["questions", "100"]
