"""What the parts of a language model put out while it reads, and how unevenly: a few parts do most of the work."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Literal

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel

from everyitem.compress.calibration import Batch
from everyitem.compress.mask import layers_of
from everyitem.compress.plan import Scores

Activity = Literal["product", "up", "attention"]
"""Neurons by act(gate) up, which the down projection reads, or by up alone; what the heads hand on together."""


@contextmanager
def recorded(model: PreTrainedModel, of: Activity) -> Iterator[list[Tensor]]:
    """Within it, what every layer puts out (U, T, width) is added to the list, layer by layer."""
    seen: list[Tensor] = []
    layers = layers_of(model)
    if of == "up":
        hooks = [layer.mlp.up_proj.register_forward_hook(lambda _, __, output: seen.append(output)) for layer in layers]
    else:
        readers = [layer.mlp.down_proj if of == "product" else layer.self_attn.o_proj for layer in layers]
        hooks = [reader.register_forward_pre_hook(lambda _, given: seen.append(given[0])) for reader in readers]
    try:
        yield seen
    finally:
        for hook in hooks:
            hook.remove()


def top_shares(model: PreTrainedModel, batches: Sequence[Batch], of: Activity) -> Scores:
    """The share of all activity that belongs to the most active 1, 2, .. of every layer's dimensions.

    Activity of a dimension is the mean of its absolute value over real positions. The paper's observation is that
    fine-tuning for recommendation makes this curve steep: a long tail of dimensions that hardly ever speak.

    Returns:
        (L, N) rising to 1; a straight line where all dimensions are equally active.

    Cost: a forward pass over the batches.
    """
    sums: list[Tensor] = []
    with torch.inference_mode():
        for batch in batches:
            with recorded(model, of) as seen:
                model.model(input_ids=batch.ids_UT, use_cache=False)
            found = [value[batch.real_UT].abs().sum(0, dtype=torch.float64) for value in seen]
            sums = found if not sums else [total + one for total, one in zip(sums, found, strict=True)]
    ordered_LN = torch.stack(sums).sort(dim=1, descending=True).values.cumsum(1)
    shares: Scores = (ordered_LN / ordered_LN[:, -1:]).cpu().numpy()
    return np.minimum(shares, 1.0)
