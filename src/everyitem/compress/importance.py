"""What a causal language model needs least: heads, hidden dimensions, neurons, layers (PruneRec, arXiv:2507.07064).

A scorer is a function from model and calibration batches to scores; what scores most stays. Nothing here changes the
model. `paper=True` computes what the published code does, where ours mends it; each docstring says what that is.
`rivals.py` has the methods that the paper compares with.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from everyitem.compress.activity import Activity, recorded
from everyitem.compress.calibration import Batch, every_token, mean_loss, target_logits, target_loss
from everyitem.compress.mask import columns_of, layers_of, masked
from everyitem.compress.plan import (
    KeyValues,
    Plan,
    Positions,
    Scores,
    choose_heads,
    head_width,
    keep_everything,
    sizes_of,
)

Progress = Callable[[int, int], None]
"""Called with (steps done, steps)."""

PUBLISHED_QUERY_SCALE = 1e-4
PUBLISHED_WINDOW = 128
PUBLISHED_LENGTH = 100


def head_scores(
    model: PreTrainedModel,
    batches: Sequence[Batch],
    *,
    keep: int,
    key_values: KeyValues = "balanced",
    alpha: float = 0.7,
    paper: bool = False,
    progress: Progress | None = None,
) -> Scores:
    """Heads by what their absence does to the output, layer after layer, the heads already given up absent as well.

    D(l, h) = KL(p_full || p_masked), averaged over the tokens asked for; r = 1 - D, scaled to 0..1 within the layer, is
    the redundancy; s(0) = r(0), s(l) = alpha s(l-1) + (1 - alpha) r(l), head number by head number. The heads with the
    largest s go before the next layer is measured. Returned is 1 - s.

    Args:
        model: before the cut.
        batches: calibration rows.
        keep: heads per layer that will stay.
        key_values: which choices are allowed, see `Plan`.
        alpha: weight of the layers before; 0 judges every layer by itself.
        paper: the last position of every padded row, whatever stands there, in place of the tokens asked for, and a
            head "masked" by scaling its queries by 1e-4, which leaves it a uniform attention.
        progress: called after every head.

    Returns:
        (L, H) scores.

    Cost: L H + 1 forward passes over the batches.
    """
    sizes = sizes_of(model.config)
    probe = _last_position if paper else target_logits
    absent = _queries_scaled if paper else masked
    plan = keep_everything(model.config)
    with torch.inference_mode():
        full = [torch.log_softmax(probe(model, batch), -1) for batch in batches]

        def lost(kept: list[Positions]) -> float:
            with absent(model, _ragged(plan, kept)):
                return _mean_divergence(model, batches, full, probe, paper)

        def choose(scores_H: Scores) -> Positions:
            return choose_heads(scores_H, keep, sizes.key_values, key_values)

        return recursive_scores((sizes.layers, sizes.heads), lost, choose, alpha=alpha, progress=progress)


def recursive_scores(
    shape: tuple[int, int],
    lost: Callable[[list[Positions]], float],
    choose: Callable[[Scores], Positions],
    *,
    alpha: float,
    progress: Progress | None = None,
) -> Scores:
    """The recursion of `head_scores` for any model.

    Args:
        shape: layers and heads.
        lost: how far the output moves if only these heads of every layer are there.
        choose: the heads of a layer that stay, by their scores.
        alpha: weight of the layers before.
        progress: called after every head.

    Returns:
        (L, H) scores.
    """
    layers, heads = shape
    kept = [np.arange(heads) for _ in range(layers)]
    scores_LH, redundancy_H = np.zeros(shape), None
    for layer in range(layers):
        lost_H = np.zeros(heads)
        for head in range(heads):
            kept[layer] = np.delete(np.arange(heads), head)
            lost_H[head] = lost(kept)
            if progress:
                progress(layer * heads + head + 1, layers * heads)
        now_H = _to_unit(1 - lost_H)
        redundancy_H = now_H if redundancy_H is None else alpha * redundancy_H + (1 - alpha) * now_H
        scores_LH[layer] = 1 - redundancy_H
        kept[layer] = choose(scores_LH[layer])
    return scores_LH


def _ragged(plan: Plan, kept: list[Positions]) -> Plan:
    """A plan with different numbers of heads per layer: it can be rehearsed, not cut."""
    rows = np.empty(len(kept), object)
    for layer, heads_H in enumerate(kept):
        rows[layer] = heads_H
    return replace(plan, heads_LH=rows)


def _to_unit(values_H: Scores) -> Scores:
    spread = values_H.max() - values_H.min()
    return (values_H - values_H.min()) / spread if spread > 0 else np.zeros_like(values_H)


def _last_position(model: PreTrainedModel, batch: Batch) -> Tensor:
    logits: Tensor = model(batch.ids_UT, attention_mask=batch.real_UT.long(), use_cache=False).logits
    return logits[:, -1].float()


def _mean_divergence(
    model: PreTrainedModel, batches: Sequence[Batch], full: list[Tensor], probe: Callable[..., Tensor], paper: bool
) -> float:
    total, count = 0.0, 0
    for batch, full_NV in zip(batches, full, strict=True):
        found_NV = torch.log_softmax(probe(model, batch), -1)
        if paper:  # the published epsilon keeps the logarithm of a probability that underflows
            full_NV, found_NV = ((x.exp() + 1e-12).log() for x in (full_NV, found_NV))
        total += float((full_NV.exp() * (full_NV - found_NV)).sum(dtype=torch.float64))
        count += len(full_NV)
    return total / count


@contextmanager
def _queries_scaled(model: PreTrainedModel, plan: Plan) -> Iterator[None]:
    """The published mask: queries of the heads that go are nearly zero, so they attend to everything alike."""
    width, heads = head_width(model.config), sizes_of(model.config).heads
    with ExitStack() as stack:
        for layer, kept_H in zip(layers_of(model), plan.heads_LH, strict=True):
            scale = torch.full((heads * width,), PUBLISHED_QUERY_SCALE)
            scale[torch.from_numpy(columns_of(kept_H, width))] = 1
            hook = layer.self_attn.q_proj.register_forward_hook(_times(scale.to(model.device)))
            stack.callback(hook.remove)
        yield


def _times(scale: Tensor) -> Callable[..., Tensor]:
    return lambda _, __, output: output * scale


def hidden_scores(model: PreTrainedModel, batches: Sequence[Batch], *, paper: bool = False) -> Scores:
    """Hidden dimensions by gradient times activation: one set for the residual stream of the whole model.

    score_d = sum over layers of sqrt( sum over positions of (h_d dL/dh_d)^2 ), where L is the negative log likelihood
    of the tokens asked for and h the residual stream that a layer, or the last norm, reads: to first order, what L
    would change by if the dimension were zero there.

    Args:
        model: before the cut.
        batches: calibration rows.
        paper: the first 128 tokens of the first row alone, h after the last norm, and the likeliest token's logit at
            the last position for L; its gradient there is that token's output vector, and zero elsewhere.

    Returns:
        (D,) scores.

    Cost: a forward and a backward pass over the batches.
    """
    if paper:
        return _published_hidden_scores(model, batches[0])
    readers: list[nn.Module] = [*layers_of(model), model.model.norm]
    total_D = torch.zeros(len(readers), model.config.hidden_size, dtype=torch.float64)
    for batch in batches:
        with _inputs_of(readers) as streams:
            loss = target_loss(model, batch).sum()
        gradients = torch.autograd.grad(loss, streams)
        for row, (stream, gradient) in enumerate(zip(streams, gradients, strict=True)):
            total_D[row] += (stream.detach() * gradient).double().square().sum((0, 1)).cpu()
    return total_D.sqrt().sum(0).numpy()


@contextmanager
def _inputs_of(modules: list[nn.Module]) -> Iterator[list[Tensor]]:
    """What the modules read, in the order they are called."""
    seen: list[Tensor] = []
    hooks = [module.register_forward_pre_hook(lambda _, given: seen.append(given[0])) for module in modules]
    try:
        yield seen
    finally:
        for hook in hooks:
            hook.remove()


def _published_hidden_scores(model: PreTrainedModel, batch: Batch) -> Scores:
    tokens = batch.ids_UT[:1, : min(PUBLISHED_WINDOW, int(batch.real_UT[0].sum()))]
    hidden_1TD = model.model(input_ids=tokens, use_cache=False).last_hidden_state
    logit = model.lm_head(hidden_1TD)[0, -1].max()
    (gradient,) = torch.autograd.grad(logit, hidden_1TD)
    scores: Scores = (hidden_1TD.detach() * gradient)[0].norm(dim=0).double().cpu().numpy()
    return scores


def neuron_scores(
    model: PreTrainedModel,
    batches: Sequence[Batch],
    *,
    keep: int,
    of: Activity = "product",
    paper: bool = False,
) -> Scores:
    """Neurons by how often they are among the `keep` most active of a token.

    Activity is |act(gate) up|, what the down projection reads, or |up|. The mean activity, squeezed below 1, decides
    between neurons that were counted equally often.

    Args:
        model: before the cut.
        batches: calibration rows.
        keep: neurons per layer that will stay.
        of: "product" or "up".
        paper: raw values of up, not their size, of the first 100 tokens of the first row, padding included; ties by
            position.

    Returns:
        (L, F) scores: tokens in which the neuron was among the `keep`, plus less than 1.

    Cost: a forward pass over the batches.
    """
    sizes = sizes_of(model.config)
    counts_LF, sums_LF = (torch.zeros(sizes.layers, sizes.neurons, dtype=torch.float64) for _ in range(2))
    if paper:
        batches, of = [_first_row(batches[0])], "up"
    with torch.inference_mode():
        for batch in batches:
            with recorded(model, of) as seen:
                model.model(input_ids=batch.ids_UT, use_cache=False)
            for layer, value_UTF in enumerate(seen):
                value_NF = value_UTF.flatten(0, 1) if paper else value_UTF[batch.real_UT].abs()
                counts_LF[layer] += most_active(value_NF, keep)
                sums_LF[layer] += value_NF.sum(0, dtype=torch.float64).cpu()
    return counts_LF.numpy() if paper else broken_ties(counts_LF, sums_LF)


def most_active(value_NF: Tensor, keep: int) -> Tensor:
    """(F,) in how many rows each is among the `keep` largest."""
    num_neurons = value_NF.shape[1]
    chosen = value_NF.topk(min(keep, num_neurons), dim=1).indices
    return torch.bincount(chosen.flatten().cpu(), minlength=num_neurons).double()


def broken_ties(counts_LF: Tensor, sums_LF: Tensor) -> Scores:
    """Counts, and the sums squeezed below 1 to decide between equal ones."""
    squeezed = sums_LF / (sums_LF.amax(1, keepdim=True) * (1 + 1e-6)).clamp(min=1e-300)
    scores: Scores = (counts_LF + squeezed).numpy()
    return scores


def _first_row(batch: Batch) -> Batch:
    return Batch(*(part[:1, :PUBLISHED_LENGTH] for part in batch))


def layer_scores(
    model: PreTrainedModel,
    batches: Sequence[Batch],
    *,
    drop: int,
    paper: bool = False,
    progress: Progress | None = None,
) -> Scores:
    """Layers by greedy search: the one without which the loss is least goes, then the next one without both, and so on.

    The loss is of the tokens asked for, the recommendation.

    Args:
        model: before the cut.
        batches: calibration rows.
        drop: layers that will go, less than all.
        paper: the loss of every token, averaged within a row and then over rows.
        progress: called after every layer tried.

    Returns:
        (L,) scores: 0 for the layer that goes first, 1 for the second, `drop` for those that stay.

    Cost: drop (L - (drop - 1) / 2) forward passes over the batches, each shorter by the layers gone.
    """
    plan = keep_everything(model.config)
    measure: Any = _mean_of_rows if paper else mean_loss

    def loss(kept_L: Positions) -> float:
        with masked(model, replace(plan, layers_L=kept_L)):
            return float(measure(model, batches))

    return greedy_scores(len(plan.layers_L), loss, drop=drop, progress=progress)


def greedy_scores(
    layers: int, loss: Callable[[Positions], float], *, drop: int, progress: Progress | None = None
) -> Scores:
    """The search of `layer_scores` for any model; `loss` is of the layers that are there."""
    left, scores_L, done = list(range(layers)), np.full(layers, float(drop)), 0
    if not 0 <= drop < layers:
        raise ValueError(f"got {drop} layers to drop; allowed: 0 to {layers - 1}, one has to stay")
    total = drop * layers - drop * (drop - 1) // 2
    for rank in range(drop):
        losses = []
        for layer in left:
            losses.append(loss(np.setdiff1d(left, [layer])))
            done += 1
            if progress:
                progress(done, total)
        scores_L[left.pop(int(np.argmin(losses)))] = rank
    return scores_L


def _mean_of_rows(model: PreTrainedModel, batches: Sequence[Batch]) -> float:
    rows = []
    with torch.inference_mode():
        for batch in map(every_token, batches):
            asked = batch.asked
            row_N = asked.nonzero()[:, 0]
            total_U = torch.zeros(len(asked), device=asked.device).index_add(0, row_N, target_loss(model, batch))
            rows.append(total_U / asked.sum(1))
    return float(torch.cat(rows).mean())
