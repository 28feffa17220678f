"""Profiles and quantities: every number has a source, and what is wrong is named."""

import copy
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from ttcsim.errors import InputError
from ttcsim.hwprofiles import HardwareProfile, Quantity, load_profile, profile_names

BUNDLED = [
    "a100_sxm",
    "b200_sxm",
    "b300_sxm",
    "cpu_2core",
    "h100_sxm",
    "h200_sxm",
    "l40s",
    "rtx_4090",
    "rtx_pro_6000_server",
]


def quantities(value: Any) -> Iterator[Quantity]:
    if isinstance(value, Quantity):
        yield value
    elif isinstance(value, dict):
        for item in value.values():
            yield from quantities(item)
    elif hasattr(value, "model_fields_set"):
        yield from quantities(dict(value))


@pytest.fixture
def content() -> dict[str, Any]:
    return load_profile("h100_sxm").model_dump(mode="json")


def write(folder: Path, name: str, content: Any) -> Path:
    path = folder / f"{name}.yaml"
    path.write_text(content if isinstance(content, str) else yaml.safe_dump(content))
    return path


def test_bundled_names() -> None:
    assert profile_names() == BUNDLED


@pytest.mark.parametrize("name", BUNDLED)
def test_every_number_of_a_bundled_profile_has_a_source(name: str) -> None:
    profile = load_profile(name)
    assert profile.name == name
    found = list(quantities(profile))
    assert len(found) >= 10
    assert all(quantity.source.strip() for quantity in found)


def test_the_documentation_runs_and_names_every_device() -> None:
    page = (Path(__file__).parent.parent / "docs" / "hardware-profiles.md").read_text()
    exec(page.split("```python")[1].split("```")[0], {})
    for name in BUNDLED:
        profile = load_profile(name)
        row = next(line for line in page.splitlines() if line.startswith(f"| `{name}`"))
        gb_per_s = profile.require("memory.hbm.bytes_per_s") / 1e9
        assert f"| {gb_per_s:,.1f} |".replace(".0 ", " ") in row
        assert f"| {profile.power.max_w:,.0f} |" in row


@pytest.mark.parametrize("name", BUNDLED)
def test_bundled_numbers_are_plausible(name: str) -> None:
    profile = load_profile(name)
    memory = profile.memory
    assert memory.cache.bytes < memory.hbm.bytes <= memory.host.bytes or name in (
        "b200_sxm",
        "b300_sxm",
    )
    assert 0 < profile.power.idle_w < 0.4 * profile.power.max_w
    peaks = profile.peak_flops_per_s
    assert peaks.get("bf16", 0) <= peaks.get("fp8", float("inf")) <= peaks.get("fp4", float("inf"))
    assert profile.peak("fp32") == min(peaks.values())


def test_the_h100_of_the_datasheet() -> None:
    h100 = load_profile("h100_sxm")
    assert h100.peak("bf16") == 989e12
    assert h100.require("memory.hbm.bytes_per_s") == 3.35e12
    assert h100.require("power.max_w") == 700
    assert h100.require("compute_units") == 132


def test_round_trip(content: dict[str, Any], tmp_path: Path) -> None:
    assert content["power"]["max_w"] == {"value": 700.0, "source": "NVIDIA H100 datasheet"}
    again = load_profile(write(tmp_path, "copy", content))
    assert again == load_profile("h100_sxm")
    assert again.power.max_w.source == "NVIDIA H100 datasheet"
    assert HardwareProfile.model_validate(dict(again)) == again


def test_profiles_cannot_be_changed_in_place() -> None:
    with pytest.raises(ValueError, match="frozen"):
        load_profile("l40s").name = "mine"  # type: ignore[misc]


def test_a_missing_field_names_file_and_field(content: dict[str, Any], tmp_path: Path) -> None:
    del content["memory"]["hbm"]["bytes"]
    path = write(tmp_path, "mine", content)
    with pytest.raises(InputError) as error:
        load_profile(path)
    assert str(error.value) == f"{path}: memory.hbm.bytes: field required"


