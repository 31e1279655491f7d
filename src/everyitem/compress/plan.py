"""What stays of a causal language model: a plan, apart from its rehearsal (`mask.py`) and its application (`cut.py`).

A plan names positions, so that it can be looked at, kept as JSON, and compared. Every layer keeps the same number of
heads and neurons, because a plain checkpoint states each of them once.
"""

from dataclasses import asdict, dataclass, replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from transformers import PreTrainedConfig

from everyitem.compress import KeyValuesName

Positions = NDArray[np.int64]
Scores = NDArray[np.float64]
"""Importances: what scores most stays."""
KeyValues = KeyValuesName
FAMILIES = ("qwen2", "qwen3", "llama", "mistral", "gemma3_text")
"""Architectures whose cut models were checked against their masked ones (tests/compress/test_cut.py)."""


class Sizes(NamedTuple):
    """How large a causal language model is, in the numbers that pruning changes."""

    layers: int
    heads: int
    key_values: int
    hidden: int
    neurons: int
    vocabulary: int


@dataclass(frozen=True, slots=True, eq=False)
class Plan:
    """What stays, as ascending positions in the model before the cut.

    Args:
        layers_L: layers.
        heads_LH: query heads of every layer there was, the same number in each.
        hidden_D: dimensions of the residual stream, one set for the whole model.
        neurons_LF: neurons of every layer's feed-forward part, the same number in each.
        vocabulary_V: tokens.
        key_values: what happens to grouped key-value heads. "balanced": every group keeps the same number of query
            heads, and its key-value head. "groups": whole groups stay or go. "expand": every query head that stays
            gets a key-value head of its own, a copy of its group's: any choice of heads, a larger cache.
    """

    layers_L: Positions
    heads_LH: Positions
    hidden_D: Positions
    neurons_LF: Positions
    vocabulary_V: Positions
    key_values: KeyValues = "balanced"

    def to_json(self) -> dict[str, Any]:
        """Lists of positions."""
        return {name: part.tolist() if isinstance(part, np.ndarray) else part for name, part in asdict(self).items()}

    @classmethod
    def from_json(cls, document: dict[str, Any]) -> "Plan":
        """The plan that `to_json` wrote."""
        parts = {name: np.array(part) for name, part in document.items() if name != "key_values"}
        return cls(**parts, key_values=document["key_values"])


def sizes_of(config: PreTrainedConfig) -> Sizes:
    """The sizes of a model.

    Raises:
        ValueError: an architecture whose parts are not known here.
    """
    if config.model_type not in FAMILIES:
        raise ValueError(f"got a model of type {config.model_type}; what can be pruned: {', '.join(FAMILIES)}")
    heads = config.num_attention_heads
    return Sizes(
        config.num_hidden_layers,
        heads,
        config.num_key_value_heads or heads,
        config.hidden_size,
        config.intermediate_size,
        config.vocab_size,
    )


def head_width(config: PreTrainedConfig) -> int:
    """Dimensions of one attention head."""
    return int(getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads)


def keep_everything(config: PreTrainedConfig) -> Plan:
    """The plan that changes nothing."""
    sizes = sizes_of(config)
    return Plan(
        np.arange(sizes.layers),
        np.tile(np.arange(sizes.heads), (sizes.layers, 1)),
        np.arange(sizes.hidden),
        np.tile(np.arange(sizes.neurons), (sizes.layers, 1)),
        np.arange(sizes.vocabulary),
    )


