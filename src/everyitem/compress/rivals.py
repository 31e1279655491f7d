"""What PruneRec is compared with: random, magnitude, Wanda and Taylor for every part, ShortGPT for layers.

All but ShortGPT give every single weight a value and add the values up over what would go together: a head's rows of
the query projection and columns of the output projection; a neuron's rows of gate and up and column of down; whatever
reads or writes a hidden dimension; everything in a layer. Key-value heads belong to groups and are left out of heads.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel

from everyitem.compress.calibration import Batch, target_loss
from everyitem.compress.cut import axes_of
from everyitem.compress.mask import layers_of
from everyitem.compress.plan import Scores, head_width, sizes_of


class PartScores(NamedTuple):
    """Importances of every part; what scores most stays."""

    heads_LH: Scores
    hidden_D: Scores
    neurons_LF: Scores
    layers_L: Scores


def random(model: PreTrainedModel, batches: Sequence[Batch] = (), *, seed: int = 0) -> PartScores:
    """Uniform draws."""
    sizes, rng = sizes_of(model.config), np.random.default_rng(seed)
    return PartScores(
        rng.random((sizes.layers, sizes.heads)),
        rng.random(sizes.hidden),
        rng.random((sizes.layers, sizes.neurons)),
        rng.random(sizes.layers),
    )


def magnitude(model: PreTrainedModel, batches: Sequence[Batch] = ()) -> PartScores:
    """Sums of |w|."""
    return _added_up(model, {name: weight.detach().abs() for name, weight in model.named_parameters()})


def wanda(model: PreTrainedModel, batches: Sequence[Batch]) -> PartScores:
    """Sums of |w| times the norm of the input that it multiplies (Wanda, arXiv:2306.11695, here over whole parts).

    Only weights of projections count; the norm is over the real positions of all batches.

    Cost: a forward pass over the batches.
    """
    names: dict[torch.nn.Module, str] = {
        module: name for name, module in model.named_modules() if isinstance(module, torch.nn.Linear)
    }
    squares: dict[str, Tensor] = {}
    real: list[Tensor] = []

    def add(module: torch.nn.Module, given: tuple[Tensor, ...]) -> None:
        square = given[0][real[-1]].double().square().sum(0)
        squares[names[module]] = squares.get(names[module], torch.zeros_like(square)) + square

    hooks = [module.register_forward_pre_hook(add) for module in names]
    with torch.inference_mode():
        for batch in batches:
            real.append(batch.real_UT)
            model(batch.ids_UT, use_cache=False)
    for hook in hooks:
        hook.remove()
    weights = model.state_dict()
    return _added_up(
        model, {f"{name}.weight": weights[f"{name}.weight"].abs() * total.sqrt() for name, total in squares.items()}
    )


def taylor(model: PreTrainedModel, batches: Sequence[Batch]) -> PartScores:
    """Sums of |w dL/dw|, L the negative log likelihood of the tokens asked for (LLM-Pruner, arXiv:2305.11627).

    Cost: a forward and a backward pass over the batches, and a gradient beside every weight.
    """
    weights = dict(model.named_parameters())
    gradients = [torch.zeros_like(weight) for weight in weights.values()]
    for batch in batches:
        found = torch.autograd.grad(target_loss(model, batch).sum(), list(weights.values()))
        gradients = [total + one for total, one in zip(gradients, found, strict=True)]
    pairs = zip(weights.items(), gradients, strict=True)
    return _added_up(model, {name: (weight.detach() * gradient).abs() for (name, weight), gradient in pairs})


def _added_up(model: PreTrainedModel, values: dict[str, Tensor]) -> PartScores:
    """Values of single weights as scores of parts."""
    sizes, width = sizes_of(model.config), head_width(model.config)
    heads_LH, neurons_LF = np.zeros((sizes.layers, sizes.heads)), np.zeros((sizes.layers, sizes.neurons))
    hidden_D, layers_L = np.zeros(sizes.hidden), np.zeros(sizes.layers)
    for name, value in values.items():
        axes, parts = axes_of(name), name.split(".")
        value = value.double().cpu()
        along = {axis: _along(value, dimension) for dimension, axis in enumerate(axes)}
        if "d" in along:
            hidden_D += along["d"]
        if "layers" not in parts:
            continue
        layer = int(parts[parts.index("layers") + 1])
        layers_L[layer] += float(value.sum())
        if "q" in along:
            heads_LH[layer] += along["q"].reshape(sizes.heads, width).sum(1)
        if "f" in along:
            neurons_LF[layer] += along["f"]
    return PartScores(heads_LH, hidden_D, neurons_LF, layers_L)


def _along(value: Tensor, dimension: int) -> Scores:
    others = [other for other in range(value.dim()) if other != dimension]
    kept: Scores = (value.sum(others) if others else value).numpy()
    return kept


def block_influence(model: PreTrainedModel, batches: Sequence[Batch]) -> Scores:
    """(L,) 1 - cos(what a layer reads, what it hands on), averaged over real positions (ShortGPT, arXiv:2403.03853).

    Cost: a forward pass over the batches.
    """
    total_L, count = np.zeros(len(layers_of(model))), 0
    pairs: list[tuple[Tensor, Tensor]] = []
    hooks = [
        layer.register_forward_hook(lambda _, given, output: pairs.append((given[0], output)))
        for layer in layers_of(model)
    ]
    with torch.inference_mode():
        for batch in batches:
            pairs.clear()
            model.model(input_ids=batch.ids_UT, use_cache=False)
            for layer, (before, after) in enumerate(pairs):
                cosine = torch.cosine_similarity(before.double(), after.double(), dim=-1)[batch.real_UT]
                total_L[layer] += float((1 - cosine).sum())
            count += int(batch.real_UT.sum())
    for hook in hooks:
        hook.remove()
    return total_L / count
