"""A measuring plan: which workloads, how often, and which runs do not count. Fixed beforehand.

A campaign takes its workloads in turn (A B C, B C A, ...), calibration and validation alike, each
round in another order, so that a slow hour hits all of them. `docs/measuring.md` says why each rule
is there.
"""

from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from ttcsim.errors import InputError, invalid, read_yaml
from ttcsim.simulator.scenario import Scenario, make_scenario

Role = Literal["calibrate", "validate"]


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Rules(_Record):
    """When a campaign is done, and which runs count."""

    repeats: int = Field(5, ge=1, description="accepted runs of each workload, at least")
    max_repeats: int = Field(
        12, ge=1, description="accepted runs of each workload, at most; twice as many in all"
    )
    max_noise: float = Field(
        0.03, gt=0, description="noise of a comparison to reach, else repeats are added"
    )
    max_variation: float = Field(
        0.06, gt=0, description="largest run-to-run coefficient of variation of a valid campaign"
    )
    max_disturbance: float = Field(
        0.04, ge=0, description="runs are rejected above this share of processor time that the "
        "host or other processes took, as a share of the run's wall time"
    )  # fmt: skip
    max_slowdown: float = Field(
        0.08, ge=0, description="runs are rejected if their decode steps were slower or faster "
        "than usual for their batch sizes by more than this share: the machine was another one"
    )  # fmt: skip
    min_run_s: float = Field(10.0, ge=0, description="shortest run of a valid campaign")
    wall_time_s: float = Field(3600.0, gt=0, description="no run starts after this time")


class Workload(_Record):
    """What is run again and again: a scenario, and whether it may be calibrated on."""

    name: str = Field(pattern=r"^[A-Za-z0-9_.-]+$", description="in file names")
    role: Role = Field("validate", description="calibrate or validate")
    load: str = Field("", description="kind of load, for grouping in reports")
    scenario: Scenario


class Campaign(_Record):
    """A measuring plan.

    Attributes:
        name: Of the campaign.
        warm_up: Name of the workload that is run first and thrown away.
        rules: When it is done, which runs count.
        server_flags: Further options of vLLM's server.
        workloads: Each is run once a round.
    """

    name: str
    warm_up: str | None = None
    rules: Rules = Rules()
    server_flags: tuple[str, ...] = ()
    workloads: tuple[Workload, ...] = Field(min_length=1)

    @field_validator("workloads")
    @classmethod
    def _names_differ(cls, found: tuple[Workload, ...]) -> tuple[Workload, ...]:
        names = [workload.name for workload in found]
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"two workloads are called '{name}'")
        served = {workload.scenario.generator.model_dump_json() for workload in found}
        if len(served) > 1:
            raise ValueError("all workloads of a campaign need the same generator")
        return found

    @model_validator(mode="after")
    def _warm_up_exists(self) -> "Campaign":
        names = [workload.name for workload in self.workloads]
        if self.warm_up is not None and self.warm_up not in names:
            raise ValueError(f"warm_up: there is no workload '{self.warm_up}'")
        return self

    def workload(self, name: str) -> Workload:
        """The workload of a name.

        Raises:
            InputError: If there is none.
        """
        for each in self.workloads:
            if each.name == name:
                return each
        raise InputError(f"campaign {self.name}: no workload '{name}'")

    def to_dict(self) -> dict[str, Any]:
        """Plain data that `make_campaign` reads back."""
        plain = self.model_dump(mode="json", exclude={"workloads"})
        plain["workloads"] = [
            {**each.model_dump(mode="json", exclude={"scenario"}),
             "scenario": each.scenario.to_dict()}
            for each in self.workloads
        ]  # fmt: skip
        return plain


def make_campaign(where: str, fields: dict[str, Any]) -> Campaign:
    """Validate the fields of a plan; every workload's scenario is laid over `base`.

    Raises:
        InputError: If a field is missing, unknown or out of range.
    """
    base = fields.pop("base", {})
    workloads = fields.get("workloads")
    if not isinstance(workloads, list) or not isinstance(base, dict):
        raise InputError(f"{where}: expected a list 'workloads' (and a mapping 'base')")
    made = []
    for number, each in enumerate(workloads):
        if not isinstance(each, dict) or not isinstance(each.get("scenario", {}), dict):
            raise InputError(f"{where}: workloads.{number}: expected a mapping of fields")
        inside = f"{where}: workloads.{number}.scenario"
        scenario = make_scenario(inside, {**base, **each.get("scenario", {})})
        made.append({**each, "scenario": scenario})
    try:
        return Campaign.model_validate({**fields, "workloads": made})
    except ValidationError as error:
        raise invalid(where, error, lambda _: Campaign.model_fields) from None


def load_campaign(path: str | Path) -> Campaign:
    """Read a plan from a YAML file.

    Raises:
        InputError: If the file cannot be read or is not a plan.
    """
    return make_campaign(str(path), read_yaml(Path(path)))