def cut_sizes(config: PreTrainedConfig, plan: Plan) -> Sizes:
    """The sizes after the cut.

    Raises:
        ValueError: the plan does not fit the model, or its heads do not fit its `key_values`.
    """
    before = sizes_of(config)
    _check(plan, before)
    kept = plan.heads_LH.shape[1]
    groups_LG = [np.unique(heads_H // (before.heads // before.key_values)) for heads_H in plan.heads_LH]
    key_values = kept if plan.key_values == "expand" else len(groups_LG[0])
    after = Sizes(
        len(plan.layers_L), kept, key_values, len(plan.hidden_D), plan.neurons_LF.shape[1], len(plan.vocabulary_V)
    )
    if plan.key_values != "expand":
        _check_groups(plan, before)
    if config.model_type in ("llama", "gemma3_text") and after.hidden % after.heads:  # their loaders insist
        raise ValueError(
            f"{config.model_type} wants hidden dimensions that are a multiple of the heads; got {after.hidden} and "
            f"{after.heads}: keep {after.hidden // after.heads * after.heads} dimensions or other heads"
        )
    return after


def _check(plan: Plan, before: Sizes) -> None:
    for name, part, limit in (
        ("layers", plan.layers_L, before.layers),
        ("heads", plan.heads_LH, before.heads),
        ("hidden", plan.hidden_D, before.hidden),
        ("neurons", plan.neurons_LF, before.neurons),
        ("vocabulary", plan.vocabulary_V, before.vocabulary),
    ):
        rising = part.size > 0 and (np.diff(part, axis=-1) > 0).all() and part.min() >= 0 and part.max() < limit
        if not rising or (part.ndim == 2 and len(part) != before.layers):
            raise ValueError(f"the plan's {name} must be ascending positions of {limit}, at least one; got {part}")


def _check_groups(plan: Plan, before: Sizes) -> None:
    """Every group that stays must keep the same number of query heads, in every layer the same number of groups."""
    width = before.heads // before.key_values
    counts_LG = np.stack([np.bincount(heads_H // width, minlength=before.key_values) for heads_H in plan.heads_LH])
    share = plan.heads_LH.shape[1] // max(1, int((counts_LG[0] > 0).sum()))
    same = np.isin(counts_LG, (0, share)).all() and len(np.unique((counts_LG > 0).sum(1))) == 1
    if not same:
        raise ValueError(
            f'with key_values="{plan.key_values}" every group of {width} heads that stays keeps the same number; got '
            f'{counts_LG.tolist()}; choose such heads or key_values="expand"'
        )


def choose_heads(scores_H: Scores, keep: int, groups: int, key_values: KeyValues) -> Positions:
    """The heads of one layer that stay: those that score most, as far as the groups allow; ties by position.

    Args:
        scores_H: importances.
        keep: heads that stay.
        groups: key-value heads.
        key_values: as in `Plan`.

    Raises:
        ValueError: so many heads cannot stay.
    """
    heads = len(scores_H)
    width = heads // groups
    unit = {"balanced": groups, "groups": width, "expand": 1}[key_values]
    if not 0 < keep <= heads or keep % unit:
        raise ValueError(
            f'got {keep} heads to keep of {heads} with {groups} key-value heads and key_values="{key_values}"; '
            f"allowed: multiples of {unit} up to {heads}"
        )
    if key_values == "expand":
        return best(scores_H, keep)
    scores_GW = scores_H.reshape(groups, width)
    if key_values == "groups":
        rows_G = best(scores_GW.sum(1), keep // width)
        return (rows_G[:, None] * width + np.arange(width)).reshape(-1)
    rows = [best(scores_W, keep // groups) + group * width for group, scores_W in enumerate(scores_GW)]
    return np.concatenate(rows)


def best(scores_N: Scores, keep: int) -> Positions:
    """Ascending positions of the `keep` largest scores, ties by position."""
    return np.sort(np.argsort(-scores_N, kind="stable")[:keep])


def with_heads(plan: Plan, scores_LH: Scores, keep: int, groups: int, key_values: KeyValues) -> Plan:
    """The plan with the best heads of every layer."""
    heads_LH = np.stack([choose_heads(scores_H, keep, groups, key_values) for scores_H in scores_LH])
    return replace(plan, heads_LH=heads_LH, key_values=key_values)


def with_hidden(plan: Plan, scores_D: Scores, keep: int) -> Plan:
    """The plan with the best hidden dimensions."""
    return replace(plan, hidden_D=best(scores_D, keep))


def with_neurons(plan: Plan, scores_LF: Scores, keep: int) -> Plan:
    """The plan with the best neurons of every layer."""
    return replace(plan, neurons_LF=np.stack([best(scores_F, keep) for scores_F in scores_LF]))


def with_layers(plan: Plan, scores_L: Scores, drop: int) -> Plan:
    """The plan without the `drop` layers that score least."""
    return replace(plan, layers_L=best(scores_L, len(scores_L) - drop))
