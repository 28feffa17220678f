"""Which weights of a checkpoint are quantised, and to what.

Reads `quantization_config` of config.json (fp8, mxfp4, awq, gptq, compressed-tensors, modelopt)
and ModelOpt's `hf_quant_config.json`, which wins where both exist. LM head, embeddings, router and
norms are taken to be full width: engines quantise the linear layers of attention and MLP only.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from fnmatch import fnmatchcase

from ttcsim.errors import InputError, unknown_name
from ttcsim.simulator.model_fields import Fields

# `quant_algo` of NVIDIA ModelOpt (modelopt/torch/export); weights only, activations may differ.
_MODELOPT_DTYPES = {
    "FP8": "fp8",
    "FP8_PER_CHANNEL_PER_TOKEN": "fp8",
    "FP8_PB_WO": "fp8",
    "W8A8_SQ_PER_CHANNEL": "int8",
    "W4A16_AWQ": "int4",
    "W4A8_AWQ": "int4",
    "NVFP4": "nvfp4",
}
_METHOD_DTYPES = {"fp8": "fp8", "mxfp4": "fp4"}
_BITS_DTYPES = {4: "int4", 8: "int8"}
_NUMBER_DTYPES = {
    ("float", 8): "fp8",
    ("float", 4): "fp4",
    ("int", 8): "int8",
    ("int", 4): "int4",
}


@dataclass(frozen=True, slots=True)
class Quantization:
    """Dtype of quantised weights and of the KV cache (None: full width), and what is left out."""

    where: str
    weights: str | None
    kv: str | None
    excluded: tuple[str, ...]

    def dtype_of(self, modules: Iterable[str], full_width: str) -> str:
        """Return the dtype of a part of the model, given the names of its modules in all layers.

        Raises InputError if some of them are excluded and some are not: a part has one dtype.
        """
        if self.weights is None:
            return full_width
        kept = {module: _is_excluded(module, self.excluded) for module in modules}
        if not any(kept.values()):
            return self.weights
        if all(kept.values()):
            return full_width
        quantised = next(module for module, excluded in kept.items() if not excluded)
        excluded = next(module for module, excluded in kept.items() if excluded)
        raise InputError(
            f"{self.where}: '{excluded}' is excluded from quantisation but '{quantised}' is not; "
            "parts that are quantised in some layers only are not supported"
        )


def read_quantization(config: Fields, hf_quant_config: Fields | None) -> Quantization:
    """Read how a checkpoint is quantised. Raises InputError for a method that is not known."""
    if hf_quant_config is not None:
        quantization = hf_quant_config.child("quantization")
        if quantization is None:
            raise InputError(f"{hf_quant_config.where}: missing field 'quantization'")
        return _modelopt(quantization)
    method = config.child("quantization_config")
    if method is None:
        return Quantization(config.where, None, None, ())
    if method.has("quant_algo"):
        return _modelopt(method)
    return Quantization(method.where, _weight_dtype(method), _kv_dtype(method), _excluded(method))


def _modelopt(fields: Fields) -> Quantization:
    if not fields.has("quant_algo"):  # null: only the KV cache is quantised
        return Quantization(fields.where, None, _kv_dtype(fields), ())
    algorithm = fields.text("quant_algo")
    if algorithm not in _MODELOPT_DTYPES:
        raise _unsupported(fields, "quant_algo", algorithm, _MODELOPT_DTYPES)
    dtype = _MODELOPT_DTYPES[algorithm]
    return Quantization(fields.where, dtype, _kv_dtype(fields), _excluded(fields))


def _weight_dtype(fields: Fields) -> str:
    method = fields.text("quant_method")
    if method in _METHOD_DTYPES:
        return _METHOD_DTYPES[method]
    if method in ("awq", "gptq"):
        bits = fields.count("bits")
        if bits not in _BITS_DTYPES:
            raise fields.wrong("bits", "4 or 8")
        return _BITS_DTYPES[bits]
    if method == "compressed-tensors":
        return _compressed_dtype(fields)
    known = (*_METHOD_DTYPES, "awq", "gptq", "compressed-tensors")
    raise _unsupported(fields, "quant_method", method, known)


def _compressed_dtype(fields: Fields) -> str:
    groups = fields.child("config_groups")
    if groups is None:
        raise InputError(f"{fields.where}: missing field 'config_groups'")
    dtypes = set()
    for name in groups.values:
        group = groups.child(name)
        weights = group.child("weights") if group else None
        if weights is None:
            raise InputError(f"{groups.where}: {name}: missing field 'weights'")
        dtypes.add(_number_dtype(weights))
    if len(dtypes) != 1:
        raise groups.wrong(next(iter(groups.values), "group_0"), "one weight dtype in all groups")
    return dtypes.pop()


def _number_dtype(fields: Fields) -> str:
    number = (fields.text("type"), fields.count("num_bits"))
    if number not in _NUMBER_DTYPES:
        raise fields.wrong("num_bits", "4 or 8 bits of type float or int")
    return _NUMBER_DTYPES[number]


def _kv_dtype(fields: Fields) -> str | None:
    for field in ("kv_cache_quant_algo", "kv_cache_scheme"):
        if not fields.has(field):
            continue
        scheme = fields.values[field]
        if scheme == "FP8":
            return "fp8"
        nested = fields.child(field) if isinstance(scheme, dict) else None
        if nested is None or _number_dtype(nested) not in ("fp8", "int8"):
            raise fields.wrong(field, "FP8, 8 bits of type float or int, or null")
        return _number_dtype(nested)
    return None


def _excluded(fields: Fields) -> tuple[str, ...]:
    names = ("modules_to_not_convert", "exclude_modules", "ignore", "ignored_layers")
    patterns = tuple(str(pattern) for name in names for pattern in fields.items(name, []))
    for pattern in patterns:
        _check_pattern(fields, pattern)
    return patterns


def _check_pattern(fields: Fields, pattern: str) -> None:
    try:
        _matches("", pattern)
    except re.error as error:
        raise InputError(f"{fields.where}: '{pattern}' is not a regular expression") from error


def _is_excluded(module: str, patterns: Iterable[str]) -> bool:
    """Return whether a pattern names the module or one that contains it."""
    return any(_matches(module, pattern) for pattern in patterns)


def _matches(module: str, pattern: str) -> bool:
    """Match as checkpoints write them: `re:` regular expression, `*` glob, or a dotted part.

    >>> _matches("model.layers.3.self_attn.q_proj", "model.layers.*.self_attn")
    True
    >>> _matches("model.layers.13.mlp.gate_proj", "mlp.gate")
    False
    """
    if pattern.startswith("re:"):
        return re.match(pattern.removeprefix("re:"), module) is not None
    if "*" in pattern:
        return fnmatchcase(module, pattern) or fnmatchcase(module, f"{pattern}.*")
    return f".{pattern}." in f".{module}."


def _unsupported(fields: Fields, field: str, found: str, known: Iterable[str]) -> InputError:
    return InputError(f"{fields.where}: {field}: {unknown_name('quantisation', found, known)}")
