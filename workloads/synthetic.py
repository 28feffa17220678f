"""Synthetic questions from a statistical model of lengths and correctness.

    log(output tokens of sample i of question q) = mu + between * x_q + within * e_qi
    p_q = Beta quantile(alpha, beta; Phi(z_q)),   corr(x_q, z_q) = length_accuracy_correlation
    sample i of question q is correct with chance p_q

x, e and z are standard normal, mu is set so that the mean length (before the cap) is
`output_tokens`. Questions that take long are the hard ones (one correlation); within a question,
length and correctness are independent, as they nearly are in the trace the defaults are fitted to.
A wrong answer is one of `wrong_answers` equally likely ones; no sample is left without an answer.
Known limits are measured in `docs/traces.md`.
"""

import math

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from ttcsim.workloads.draws import uniforms
from ttcsim.workloads.question import Question, Sample
from ttcsim.workloads.trace import Trace, TraceHeader

# The position that keys a sample's draws: question number, then this many bits of sample number.
_SAMPLE_BITS = 20


class SyntheticSpec(BaseModel):
    """Parameters of the model.

    The defaults are `fit(load_trace("math500_r1_8b"))` (`ttcsim.workloads.synthetic_fit`), rounded
    to three significant digits or more; a test compares them.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    questions: int = Field(100, ge=1, description="Number of questions.")
    samples: int = Field(16, ge=1, lt=1 << _SAMPLE_BITS, description="Samples of a question.")
    prompt_tokens: float = Field(76.45, ge=1, description="Mean prompt length [tokens].")
    prompt_sd_log: float = Field(0.761, ge=0, description="SD of log prompt length; 0: all equal.")
    output_tokens: float = Field(2281.79, ge=1, description="Mean output length [tokens].")
    sd_log_between: float = Field(0.953, ge=0, description="SD of log length between questions.")
    sd_log_within: float = Field(0.383, ge=0, description="SD of log length within a question.")
    max_output_tokens: int = Field(14929, ge=1, description="Longer outputs are cut [tokens].")
    alpha: float = Field(0.568, gt=0, description="First parameter of Beta(alpha, beta).")
    beta: float = Field(0.2736, gt=0, description="Second parameter of Beta(alpha, beta).")
    wrong_answers: int = Field(3, ge=1, description="Equally likely wrong answers of a question.")
    length_accuracy_correlation: float = Field(
        -0.286, ge=-1, le=1, description="Correlation of a question's length and ease."
    )
    answers: bool = Field(True, description="Draw answers; without, there is no accuracy.")

    def describe(self) -> str:
        """Return one line a parameter: name, value, meaning."""
        fields = type(self).model_fields.items()
        return "\n".join(
            f"{name:<28}{getattr(self, name):>10.6g}  {info.description}" for name, info in fields
        )


def generate(spec: SyntheticSpec, seed: int) -> Trace:
    """Draw a trace from the model.

    Every draw is keyed by the position of question and sample: asking for more questions or more
    samples changes none of the earlier ones.

    >>> one = generate(SyntheticSpec(questions=1), seed=7)
    >>> one.questions == generate(SyntheticSpec(questions=2), seed=7).questions[:1]
    True
    """
    prompts = _prompt_tokens(spec, seed).tolist()
    outputs = _output_tokens(spec, seed).tolist()
    answers = _answers(spec, seed).tolist()
    questions = tuple(
        Question(
            id=f"synthetic-{number}",
            prompt_tokens=prompt,
            samples=tuple(
                Sample(tokens, answer, answer == 0) if spec.answers else Sample(tokens)
                for tokens, answer in zip(lengths, own_answers, strict=True)
            ),
        )
        for number, (prompt, lengths, own_answers) in enumerate(
            zip(prompts, outputs, answers, strict=True)
        )
    )
    return Trace(_header(spec, seed), questions)


def _header(spec: SyntheticSpec, seed: int) -> TraceHeader:
    return TraceHeader(
        name="synthetic",
        description=f"{spec.questions} questions x {spec.samples} samples drawn with seed {seed}",
        origin="drawn: hierarchical lognormal lengths, beta-binomial correctness",
        licence="CC0-1.0",
        tokenizer="none",
        models=("synthetic",),
        accuracy_source="model:beta-binomial" if spec.answers else "none",
    )


def _prompt_tokens(spec: SyntheticSpec, seed: int) -> NDArray[np.int64]:
    deviates = _question_normals(spec, seed, "prompt")
    mu = math.log(spec.prompt_tokens) - spec.prompt_sd_log**2 / 2
    return _whole_tokens(np.exp(mu + spec.prompt_sd_log * deviates))


def _output_tokens(spec: SyntheticSpec, seed: int) -> NDArray[np.int64]:
    """Return output tokens, one row a question."""
    between = _question_normals(spec, seed, "length")[:, None]
    within = _normals(_sample_draws(spec, seed, "length of sample"))
    mu = math.log(spec.output_tokens) - (spec.sd_log_between**2 + spec.sd_log_within**2) / 2
    logs = mu + spec.sd_log_between * between + spec.sd_log_within * within
    return np.minimum(_whole_tokens(np.exp(logs)), spec.max_output_tokens)


def _answers(spec: SyntheticSpec, seed: int) -> NDArray[np.int64]:
    """Return answers, one row a question: 0 is the right one, 1..wrong_answers are wrong."""
    chance = _chance_correct(spec, seed)[:, None]
    correct = _sample_draws(spec, seed, "correct") < chance
    wrong = 1 + np.floor(_sample_draws(spec, seed, "wrong answer") * spec.wrong_answers)
    return np.where(correct, 0, wrong.astype(np.int64))


def _chance_correct(spec: SyntheticSpec, seed: int) -> NDArray[np.float64]:
    from scipy.special import betaincinv, ndtr

    rho = spec.length_accuracy_correlation
    length = _question_normals(spec, seed, "length")
    own = _question_normals(spec, seed, "accuracy")
    ease = ndtr(rho * length + math.sqrt(1 - rho * rho) * own)
    return np.asarray(betaincinv(spec.alpha, spec.beta, ease), dtype=np.float64)


def _question_normals(spec: SyntheticSpec, seed: int, purpose: str) -> NDArray[np.float64]:
    positions = np.arange(spec.questions, dtype=np.uint64)
    return _normals(uniforms(positions, seed, "synthetic", purpose))


def _sample_draws(spec: SyntheticSpec, seed: int, purpose: str) -> NDArray[np.float64]:
    """Return uniform draws in (0, 1), one row a question."""
    rows = np.arange(spec.questions, dtype=np.uint64)[:, None] << np.uint64(_SAMPLE_BITS)
    positions = rows | np.arange(spec.samples, dtype=np.uint64)
    return uniforms(positions, seed, "synthetic", purpose)


def _normals(draws: NDArray[np.float64]) -> NDArray[np.float64]:
    from scipy.special import ndtri

    return np.asarray(ndtri(draws), dtype=np.float64)


def _whole_tokens(tokens: NDArray[np.float64]) -> NDArray[np.int64]:
    return np.maximum(np.rint(tokens), 1).astype(np.int64)
