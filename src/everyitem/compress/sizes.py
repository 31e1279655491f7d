"""Chooses sizes for a budget of parameters from what each kind of cut was measured to cost."""

from collections.abc import Callable, Sequence
from itertools import product
from typing import NamedTuple

import numpy as np
from transformers import PreTrainedConfig, PreTrainedModel

from everyitem.compress.calibration import Batch, mean_loss
from everyitem.compress.cut import count_parameters, layer_axes
from everyitem.compress.importance import head_scores, hidden_scores, layer_scores, neuron_scores
from everyitem.compress.mask import masked
from everyitem.compress.plan import (
    KeyValues,
    Plan,
    Sizes,
    cut_sizes,
    keep_everything,
    sizes_of,
    with_heads,
    with_hidden,
    with_layers,
    with_neurons,
)

SHARES = (1, 3 / 4, 1 / 2, 3 / 8, 1 / 4, 3 / 16, 1 / 8)
"""Of a part's size, the sizes that are measured; rounded up to what heads, groups and hidden dimensions allow."""


class Keep(NamedTuple):
    """How much stays of every part."""

    heads: int
    hidden: int
    neurons: int
    drop_layers: int


class Curves(NamedTuple):
    """Increase of the loss, in nats per token asked for, by what is kept of one part while the others are whole."""

    heads: dict[int, float]
    hidden: dict[int, float]
    neurons: dict[int, float]
    layers: dict[int, float]


def measure_curves(
    model: PreTrainedModel,
    batches: Sequence[Batch],
    *,
    key_values: KeyValues = "balanced",
    progress: Callable[[int, int], None] | None = None,
) -> Curves:
    """What keeping less of one part costs, without restoration, by the scores of `importance.py`.

    Cost: some 30 passes over the batches, and those of the scorers: L H for heads, L (L - 1) / 2 for layers.
    """
    sizes, plan = sizes_of(model.config), keep_everything(model.config)
    unit = {"balanced": sizes.key_values, "groups": sizes.heads // sizes.key_values, "expand": 1}[key_values]
    few = max(unit, round(sizes.heads / 2 / unit) * unit)
    heads_LH = head_scores(model, batches, keep=few, key_values=key_values)
    hidden_D = hidden_scores(model, batches)
    layers_L = layer_scores(model, batches, drop=sizes.layers - 1)

    def neurons(keep: int) -> Plan:
        return with_neurons(plan, neuron_scores(model, batches, keep=keep), keep)

    parts: list[tuple[list[int], Callable[[int], Plan]]] = [
        (_steps(sizes.heads, unit), lambda keep: with_heads(plan, heads_LH, keep, sizes.key_values, key_values)),
        (_steps(sizes.hidden, hidden_unit(sizes)), lambda keep: with_hidden(plan, hidden_D, keep)),
        (_steps(sizes.neurons, 1), neurons),
        (list(range(1, sizes.layers + 1)), lambda keep: with_layers(plan, layers_L, sizes.layers - keep)),
    ]
    whole, done, total = mean_loss(model, batches), 0, sum(len(steps) for steps, _ in parts)
    curves: list[dict[int, float]] = []
    for steps, plan_of in parts:
        curve = {}
        for keep in steps:
            with masked(model, plan_of(keep)):
                curve[keep] = mean_loss(model, batches) - whole
            done += 1
            if progress:
                progress(done, total)
        curves.append(curve)
    return Curves(*curves)


def hidden_unit(sizes: Sizes) -> int:
    """Hidden dimensions come in multiples of the heads: some loaders insist on it."""
    return sizes.heads


def _steps(size: int, unit: int) -> list[int]:
    return sorted({min(size, -(-round(share * size) // unit) * unit) or unit for share in SHARES})


def sizes_within(config: PreTrainedConfig, curves: Curves, share: float, *, key_values: KeyValues = "balanced") -> Keep:
    """The sizes that promise the least loss with at most `share` of the parameters outside the embeddings.

    The increases of the parts are added, as if they did not interact; of equal ones the smaller model wins.

    Raises:
        ValueError: no combination is that small.

    Cost: one multiplication for every combination of measured sizes.
    """
    before, axes = sizes_of(config), layer_axes(config)
    allowed = share * count_parameters(config, axes, before)
    fitting = []
    for heads, hidden, neurons, layers in product(*curves):
        kept = before._replace(heads=heads, hidden=hidden, neurons=neurons, layers=layers)
        kept = kept._replace(key_values=key_values_of(before, heads, key_values))
        count = count_parameters(config, axes, kept)
        if count <= allowed and hidden % heads == 0:
            loss = curves.heads[heads] + curves.hidden[hidden] + curves.neurons[neurons] + curves.layers[layers]
            fitting.append((loss, count, Keep(heads, hidden, neurons, before.layers - layers)))
    if not fitting:
        raise ValueError(f"no combination of the measured sizes has {share:.1%} of the parameters; allow more")
    return min(fitting)[2]


def key_values_of(before: Sizes, heads: int, key_values: KeyValues) -> int:
    """Key-value heads after a cut to so many heads."""
    return {
        "balanced": before.key_values,
        "groups": max(1, heads * before.key_values // before.heads),
        "expand": heads,
    }[key_values]


def kept_sizes(config: PreTrainedConfig, keep: Keep, key_values: KeyValues) -> Sizes:
    """The sizes that a cut to `keep` will have, or the error that it would end in."""
    plan = keep_everything(config)
    sizes = sizes_of(config)
    nothing = [np.zeros(part.shape) for part in (plan.heads_LH, plan.hidden_D, plan.neurons_LF, plan.layers_L)]
    plan = with_heads(plan, nothing[0], keep.heads, sizes.key_values, key_values)
    for name, kept, limit in (
        ("hidden", keep.hidden, sizes.hidden),
        ("neurons", keep.neurons, sizes.neurons),
        ("layers", sizes.layers - keep.drop_layers, sizes.layers),
    ):
        if not 0 < kept <= limit:
            raise ValueError(f"got {kept} {name} to keep; allowed: 1 to {limit}, what the model has")
    plan = with_hidden(plan, nothing[1], keep.hidden)
    plan = with_neurons(plan, nothing[2], keep.neurons)
    return cut_sizes(config, with_layers(plan, nothing[3], keep.drop_layers))
