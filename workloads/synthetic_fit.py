"""Fit the synthetic model to a trace: variance components, beta-binomial likelihood, rank match."""

import math
from collections import Counter
from collections.abc import Sequence
from statistics import correlation, fmean, pstdev

from ttcsim.errors import InputError
from ttcsim.workloads.question import Question, Sample
from ttcsim.workloads.synthetic import SyntheticSpec
from ttcsim.workloads.trace import Trace
from ttcsim.workloads.trace_summary import log_spread

# Log of the largest and 1 / smallest Beta parameter tried: a trace whose questions are all alike
# pushes them to infinity.
_LOG_BOUND = 7.0


def fit(trace: Trace) -> SyntheticSpec:
    """Return the parameters of the synthetic model that fit a trace best.

    Raises InputError if the trace has fewer than two questions or two samples a question, or a
    sample without `correct`.
    """
    name, questions = trace.header.name, trace.questions
    lengths = [[sample.output_tokens for sample in question.samples] for question in questions]
    if len(lengths) < 2 or min(map(len, lengths)) < 2:
        raise InputError(f"trace '{name}': a fit needs at least 2 questions of 2 samples each")
    samples = [sample for question in questions for sample in question.samples]
    if any(sample.correct is None for sample in samples):
        raise InputError(f"trace '{name}': a fit needs samples with 'correct'")
    between, within = log_spread(lengths)
    alpha, beta = _beta_binomial([question.samples for question in questions])
    return SyntheticSpec(
        questions=len(questions),
        samples=min(map(len, lengths)),
        prompt_tokens=fmean(question.prompt_tokens for question in questions),
        prompt_sd_log=pstdev(math.log(question.prompt_tokens) for question in questions),
        output_tokens=fmean(sample.output_tokens for sample in samples),
        sd_log_between=between or 0.0,
        sd_log_within=within or 0.0,
        max_output_tokens=max(sample.output_tokens for sample in samples),
        alpha=alpha,
        beta=beta,
        wrong_answers=_wrong_answers([question.samples for question in questions]),
        length_accuracy_correlation=_length_accuracy_correlation(questions),
    )


def _beta_binomial(groups: Sequence[Sequence[Sample]]) -> tuple[float, float]:
    """Return (alpha, beta) that maximise the likelihood of the numbers of correct samples."""
    import numpy as np
    from scipy.optimize import minimize
    from scipy.stats import betabinom

    correct = np.array([sum(bool(sample.correct) for sample in group) for group in groups])
    drawn = np.array([len(group) for group in groups])

    def loss(logs: Sequence[float]) -> float:
        alpha, beta = np.exp(logs)
        return -float(betabinom.logpmf(correct, drawn, alpha, beta).sum())

    bounds = [(-_LOG_BOUND, _LOG_BOUND)] * 2
    alpha, beta = np.exp(minimize(loss, x0=(0.0, 0.0), bounds=bounds, method="L-BFGS-B").x)
    return float(alpha), float(beta)


def _wrong_answers(groups: Sequence[Sequence[Sample]]) -> int:
    """Return how many equally likely wrong answers agree as often as those of the trace do.

    Two wrong samples of a question agree with chance 1 / wrong_answers; wrong samples without an
    answer agree with none. 1,000 stands for "never agree".
    """
    agreeing = pairs = 0
    for group in groups:
        wrong = [sample.answer for sample in group if not sample.correct]
        pairs += math.comb(len(wrong), 2)
        counts = Counter(answer for answer in wrong if answer is not None)
        agreeing += sum(math.comb(count, 2) for count in counts.values())
    return min(round(pairs / agreeing), 1000) if agreeing else 1000


def _length_accuracy_correlation(questions: Sequence[Question]) -> float:
    """Return the normal correlation that gives the trace's rank correlation over questions.

    Ranks of mean log length against ranks of the share correct; rho = 2 sin(pi / 6 * Spearman)
    (Pearson 1907). Shares tie often, which makes this slightly too small.
    """
    lengths = [fmean(math.log(s.output_tokens) for s in q.samples) for q in questions]
    shares = [fmean(bool(s.correct) for s in q.samples) for q in questions]
    if len(set(lengths)) < 2 or len(set(shares)) < 2:
        return 0.0
    spearman = correlation(_ranks(lengths), _ranks(shares))
    return 2 * math.sin(math.pi / 6 * spearman)


def _ranks(values: Sequence[float]) -> list[float]:
    """Return ranks from 1; equal values share the mean of theirs."""
    counts = Counter(values)
    rank_of: dict[float, float] = {}
    below = 0
    for value in sorted(counts):
        rank_of[value] = below + (counts[value] + 1) / 2
        below += counts[value]
    return [rank_of[value] for value in values]
