"""Fit the overheads of a calibration to published rows, and say how they do on models left out.

    python -m ttcsim.analysis.published.overheads [TABLE FOLDER]

Means are very nearly linear in the overheads: these change how long steps take, hardly which steps
run. So the response to each is found by simulating every row with and without it, and what remains
is the fit of `ttcsim calibrate`, for the engine of these rows (vLLM 0.11). Prints the coefficients
of H100; its calibration holds those of a fit before logits were gathered, which are within 6 %.
"""

import os
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from ttcsim.analysis.calibrate.calibrate import write_calibration
from ttcsim.analysis.calibrate.fit import Sample, fit
from ttcsim.analysis.published.predict import predict_rows
from ttcsim.analysis.published.rows import PublishedRow, load_rows
from ttcsim.analysis.validate.report import Spread
from ttcsim.hwprofiles.calibration import Calibration
from ttcsim.hwprofiles.catalogue import load_calibration

Array = NDArray[np.float64]

UNITS: Final = {
    "layer_s": 1e-5, "sequence_s": 4e-5, "logit_s": 3e-10, "tail": 0.5, "traffic": 1.0,
}  # fmt: skip
"""Coefficients that are fitted, and how far each is moved to see what it does."""

CHATS: Final = (
    "Qwen3-8B", "Qwen3-14B", "Qwen3-32B", "Llama-3.1-8B-Instruct", "Llama-3.1-70B-Instruct",
    "Llama-3.3-70B-Instruct",
)  # fmt: skip
"""Dense models in bf16 whose chats are fitted."""


def dense_chats(folder: Path, gpu: str) -> list[PublishedRow]:
    """Chats of dense models on a GPU."""
    rows = load_rows(folder / "mlenergy_chat.csv.gz")
    return [row for row in rows if row.gpu == gpu and row.model.rpartition("/")[2] in CHATS]


def rows_to_fit(folder: Path) -> list[PublishedRow]:
    """Dense chats on H100, and the rows of Qwen3-32B with prompts of 1024 tokens."""
    found = dense_chats(folder, "H100")
    serving = load_rows(folder / "silicon_sample.csv.gz")
    found += [
        row
        for row in serving
        if row.gpu == "H100" and row.model == "Qwen/Qwen3-32B" and row.precision.startswith("bf16")
    ]
    return found


def predictions(rows: Sequence[PublishedRow], calibration: Calibration, metric: str) -> Array:
    """A predicted metric of each row; nan where there is none."""
    with tempfile.TemporaryDirectory(prefix="ttcsim-") as scratch:
        path = Path(scratch) / "calibration.yaml"
        write_calibration(calibration, path)
        found = predict_rows(rows, str(path), processes=os.cpu_count() or 1)
    return np.asarray([each.predicted.get(metric, np.nan) for each in found])


def responses(
    rows: Sequence[PublishedRow], calibration: Calibration, names: Sequence[str]
) -> tuple[Array, Array]:
    """(seconds without these overheads, seconds by unit of each, a row a published row)."""

    def moved(**values: float) -> Array:
        """Predictions with these coefficients, and 0 for the others of `names`."""
        update = dict.fromkeys(names, 0.0) | values
        traffic = update.pop("traffic", calibration.elementwise.traffic)
        changed = calibration.model_copy(
            update={
                "overheads": calibration.overheads.model_copy(update=update),
                "elementwise": calibration.elementwise.model_copy(update={"traffic": traffic}),
            }
        )
        return 1e-3 * predictions(rows, changed, "tpot_ms")

    base = moved()
    columns = [(moved(**{name: UNITS[name]}) - base) / UNITS[name] for name in names]
    return base, np.stack(columns, axis=1)


def family(row: PublishedRow) -> str:
    """Models of one shape count as one: the 70B ones are the same network."""
    return "70B" if "70B" in row.model else row.model


def fitted(
    rows: Sequence[PublishedRow], calibration: Calibration, names: Sequence[str]
) -> tuple[dict[str, float], list[str]]:
    """(coefficients that suit the typical row, errors in words: in sample, leaving a model out)."""
    base, terms = responses(rows, calibration, names)
    kept = np.isfinite(base)
    rows = [row for row, known in zip(rows, kept, strict=True) if known]
    base, terms = base[kept], terms[kept]
    measured = 1e-3 * np.asarray([row.measured["tpot_ms"] for row in rows])

    def coefficients_of(chosen: Array) -> Array:
        found = fit([Sample(terms[chosen], base[chosen], measured[chosen])], resamples=1)
        return found.coefficients / found.scale  # the typical row, not the mean

    def errors(coefficients: Callable[[int], Array]) -> Array:
        predicted = [base[i] + terms[i] @ coefficients(i) for i in range(len(rows))]
        return np.asarray(predicted) / measured - 1

    own = coefficients_of(np.ones(len(rows), dtype=bool))
    families = np.asarray([family(row) for row in rows])
    without = {name: coefficients_of(families != name) for name in set(families)}
    chat = np.asarray([bool(row.task) and row.task != "random" for row in rows])
    said = []
    for what, found in (
        ("in sample", errors(lambda _: own)),
        ("leaving one model out", errors(lambda i: without[families[i]])),
    ):
        for which, mask in (("chats", chat), ("serving rows", ~chat)):
            spread = Spread.of(found[mask].tolist())
            if spread is not None:
                said.append(
                    f"{which}, {what}: {spread.count} rows, median {spread.median:.1%}, mean"
                    f" {spread.mean:.1%}, p90 {spread.p90:.1%}, bias {spread.bias:+.1%}"
                )
    return dict(zip(names, own.tolist(), strict=True)), said


def main(arguments: list[str]) -> None:
    """Print coefficients and errors, in sample and leaving one model out."""
    folder = Path(arguments[0] if arguments else "analysis/evidence/published")
    calibration = load_calibration("h100_sxm_vllm_0.11")
    assert calibration is not None
    found, said = fitted(rows_to_fit(folder), calibration, list(UNITS))
    print(", ".join(f"{name} {value:.3g}" for name, value in found.items()))
    print("\n".join(said))


if __name__ == "__main__":
    main(sys.argv[1:])
