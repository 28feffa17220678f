"""Everything a simulation needs: deployments, questions, arrivals, a strategy and a seed."""

from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SerializeAsAny,
    ValidationError,
    field_validator,
    model_validator,
)

from ttcsim.errors import InputError, invalid, read_yaml
from ttcsim.workloads.arrivals import Arrivals
from ttcsim.workloads.strategies import make_strategy, parse_strategy
from ttcsim.workloads.strategy import Strategy
from ttcsim.workloads.synthetic import SyntheticSpec


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class SpeculativeConfig(_Record):
    """Speculative decoding, under vLLM's names; the acceptance rate is the traffic's."""

    method: Literal["draft_model", "mtp"] = Field(
        description="draft_model: a small model; mtp: the model's own module for the next tokens"
    )
    model: str | None = Field(None, description="name or config.json of the draft model")
    num_speculative_tokens: int = Field(ge=1, description="draft tokens of a step")
    acceptance_rate: float = Field(
        ge=0,
        le=1,
        description="probability that a draft token is accepted if those before it were",
    )

    @model_validator(mode="after")
    def _check_model(self) -> "SpeculativeConfig":
        if (self.model is None) == (self.method == "draft_model"):
            raise ValueError("model: method draft_model needs one, method mtp has its own")
        return self


class EngineOptions(_Record):
    """Engine settings under vLLM's names; None means vLLM 0.32's default for the device."""

    block_size: int = Field(16, ge=1, description="tokens of a KV block")
    max_num_seqs: int | None = Field(None, ge=1, description="most running requests")
    max_num_batched_tokens: int | None = Field(None, ge=1, description="token budget of a step")
    max_model_len: int | None = Field(
        None, ge=2, description="longest prompt and output; None: the model's, as far as KV allows"
    )
    gpu_memory_utilization: float = Field(0.92, gt=0, le=1, description="share of memory to use")
    num_gpu_blocks: int | None = Field(
        None, ge=2, description="KV blocks, the null block included, instead of what memory allows"
    )
    enable_prefix_caching: bool = Field(True, description="reuse KV of equal prefixes")
    enable_chunked_prefill: bool = Field(True, description="split long prompts over steps")
    async_scheduling: bool | None = Field(
        None, description="decide a step before the one before has returned; None: on GPUs"
    )
    max_cudagraph_capture_size: int | None = Field(
        None,
        ge=1,
        description="most tokens of a step that runs as a CUDA graph, on GPUs; None: 512, or twice"
        " what max_num_seqs sequences decode if that is less",
    )
    fuse_allreduce_rms: bool = Field(
        True, description="all-reduces take over the norms behind them, on the GPUs where vLLM does"
    )
    watermark: float = Field(0.0, ge=0, lt=1, description="share of blocks kept free at admission")
    kv_offloading_bytes: float | None = Field(
        None, gt=0, description="host memory for KV that the cache has lost, all ranks together"
    )
    speculative_config: SpeculativeConfig | None = Field(
        None, description="propose tokens cheaply and verify several in one step"
    )
    step_by_step: bool = Field(
        False, description="simulate every step by itself: slow, and must give the same result"
    )


class FrontEnd(_Record):
    """Latency of server and client around the engine; it belongs to neither device nor model.

    A cancellation has none: it takes effect when the step that runs ends, as has been seen live.
    """

    ingest_s: float = Field(0.0, ge=0, description="from sending a request to the engine's input")
    ingest_gap_s: float = Field(
        0.0, ge=0, description="least time between two requests that reach the engine's input"
    )
    ingest_s_per_token: float = Field(
        0.0, ge=0, description="to tokenise a token of a prompt; one prompt at a time"
    )
    output_s: float = Field(0.0, ge=0, description="from the end of a step to the client")


