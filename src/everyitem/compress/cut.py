"""Cuts a causal language model to a plan. The result is a plain checkpoint of the same architecture, only smaller.

Every weight has an axis for what it reads and one for what it writes; cutting is indexing along them, and a new model
of the new configuration takes what is left. So layer numbers, groups and caches are right by construction.

A root-mean-square norm divides by the mean over D dimensions. Where only D' are left, the same sum is divided by D',
so the norm's weight takes the factor sqrt(D / D'), and its epsilon D / D': then the cut model computes what the masked
one does. Norms of heads (Qwen3, Gemma 3) share the epsilon: their queries and keys grow by sqrt(D / D') beforehand.
"""

import math
from copy import deepcopy
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel

from everyitem.compress.mask import columns_of, layers_of, masked
from everyitem.compress.plan import Plan, Positions, Sizes, cut_sizes, head_width, sizes_of

AXES = {
    **{"embed_tokens.weight": "vd", "lm_head.weight": "vd", "norm.weight": "d"},
    **{"q_proj.weight": "qd", "q_proj.bias": "q", "o_proj.weight": "dq", "o_proj.bias": "d"},
    **{"k_proj.weight": "kd", "k_proj.bias": "k", "v_proj.weight": "kd", "v_proj.bias": "k"},
    **{"gate_proj.weight": "fd", "gate_proj.bias": "f", "up_proj.weight": "fd", "up_proj.bias": "f"},
    **{"down_proj.weight": "df", "down_proj.bias": "d"},
    **{"input_layernorm.weight": "d", "post_attention_layernorm.weight": "d"},
    **{"pre_feedforward_layernorm.weight": "d", "post_feedforward_layernorm.weight": "d"},
    **{"q_norm.weight": "w", "k_norm.weight": "w"},
}
"""Axes of every weight, by the end of its name: v tokens, d hidden dimensions, q query heads times their width, k
key-value heads times their width, f neurons, w the width of a head."""


def axes_of(name: str) -> str:
    """The axes of a weight; the name is that of the state dictionary."""
    return AXES[".".join(name.split(".")[-2:])]


def cut(model: PreTrainedModel, plan: Plan) -> PreTrainedModel:
    """A new model with what the plan keeps; its logits are those of `masked(model, plan)` at the tokens kept.

    Grouped key-value heads follow `plan.key_values`. Biases, tied embeddings, norms of heads, layer types and layer
    numbers are carried over; Gemma's embeddings take the factor that their fixed scale sqrt(D) loses.

    Args:
        model: of one of the `FAMILIES`; not changed.
        plan: made for it.

    Raises:
        ValueError: the plan does not fit the model, or leaves out one of its special tokens.

    Cost: a copy of what is kept.
    """
    config = cut_config(model.config, plan)
    factors = _factors(model.config, plan)
    smaller = _new_model(config, dtype=model.dtype)
    state = {}
    for name, weight in model.state_dict().items():
        layer = _layer(name)
        if layer is None or layer in plan.layers_L:
            kept = _cut_tensor(weight, axes_of(name), model.config, plan, layer)
            state[_renamed(name, layer, plan)] = _rescaled(kept, name, model.config, factors)
    smaller.load_state_dict(state)
    smaller.generation_config = deepcopy(model.generation_config)
    if smaller.generation_config is not None:
        _renumber_tokens(smaller.generation_config, plan.vocabulary_V)
    smaller.to(device=model.device)  # type: ignore[call-arg]
    smaller.train(model.training)
    return smaller


def cut_config(config: PreTrainedConfig, plan: Plan) -> PreTrainedConfig:
    """The configuration of the cut model; heads keep their width, which it states."""
    sizes = cut_sizes(config, plan)
    changed = config.to_dict()
    changed |= {
        "num_hidden_layers": sizes.layers,
        "num_attention_heads": sizes.heads,
        "num_key_value_heads": sizes.key_values,
        "head_dim": head_width(config),
        "hidden_size": sizes.hidden,
        "intermediate_size": sizes.neurons,
        "vocab_size": sizes.vocabulary,
        "rms_norm_eps": config.rms_norm_eps * config.hidden_size / sizes.hidden,
    }
    if changed.get("layer_types"):
        changed["layer_types"] = [changed["layer_types"][layer] for layer in plan.layers_L]
    smaller = type(config).from_dict(changed)
    _renumber_tokens(smaller, plan.vocabulary_V)
    return smaller


def largest_difference(model: PreTrainedModel, plan: Plan, smaller: PreTrainedModel, *, seed: int = 0) -> float:
    """How far logits of the cut model are from the masked one's on random tokens, relative to the largest logit."""
    generator = torch.Generator().manual_seed(seed)
    ids_UT = torch.randint(len(plan.vocabulary_V), (2, 24), generator=generator).to(model.device)
    tokens_V = torch.from_numpy(plan.vocabulary_V).to(model.device)
    training = model.training
    for one in (model, smaller):
        one.train(False)
    with torch.inference_mode(), masked(model, plan):
        expected = model(tokens_V[ids_UT]).logits[..., tokens_V]
        found = smaller(ids_UT).logits
    model.train(training)
    return float((found - expected).abs().max() / expected.abs().max().clamp(min=1.0))


