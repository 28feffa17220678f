"""Verbs that show what there is: `profiles`, `models`, `traces`, `strategies`."""

from pathlib import Path
from typing import Annotated, Any

import typer

from ttcsim.errors import InputError

FORMAT = Annotated[str, typer.Option("--format", help="table, json or csv.")]


def profiles(
    name: Annotated[str | None, typer.Argument(help="Show this one in full.")] = None,
    folder: Annotated[Path | None, typer.Option(help="Folder with profiles of your own.")] = None,
    format: FORMAT = "table",
) -> None:
    """List hardware profiles, or show one with the source of every number."""
    import json

    from ttcsim.hwprofiles.catalogue import load_calibration, load_profile, profile_names

    if name is None:
        rows = [_profile_row(load_profile(each, folder), folder) for each in profile_names(folder)]
        _show(rows, format)
        return
    profile = load_profile(name, folder)
    calibration = load_calibration(profile.name, folder)
    plain: dict[str, Any] = {"profile": profile.model_dump(mode="json")}
    plain["calibration"] = calibration.model_dump(mode="json") if calibration else None
    if format == "json":
        print(json.dumps(plain, indent=1))
    elif format != "table":
        raise InputError(f"--format {format}: one profile is shown as table or json")
    else:
        import yaml

        print(yaml.safe_dump(plain, sort_keys=False, allow_unicode=True, width=100), end="")


def _profile_row(profile: Any, folder: Path | None) -> dict[str, str]:
    from ttcsim.hwprofiles.catalogue import load_calibration

    peaks = profile.peak_flops_per_s
    peak = peaks.get("bf16") or peaks.get("fp32")
    rate = profile.memory.hbm.bytes_per_s
    calibration = load_calibration(profile.name, folder)
    lenders = calibration.time_borrowed_from if calibration else ()
    level = "datasheet only" if calibration is None else "calibrated"
    return {
        "name": profile.name,
        "TFLOP/s": f"{peak / 1e12:,.1f}" if peak else "-",
        "GB": f"{profile.memory.hbm.bytes / 1e9:,.0f}",
        "GB/s": f"{rate / 1e9:,.0f}" if rate else "-",
        "idle W": f"{profile.power.idle_w:g}",
        "max W": f"{profile.power.max_w:g}",
        "$/h": f"{profile.price.usd_per_hour:.2f}",
        "times": level + (f", parts from {', '.join(lenders)}" if lenders else ""),
    }


def models(
    name: Annotated[
        str | None, typer.Argument(help="Show this one: Org/Name or path of a config.json.")
    ] = None,
    format: FORMAT = "table",
) -> None:
    """List bundled models, or describe one: parameters, weight bytes, KV bytes."""
    from ttcsim.simulator.model_catalogue import load_model, model_names

    names = [name] if name else model_names()
    _show([_model_row(load_model(each)) for each in names], format)


def _model_row(model: Any) -> dict[str, str]:
    return {
        "model": model.name,
        "parameters": f"{model.parameters / 1e9:.2f}e9",
        "active": f"{model.active_parameters / 1e9:.2f}e9",
        "weights": model.weight_dtype,
        "weight GB": f"{model.weight_bytes() / 1e9:.2f}",
        "KV B/token": f"{model.kv_bytes_per_token():,}",
        "layers": str(model.layers),
        "attention": model.attention.kind,
    }


def traces(
    name: Annotated[str | None, typer.Argument(help="Show this one: bundled name or file.")] = None,
    fit: Annotated[
        bool, typer.Option("--fit", help="Fit the model of synthetic questions to it.")
    ] = False,
    format: FORMAT = "table",
) -> None:
    """List bundled traces of questions, or describe one (your file too)."""
    from ttcsim.workloads.readers import load_questions
    from ttcsim.workloads.trace import trace_names

    names = [name] if name else trace_names()
    loaded = [load_questions(each) for each in names]
    if fit:
        from ttcsim.workloads.synthetic_fit import fit as fitted

        for trace in loaded:
            print(f"{trace.header.name}\n{fitted(trace).describe()}\n")
        return
    _show([_trace_row(trace) for trace in loaded], format)
    if name and format == "table":
        header = loaded[0].header
        print(f"{header.description}\norigin: {header.origin}\nlicence: {header.licence}")


def _trace_row(trace: Any) -> dict[str, str]:
    s = trace.summary()
    per = (
        f"{s.min_samples}" if s.min_samples == s.max_samples else f"{s.min_samples}-{s.max_samples}"
    )

    def number(value: float | None, digits: int = 3) -> str:
        return "-" if value is None else f"{value:.{digits}f}"

    return {
        "trace": trace.header.name,
        "questions": f"{s.questions:,}",
        "samples": per,
        "prompt": f"{s.mean_prompt_tokens:,.0f}",
        "output": f"{s.mean_output_tokens:,.0f}",
        "sd log between": number(s.sd_log_between, 2),
        "within": number(s.sd_log_within, 2),
        "E[min]/mean": number(list(s.min_ratio.values())[-1] if s.min_ratio else None, 2),
        "single": number(s.accuracy_single),
        "any": number(s.accuracy_best),
        "majority": number(s.accuracy_majority),
        "first": number(s.accuracy_first_finish),
    }


def strategies(
    name: Annotated[str | None, typer.Argument(help="Show the parameters of this one.")] = None,
    format: FORMAT = "table",
) -> None:
    """List strategies, or the parameters of one."""
    from ttcsim.errors import unknown_name
    from ttcsim.workloads.strategies import STRATEGIES

    if name is None:
        rows = [
            {"strategy": kind.name, "what it does": (kind.__doc__ or "").partition("\n")[0]}
            for kind in STRATEGIES.values()
        ]
        _show(rows, format)
        return
    if name not in STRATEGIES:
        raise unknown_name("strategy", name, STRATEGIES)
    kind = STRATEGIES[name]
    if format == "table":
        print(f"{name}: {kind.__doc__}")
    if kind.model_fields:
        _show(
            [
                {
                    "parameter": key,
                    "default": str(field.default),
                    "meaning": field.description or "",
                }
                for key, field in kind.model_fields.items()
            ],
            format,
        )


def _show(rows: list[dict[str, str]], format: str) -> None:
    import json

    from ttcsim.cli import formats
    from ttcsim.cli import output as out

    formats.check_format(format)
    if format == "json":
        print(json.dumps(rows, indent=1, ensure_ascii=False))
    elif format == "csv":
        print(formats.to_csv(rows), end="")
    else:
        out.show_rows(rows)