@pytest.mark.parametrize(
    ("bad", "says"),
    [
        (80, "a number needs its source beside it"),
        ({"value": 80}, "needs exactly the fields value and source"),
        ({"value": -1, "source": "x"}, "must be a finite number >= 0"),
        ({"value": ".nan", "source": "x"}, "value must be a number, not '.nan'"),
        ({"value": "inf", "source": "x"}, "must be a finite number >= 0"),
        ({"value": True, "source": "x"}, "value must be a number"),
        ({"value": 1, "source": " "}, "needs a source that is not empty"),
        ({"value": 1, "source": 3}, "source must be text"),
    ],
)
def test_a_bad_number_names_the_field(
    content: dict[str, Any], tmp_path: Path, bad: Any, says: str
) -> None:
    content["power"]["idle_w"] = bad
    path = write(tmp_path, "mine", content)
    with pytest.raises(InputError) as error:
        load_profile(path)
    assert str(error.value).startswith(f"{path}: power.idle_w: {says}")
    assert "\n" not in str(error.value)


def test_an_unknown_field_is_an_error(content: dict[str, Any], tmp_path: Path) -> None:
    content["power"]["turbo_w"] = {"value": 1, "source": "x"}
    with pytest.raises(InputError, match=r"power\.turbo_w: extra inputs are not permitted"):
        load_profile(write(tmp_path, "mine", content))


def test_malformed_yaml_names_file_and_line(tmp_path: Path) -> None:
    path = write(tmp_path, "mine", "name: x\nvendor: [a\nkind: gpu\n")
    with pytest.raises(InputError) as error:
        load_profile(path)
    assert str(error.value).startswith(f"{path}:3: ")


def test_an_unknown_device_offers_the_nearest() -> None:
    with pytest.raises(InputError, match="unknown hardware 'h100-sxm'; did you mean 'h100_sxm'"):
        load_profile("h100-sxm")


def test_a_path_that_does_not_exist() -> None:
    with pytest.raises(InputError, match=r"^nowhere\.yaml: cannot be read"):
        load_profile("nowhere.yaml")


def test_the_users_folder_adds_and_replaces(content: dict[str, Any], tmp_path: Path) -> None:
    write(tmp_path, "mine", content | {"name": "mine"})
    write(tmp_path, "h100_sxm", content | {"description": "ours"})
    assert profile_names(tmp_path) == sorted([*BUNDLED, "mine"])
    assert load_profile("mine", tmp_path).name == "mine"
    assert load_profile("h100_sxm", tmp_path).description == "ours"
    with pytest.raises(InputError, match="not a folder of hardware profiles"):
        profile_names(tmp_path / "nowhere")


def test_a_missing_peak_names_field_and_what_there_is() -> None:
    with pytest.raises(InputError) as error:
        load_profile("a100_sxm").peak("fp8")
    assert str(error.value) == (
        "a100_sxm: peak_flops_per_s.fp8: missing from the profile"
        " (have: bf16, fp16, fp32, int8, tf32)"
    )


@pytest.mark.parametrize(
    "path", ["memory.cache.bytes_per_s", "links.inter_node", "links.inter_node.bytes_per_s"]
)
def test_an_unknown_number_is_never_guessed(path: str) -> None:
    with pytest.raises(InputError) as error:
        load_profile("rtx_4090").require(path)
    assert str(error.value) == f"rtx_4090: {path}: not known for this device"


def test_require_wants_a_number() -> None:
    with pytest.raises(InputError, match=r"l40s: memory\.hbm: not a number"):
        load_profile("l40s").require("memory.hbm")


def test_quantity_computes_like_a_float() -> None:
    bandwidth = Quantity(4.0, "datasheet")
    assert bandwidth / 2 + 1 == 3.0
    assert type(bandwidth / 2) is float
    assert sum([bandwidth, bandwidth]) == 8.0
    assert max(bandwidth, 1.0) is bandwidth
    assert f"{bandwidth:.1f}" == "4.0"
    assert hash(bandwidth) == hash(4.0)


@pytest.mark.parametrize(
    "clone", [copy.copy, copy.deepcopy, lambda q: pickle.loads(pickle.dumps(q))]
)
def test_a_copied_quantity_keeps_its_source(clone: Any) -> None:
    again = clone(Quantity(4.0, "datasheet"))
    assert (again, again.source) == (4.0, "datasheet")


def test_numbers_that_yaml_reads_as_text_are_accepted(
    content: dict[str, Any], tmp_path: Path
) -> None:
    content["memory"]["hbm"]["bytes_per_s"] = {"value": "1e12", "source": "x"}
    path = write(tmp_path, "mine", content)
    assert load_profile(path).require("memory.hbm.bytes_per_s") == 1e12


def test_the_schema_can_be_rendered() -> None:
    quantity = HardwareProfile.model_json_schema()["$defs"]["Power"]["properties"]["idle_w"]
    assert quantity["required"] == ["value", "source"]