class Deployment(_Record):
    """A model on devices: what serves calls."""

    model: str = Field(description="Hugging Face name, or path of a config.json")
    hardware: str = Field(description="name or path of a hardware profile")
    replicas: int = Field(1, ge=1, le=10_000, description="engines behind the router")
    tensor_parallel: int = Field(1, ge=1, description="devices that share every layer")
    pipeline_parallel: int = Field(
        1, ge=1, description="stages that share the layers; an engine has tensor x pipeline devices"
    )
    data_parallel: int = Field(
        1,
        ge=1,
        description="engines of a replica, each with requests of its own, that share the experts",
    )
    expert_parallel: bool = Field(
        False, description="each device holds whole experts, instead of a part of every one"
    )
    weight_dtype: str | None = Field(None, description="other dtype of the weights, such as fp8")
    kv_cache_dtype: str | None = Field(None, description="other dtype of the KV cache")
    sampling: Literal["truncated", "plain"] = Field(
        "truncated",
        description="truncated: by top-k or top-p, which orders the vocabulary; plain: greedy, or"
        " by temperature alone",
    )
    overhead_factor: float = Field(
        1.0,
        ge=0,
        description="factor on what the engine does around its kernels, per step, layer and"
        " sequence: another version of the engine, or another host",
    )
    calibration: str | None = Field(
        None, description="name or path of a calibration, or 'datasheet' for the bound without one"
    )
    usd_per_hour: float | None = Field(None, ge=0, description="price of one device instead")
    router: Literal["least_loaded", "round_robin", "question"] = Field(
        "least_loaded", description="which replica gets a call; question: all calls of a question"
    )
    engine: EngineOptions = Field(EngineOptions(), description="settings of each engine")


class Scenario(_Record):
    """One experiment. `simulate(scenario)` gives its result; the same scenario, the same result."""

    generator: Deployment = Field(description="what serves the strategy's calls")
    scorer: Deployment | None = Field(None, description="reward model, for strategies that score")
    scorer_placement: Literal["own_device", "colocated", "same_engine"] = Field(
        "own_device",
        description="colocated: both engines take turns on the generator's devices; same_engine: "
        "the generator scores",
    )
    prefiller: Deployment | None = Field(
        None,
        description="prefills the generator's prompts and sends it their KV (disaggregation)",
    )
    kv_link: Literal["intra_node", "inter_node"] = Field(
        "inter_node", description="link over which a prefiller's KV travels"
    )
    trace: str | SyntheticSpec = Field("math500_r1_8b", description="questions and samples")
    questions: int | None = Field(
        None, ge=1, description="how many are asked; more than the trace has: asked again"
    )
    arrivals: Annotated[Arrivals, Field(discriminator="kind")] | None = Field(
        None, description="when questions arrive; None: the trace's times, else all at once"
    )
    strategy: SerializeAsAny[Strategy] = Field(description="how questions are answered")
    seed: int = Field(0, ge=0, description="of all draws")
    dprime: float = Field(
        1.7,
        ge=0,
        description="separation of modelled scores, in standard deviations; 1.7 is that of the "
        "reward model in math_rm8 within a question (right above wrong in 89 % of 128 pairs)",
    )
    resample: bool = Field(False, description="reuse traced samples when there are too few")
    front_end: FrontEnd | None = Field(
        None, description="latency around the engines; None: as the generator's calibration has it"
    )

    @field_validator("strategy", mode="before")
    @classmethod
    def _strategy(cls, found: Any) -> Any:
        if isinstance(found, str):
            return parse_strategy(found)
        if isinstance(found, dict):
            parameters = dict(found)
            name = parameters.pop("name", None)
            if not isinstance(name, str) or not all(isinstance(key, str) for key in parameters):
                raise ValueError("needs a name, and parameters with names")
            return make_strategy(name, parameters)
        return found

    def to_dict(self) -> dict[str, Any]:
        """Plain data that `Scenario.model_validate` reads back (for bundled strategies)."""
        plain = self.model_dump(mode="json")
        plain["strategy"] = {"name": self.strategy.name, **plain["strategy"]}
        return plain


def make_scenario(where: str, fields: dict[str, Any]) -> Scenario:
    """Validate the fields of a scenario, with errors that say where they come from.

    Raises:
        InputError: If a field is missing, unknown or out of range.
    """
    try:
        return Scenario.model_validate(fields)
    except ValidationError as error:
        raise invalid(where, error, _fields_at) from None


def _fields_at(place: list[str]) -> list[str]:
    """Full names of the fields that a scenario has at a place."""
    kind: Any = Scenario
    for name in place:
        options = get_args(kind.model_fields[name].annotation) if name in kind.model_fields else ()
        inner = kind.model_fields[name].annotation if name in kind.model_fields else None
        kinds = [k for k in (inner, *options) if isinstance(k, type) and issubclass(k, BaseModel)]
        if not kinds:
            return []
        kind = kinds[0]
    return [".".join([*place, name]) for name in kind.model_fields]


def load_scenario(path: str | Path) -> Scenario:
    """Read a scenario from a YAML file.

    Raises:
        InputError: If the file cannot be read or is not a scenario.
    """
    try:
        return make_scenario(str(path), read_yaml(Path(path)))
    except InputError as error:
        text = str(error)
        raise InputError(text if text.startswith(str(path)) else f"{path}: {text}") from None
