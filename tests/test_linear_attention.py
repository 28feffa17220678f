"""Models most of whose layers have linear attention: parameters, state instead of KV, cost."""

import json
from pathlib import Path
from typing import Any

import pytest
from support import question, trace

from ttcsim.errors import InputError
from ttcsim.hwprofiles.catalogue import load_calibration, load_profile
from ttcsim.simulator.architecture import Architecture
from ttcsim.simulator.model_catalogue import load_model
from ttcsim.simulator.plans import plans_of
from ttcsim.simulator.scenario import make_scenario
from ttcsim.simulator.simulate import simulate
from ttcsim.simulator.step_cost import Prefill, StepCost

QWEN3_NEXT = {
    "architectures": ["Qwen3NextForCausalLM"], "model_type": "qwen3_next", "hidden_size": 2048,
    "num_hidden_layers": 48, "intermediate_size": 5120, "vocab_size": 151936, "head_dim": 256,
    "num_attention_heads": 16, "num_key_value_heads": 2, "max_position_embeddings": 262144,
    "num_experts": 512, "num_experts_per_tok": 10, "decoder_sparse_step": 1,
    "mlp_only_layers": [], "moe_intermediate_size": 512, "shared_expert_intermediate_size": 512,
    "full_attention_interval": 4, "linear_num_key_heads": 16, "linear_key_head_dim": 128,
    "linear_num_value_heads": 32, "linear_value_head_dim": 128, "linear_conv_kernel_dim": 4,
    "tie_word_embeddings": False, "torch_dtype": "bfloat16",
}  # fmt: skip
"""Fields of huggingface.co/Qwen/Qwen3-Next-80B-A3B-Instruct, config.json (Apache-2.0)."""


def written(folder: Path, **changes: Any) -> Path:
    path = folder / "config.json"
    path.write_text(json.dumps(QWEN3_NEXT | changes))
    return path


def model(folder: Path, **changes: Any) -> Architecture:
    return load_model(written(folder, **changes))


def test_parameters_are_those_of_the_published_weights(tmp_path: Path) -> None:
    found = model(tmp_path)
    assert found.parameters == 79_674_391_296  # sum of the checkpoint's tensors
    assert found.active_parameters == 3_874_929_408  # less 502 of 512 experts in 48 layers


def test_only_every_fourth_layer_has_kv(tmp_path: Path) -> None:
    found = model(tmp_path)
    assert found.attention_layers == 12
    assert found.kv_bytes_per_token() == 12 * 2 * 2 * 256 * 2
    matrix, inputs = 32 * 128 * 128, (2 * 16 * 128 + 32 * 128) * 3
    assert found.state_bytes() == 36 * (matrix + inputs) * 2
    assert found.state_bytes(tp=2) == found.state_bytes() / 2
    wide = model(tmp_path, mamba_ssm_dtype="float32")
    assert wide.state_bytes() == 36 * (matrix * 4 + inputs * 2)


def test_layer_types_win_over_an_interval(tmp_path: Path) -> None:
    types = ["linear_attention", "full_attention"] * 24
    assert model(tmp_path, layer_types=types).attention_layers == 24


def cost(folder: Path, hardware: str = "h200_sxm") -> StepCost:
    calibration = load_calibration(hardware)
    assert calibration is not None
    return StepCost(model(folder), load_profile(hardware), calibration, 2)


def test_state_is_read_and_written_whatever_the_context_is(tmp_path: Path) -> None:
    own = cost(tmp_path)
    context_s, _ = own.operators.attention.context_token()
    rate = 4.8e12 * own.calibration.decode_attention.memory_efficiency
    assert context_s == pytest.approx(own.model.kv_bytes_per_token(2) / rate)
    one, two = (own.operators.attention.linear(n, n)[0] for n in (1, 2))
    assert two - one == pytest.approx(2 * own.model.state_bytes(2) / rate)


def test_a_prompt_moves_its_state_once(tmp_path: Path) -> None:
    own = cost(tmp_path)
    short, long = (own.operators.attention.linear(1, tokens)[0] for tokens in (1, 16))
    assert short == long  # memory-bound
    assert own.row(0, 0, [Prefill(4096, 0, True)]).duration_at(0) < 4096 * own.row(1).duration


def test_it_is_served(tmp_path: Path) -> None:
    generator = {"model": str(written(tmp_path)), "hardware": "h200_sxm", "tensor_parallel": 2}
    fields = {"generator": generator, "strategy": "majority_vote:n=4"}
    scenario = make_scenario("test", fields)
    asked = trace(question("q", 500, [300] * 4))
    assert simulate(scenario, trace=asked).summary["output_tokens_per_question"] == 1200
    fewer = make_scenario("test", fields | {
        "generator": generator | {"engine": {"max_num_seqs": 64}}
    })  # fmt: skip
    blocks = [plans_of(each)[0].scheduler.num_blocks for each in (scenario, fewer)]
    assert blocks[1] > blocks[0]  # states of 64 sequences take less memory than of 1024


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"linear_num_key_heads": None}, "linear_num_key_heads"),
        ({"full_attention_interval": None}, "full_attention_interval"),
        ({"mamba_ssm_dtype": "float8"}, "mamba_ssm_dtype"),
    ],
)
def test_missing_and_wrong_fields(tmp_path: Path, changes: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words):
        model(tmp_path, **changes)
