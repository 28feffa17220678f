"""Fit what an older engine cost beyond measured kernels, on published chats.

    python -m ttcsim.analysis.published.expert_layers [TABLE FOLDER [CALIBRATIONS FOLDER]]

The kernel tables are those of vLLM 0.24, but for experts in bf16 on a B200, where vLLM 0.11 took
another kernel (`kernel_tables.py`). The chats were served by vLLM 0.11. What a layer costs on a
B200 is fitted on its dense chats, as the overheads of H100 are on its own. A layer of experts still
took longer: a constant for each device and data type of the experts is fitted, and kept if models
that were left out gain from it. Prints the errors, and writes `DEVICE_vllm_0.11.yaml`: the device's
bundled calibration with all that.
"""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from ttcsim.analysis.calibrate.calibrate import write_calibration
from ttcsim.analysis.calibrate.fit import Sample, fit
from ttcsim.analysis.calibrate.kernel_tables import OLDER, OLDER_ENGINE, older_experts
from ttcsim.analysis.published.overheads import CHATS, fitted, predictions
from ttcsim.analysis.published.predict import predict_rows, scenario_of
from ttcsim.analysis.published.rows import PublishedRow, load_rows
from ttcsim.hwprofiles.calibration import Calibration, EagerSteps
from ttcsim.hwprofiles.catalogue import engine_path, load_calibration
from ttcsim.simulator.plans import plans_of

Array = NDArray[np.float64]

DEVICES: Final = {"H100": "h100_sxm", "B200": "b200_sxm"}
UNIT_S: Final = 1e-4

OLDER_EAGER: Final = EagerSteps(
    layer_s=3e-4,
    expert_layer_s=6.5e-4,
    source="layer_s: best for dense ML.ENERGY chats on h100_sxm (vLLM 0.11.1), leaving one model"
    " out; expert_layer_s as with newer engines",
    error="ITL of these chats median 3.0 %, leaving one model out; 3.1 % with 0, 3.2 % with"
    " 0.45 ms, 3.7 % with 0.6 ms",
)
"""How fast the host started steps that no CUDA graph held. Norms were not fused then."""


def expert_dtypes(rows: Sequence[PublishedRow]) -> list[str | None]:
    """Data type of the experts' weights of each row, None for dense models."""
    found = []
    for row in rows:
        experts = plans_of(scenario_of(row))[0].model.experts(1)
        found.append(experts.dtype if experts else None)
    return found


def with_older_experts(calibration: Calibration) -> Calibration:
    """The calibration with the table of expert layers for the older vLLM, where there is one."""
    device, table = calibration.device, calibration.moe_table
    if device not in OLDER or table is None:
        return calibration
    said = {
        "table": older_experts(device),
        "source": f"aiconfigurator-core 0.12.0 kernel tables of {device}, vLLM {OLDER[device]} in"
        f" bf16 (Triton's kernels, as vLLM {OLDER_ENGINE} took them), else vLLM 0.24.0: expert"
        " layers with power-law routing of exponent 1.01 (python -m"
        " ttcsim.analysis.calibrate.kernel_tables)",
    }
    return calibration.model_copy(update={"moe_table": table.model_copy(update=said)})


def with_own_layers(calibration: Calibration, rows: Sequence[PublishedRow]) -> Calibration:
    """The calibration with what a layer costs on its device, where that is another device's.

    Two coefficients, a constant and the traffic of elementwise operators; the others are kept.
    """
    overheads = calibration.overheads
    if overheads.borrowed_from is None:
        return calibration
    dense = [row for row in rows if row.model.rpartition("/")[2] in CHATS]
    found, said = fitted(dense, calibration, ("layer_s", "traffic"))
    print(f"{calibration.device}: {found}")
    where = f"{len(dense)} dense ML.ENERGY chats on it (vLLM {OLDER_ENGINE}.1)"
    layers = {
        "layer_s": float(f"{found['layer_s']:.3g}"),
        "source": f"layer_s fitted on {where}; sequence_s is that of"
        f" {overheads.borrowed_from}, logit_s by the ratio of memory bandwidths",
        "error": "; ".join(said),
    }
    elementwise = {
        "traffic": float(f"{found['traffic']:.3g}"),
        "source": f"fitted with layer_s on {where}",
        "error": "see overheads",
        "borrowed_from": None,
    }
    return calibration.model_copy(
        update={
            "overheads": overheads.model_copy(update=layers),
            "elementwise": calibration.elementwise.model_copy(update=elementwise),
        }
    )


def with_constants(calibration: Calibration, constants: dict[str, float]) -> Calibration:
    """The calibration with these seconds a layer of experts."""
    overheads = calibration.overheads.model_copy(update={"expert_layer_s": constants})
    return calibration.model_copy(update={"overheads": overheads})


def constant(base: Array, term: Array, measured: Array) -> float:
    """Seconds a layer that suit the typical row."""
    found = fit([Sample(term[:, None], base, measured)], resamples=1)
    return float(found.coefficients[0] / found.scale)


def fitted_experts(
    rows: Sequence[PublishedRow], calibration: Calibration, dtype: str
) -> tuple[float, str]:
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
        newest = load_calibration(path)
        assert newest is not None
        newest = newest.model_copy(update={"eager": OLDER_EAGER, "fused_norms": None})
        outcomes = predict_rows([row for row in chats if row.gpu == gpu], str(path))
        rows = [each.row for each in outcomes if each.predicted and each.unscored is None]
        calibration = with_own_layers(with_older_experts(newest), rows)
        dtypes = expert_dtypes(rows)
        constants, errors = {}, []
        for dtype in sorted({each for each in dtypes if each}):
            own = [row for row, each in zip(rows, dtypes, strict=True) if each == dtype]
            value_s, text = fitted_experts(own, calibration, dtype)
            print(f"{device}: {value_s:.3g} s: {text}")
            if value_s:
                constants[dtype] = value_s
                errors.append(text)
        write_calibration(
            _older(calibration, constants, errors), engine_path(folder, device, OLDER_ENGINE)
        )


def _older(calibration: Calibration, constants: dict[str, float], errors: list[str]) -> Calibration:
    """The calibration of the older engine: with what its experts cost, and its name."""
    overheads, device = calibration.overheads, calibration.device
    other = f" (experts in bf16: {OLDER[device]})" if device in OLDER else ""
    said = {
        "expert_layer_s": constants,
        "source": f"{overheads.source}; expert_layer_s fitted on ML.ENERGY chats (vLLM"
        f" {OLDER_ENGINE}.1); python -m ttcsim.analysis.published.expert_layers",
        "error": "; ".join([overheads.error, *errors]),
    }
    update = {
        "engine": f"vllm 0.24.0 kernels{other}, vllm {OLDER_ENGINE}.1 serving and its experts",
        "overheads": overheads.model_copy(update=said),
    }
    return calibration.model_copy(update=update)


if __name__ == "__main__":
    main(sys.argv[1:])
