"""A plan rehearsed on the uncut model: what goes adds nothing, everything else stays where it is.

This is the oracle of `cut.py` and the ruler of `importance.py`. A head goes by zeros where the output projection reads
it, a neuron by zeros where the down projection does, a hidden dimension by zeros wherever something is written into
it, a layer by not being called. Tokens are not masked: compare logits at the columns of the plan.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from everyitem.compress.plan import Plan, Positions, head_width, keep_everything


def layers_of(model: PreTrainedModel) -> list[Any]:
    """The decoder layers."""
    return list(model.model.layers)


@contextmanager
def masked(model: PreTrainedModel, plan: Plan) -> Iterator[None]:
    """Within it the model computes as if only what the plan keeps were there; weights are not touched."""
    width = head_width(model.config)
    whole = keep_everything(model.config)
    with ExitStack() as stack:
        for number, layer in enumerate(layers_of(model)):
            if number not in plan.layers_L:
                stack.enter_context(skipped(layer))
                continue
            kept_H, kept_F = plan.heads_LH[number], plan.neurons_LF[number]
            if len(kept_H) < whole.heads_LH.shape[1]:
                stack.enter_context(inputs_kept(layer.self_attn.o_proj, columns_of(kept_H, width)))
            if len(kept_F) < whole.neurons_LF.shape[1]:
                stack.enter_context(inputs_kept(layer.mlp.down_proj, kept_F))
        if len(plan.hidden_D) < len(whole.hidden_D):
            writers = [model.model.embed_tokens]
            writers += [part for layer in layers_of(model) for part in (layer.self_attn.o_proj, layer.mlp.down_proj)]
            for writer in writers:
                stack.enter_context(outputs_kept(writer, plan.hidden_D))
        yield


def columns_of(heads_H: Positions, width: int) -> Positions:
    """Columns that heads of a width take in a projection."""
    return (heads_H[:, None] * width + np.arange(width)).reshape(-1)


@contextmanager
def skipped(layer: nn.Module) -> Iterator[None]:
    """The layer hands its input on."""
    layer.forward = _hand_on
    try:
        yield
    finally:
        del layer.forward


def _hand_on(hidden_states: Tensor, **_: Any) -> Tensor:
    return hidden_states


@contextmanager
def inputs_kept(projection: nn.Linear, kept: Positions) -> Iterator[None]:
    """The projection reads zeros except in the columns kept."""
    keep = _indicator(projection.in_features, kept, projection.weight)
    hook = projection.register_forward_pre_hook(lambda _, given: (given[0] * keep, *given[1:]))
    try:
        yield
    finally:
        hook.remove()


@contextmanager
def outputs_kept(writer: nn.Module, kept: Positions) -> Iterator[None]:
    """What the module writes is zero except in the dimensions kept."""
    weight = writer.weight
    assert isinstance(weight, Tensor)
    width = weight.shape[1] if isinstance(writer, nn.Embedding) else weight.shape[0]
    keep = _indicator(width, kept, weight)
    hook: Callable[..., Tensor] = lambda _, __, output: output * keep  # noqa: E731
    handle = writer.register_forward_hook(hook)
    try:
        yield
    finally:
        handle.remove()


def _indicator(size: int, kept: Positions, like: Tensor) -> Tensor:
    keep = torch.zeros(size, dtype=like.dtype, device=like.device)
    keep[torch.from_numpy(kept).to(like.device)] = 1
    return keep