def parameters(config: PreTrainedConfig, sizes: Sizes, *, embeddings: bool = False) -> int:
    """Parameters of a model of an architecture in other sizes, without building it.

    Args:
        config: of the architecture.
        sizes: how large.
        embeddings: count tokens' embeddings and an output table of their own as well.
    """
    return count_parameters(config, layer_axes(config), sizes, embeddings=embeddings)


def layer_axes(config: PreTrainedConfig) -> list[str]:
    """The axes of every weight of a layer."""
    with torch.device("meta"):
        layers = layers_of(_new_model(_one_layer(config)))
    return [axes_of(name) for name, _ in layers[0].named_parameters()]


def count_parameters(config: PreTrainedConfig, axes: list[str], sizes: Sizes, *, embeddings: bool = False) -> int:
    """`parameters`, for many sizes of one architecture: `axes` are its `layer_axes`."""
    width = head_width(config)
    query, key = sizes.heads * width, sizes.key_values * width
    lengths = {"q": query, "k": key, "d": sizes.hidden, "f": sizes.neurons, "w": width}
    inside = sizes.layers * sum(math.prod(lengths[axis] for axis in weight) for weight in axes) + sizes.hidden
    tables = sizes.vocabulary * sizes.hidden * (1 if config.tie_word_embeddings else 2)
    return inside + (tables if embeddings else 0)


def _new_model(config: PreTrainedConfig, **options: Any) -> PreTrainedModel:
    model: PreTrainedModel = AutoModelForCausalLM.from_config(config, **options)  # type: ignore[no-untyped-call]
    return model


def _one_layer(config: PreTrainedConfig) -> PreTrainedConfig:
    changed = config.to_dict() | {"num_hidden_layers": 1}
    if changed.get("layer_types"):
        changed["layer_types"] = changed["layer_types"][:1]
    return type(config).from_dict(changed)


def _layer(name: str) -> int | None:
    parts = name.split(".")
    return int(parts[parts.index("layers") + 1]) if "layers" in parts else None


def _renamed(name: str, layer: int | None, plan: Plan) -> str:
    if layer is None:
        return name
    return name.replace(f"layers.{layer}.", f"layers.{int(np.searchsorted(plan.layers_L, layer))}.", 1)


def _cut_tensor(weight: Tensor, axes: str, config: PreTrainedConfig, plan: Plan, layer: int | None) -> Tensor:
    for dimension, axis in enumerate(axes):
        kept = _kept(axis, config, plan, layer)
        if kept is not None:
            weight = weight.index_select(dimension, torch.from_numpy(kept).to(weight.device))
    return weight


def _kept(axis: str, config: PreTrainedConfig, plan: Plan, layer: int | None) -> Positions | None:
    """Positions that stay along an axis; None: all."""
    if axis in "vd":
        return plan.vocabulary_V if axis == "v" else plan.hidden_D
    if axis == "w":
        return None
    assert layer is not None
    if axis == "f":
        neurons_F: Positions = plan.neurons_LF[layer]
        return neurons_F
    heads_H, sizes = plan.heads_LH[layer], sizes_of(config)
    if axis == "k":
        heads_H = heads_H // (sizes.heads // sizes.key_values)
        heads_H = heads_H if plan.key_values == "expand" else np.unique(heads_H)
    return columns_of(heads_H, head_width(config))


def _factors(config: PreTrainedConfig, plan: Plan) -> dict[str, float]:
    """By which weights are multiplied: what fewer dimensions change and nothing else would."""
    ratio = math.sqrt(config.hidden_size / len(plan.hidden_D))
    heads = ratio if config.model_type in ("qwen3", "gemma3_text") else 1.0
    if config.model_type != "gemma3_text":
        return {"norm": ratio, "last": ratio, "embedding": 1.0, "heads": heads}
    # Gemma multiplies embeddings by sqrt(D); where the output table is the same, the last norm gives back what it gets
    return {
        "norm": ratio,
        "last": 1.0 if config.tie_word_embeddings else ratio,
        "embedding": ratio,
        "heads": heads,
    }


def _rescaled(weight: Tensor, name: str, config: PreTrainedConfig, factors: dict[str, float]) -> Tensor:
    if axes_of(name) == "d" and name.endswith("norm.weight"):
        factor = factors["last" if name == "model.norm.weight" else "norm"]
        offset = 1.0 if config.model_type == "gemma3_text" else 0.0  # Gemma stores weight - 1
        return (weight + offset) * factor - offset if factor != 1.0 else weight
    if ".q_proj." in name or ".k_proj." in name:
        return weight * factors["heads"]
    tied = config.tie_word_embeddings and name == "lm_head.weight"
    return weight * factors["embedding"] if name.endswith("embed_tokens.weight") or tied else weight


def _renumber_tokens(settings: Any, vocabulary_V: Positions) -> None:
    """Special tokens by their new numbers."""
    for name in ("pad_token_id", "bos_token_id", "eos_token_id"):
        token = getattr(settings, name, None)
        if token is not None:
            numbers = [_new_number(one, name, vocabulary_V) for one in (token if isinstance(token, list) else [token])]
            setattr(settings, name, numbers if isinstance(token, list) else numbers[0])


def _new_number(token: int, name: str, vocabulary_V: Positions) -> int:
    place = int(np.searchsorted(vocabulary_V, token))
    if place == len(vocabulary_V) or vocabulary_V[place] != token:
        raise ValueError(f"the plan drops token {token}, which is the model's {name}; keep it")
    return place
