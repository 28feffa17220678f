"""Fit what layers of experts cost an older engine beyond measured kernels, on published chats.

    python -m ttcsim.analysis.published.expert_layers [TABLE FOLDER [CALIBRATIONS FOLDER]]

The kernel tables are those of vLLM 0.24; the chats were served by vLLM 0.11, whose steps took
longer for each layer of experts: by much the same at all batches for fp8 on H100, by an amount that
changes with the batch on B200. A constant for each device and data type of the experts is fitted,
and kept if models that were left out gain from it. Prints the errors, and writes
`DEVICE_vllm_0.11.yaml`: the device's bundled calibration with the constants.
"""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from ttcsim.analysis.calibrate.calibrate import write_calibration
from ttcsim.analysis.calibrate.fit import Sample, fit
from ttcsim.analysis.published.overheads import predictions
from ttcsim.analysis.published.predict import predict_rows, scenario_of
from ttcsim.analysis.published.rows import PublishedRow, load_rows
from ttcsim.hwprofiles.calibration import Calibration
from ttcsim.hwprofiles.catalogue import engine_path, load_calibration
from ttcsim.simulator.plans import plans_of

Array = NDArray[np.float64]

DEVICES: Final = {"H100": "h100_sxm", "B200": "b200_sxm"}
VERSION: Final = "0.11"
UNIT_S: Final = 1e-4


def expert_dtypes(rows: Sequence[PublishedRow]) -> list[str | None]:
    """Data type of the experts' weights of each row, None for dense models."""
    found = []
    for row in rows:
        experts = plans_of(scenario_of(row))[0].model.experts(1)
        found.append(experts.dtype if experts else None)
    return found


def with_constants(calibration: Calibration, constants: dict[str, float]) -> Calibration:
    """The calibration with these seconds a layer of experts."""
    overheads = calibration.overheads.model_copy(update={"expert_layer_s": constants})
    return calibration.model_copy(update={"overheads": overheads})


def constant(base: Array, term: Array, measured: Array) -> float:
    """Seconds a layer that suit the typical row."""
    found = fit([Sample(term[:, None], base, measured)], resamples=1)
    return float(found.coefficients[0] / found.scale)


def fitted(rows: Sequence[PublishedRow], calibration: Calibration, dtype: str) -> tuple[float, str]:
    """(seconds a layer, errors in words); 0 where models that are left out gain nothing."""
    plain = with_constants(calibration, {})
    base = 1e-3 * predictions(rows, plain, "tpot_ms")
    moved = 1e-3 * predictions(rows, with_constants(calibration, {dtype: UNIT_S}), "tpot_ms")
    term = (moved - base) / UNIT_S
    measured = 1e-3 * np.asarray([row.measured["tpot_ms"] for row in rows])
    models = np.asarray([row.model for row in rows])
    left_out = np.empty(len(rows))
    for model in sorted(set(models)):
        own = models == model
        others_s = constant(base[~own], term[~own], measured[~own]) if (~own).any() else 0.0
        left_out[own] = base[own] + others_s * term[own]
    value_s = constant(base, term, measured)
    without, leaving, in_sample = (
        float(np.median(np.abs(predicted / measured - 1)))
        for predicted in (base, left_out, base + value_s * term)
    )
    text = (
        f"{dtype} experts, {len(rows)} chats of {len(set(models))} models: median {in_sample:.1%}"
        f" in sample, {leaving:.1%} leaving one model out, {without:.1%} without the constant"
    )
    return (float(f"{value_s:.3g}") if leaving < without else 0.0), text


def main(arguments: list[str]) -> None:
    """Fit, print and write both devices."""
    table = Path(arguments[0] if arguments else "analysis/evidence/published")
    folder = Path(arguments[1] if len(arguments) > 1 else "hwprofiles/calibrations")
    chats = load_rows(table / "mlenergy_chat.csv.gz")
    for gpu, device in DEVICES.items():
        path = folder / f"{device}.yaml"
        calibration = load_calibration(path)
        assert calibration is not None
        outcomes = predict_rows([row for row in chats if row.gpu == gpu], str(path))
        rows = [each.row for each in outcomes if each.predicted and each.unscored is None]
        dtypes = expert_dtypes(rows)
        constants, errors = {}, []
        for dtype in sorted({each for each in dtypes if each}):
            own = [row for row, each in zip(rows, dtypes, strict=True) if each == dtype]
            value_s, text = fitted(own, calibration, dtype)
            print(f"{device}: {value_s:.3g} s: {text}")
            if value_s:
                constants[dtype] = value_s
                errors.append(text)
        write_calibration(
            _older(calibration, constants, errors), engine_path(folder, device, VERSION)
        )


def _older(calibration: Calibration, constants: dict[str, float], errors: list[str]) -> Calibration:
    """The calibration of the older engine: the device's own, with what its experts cost."""
    overheads = calibration.overheads
    said = {
        "expert_layer_s": constants,
        "source": f"{overheads.source}; expert_layer_s fitted on ML.ENERGY chats (vLLM"
        f" {VERSION}.1); python -m ttcsim.analysis.published.expert_layers",
        "error": "; ".join([overheads.error, *errors]),
    }
    update = {
        "engine": f"vllm 0.24.0 kernels, vllm {VERSION}.1 serving, its experts included",
        "overheads": overheads.model_copy(update=said),
    }
    return calibration.model_copy(update=update)


if __name__ == "__main__":
    main(sys.argv[1:])
