"""Attention and what causal backbones share: training over whole rows, serving event by event from a kept state.

A causal encoder's states of past events never change, so they can be kept. Of every block but the last the state
holds keys and values; of the last one, which only the newest event asks, its normalised inputs: E numbers per event,
E = (2 L - 1) D. `extend` is the full forward when the past is empty and one more click when one event is new.
"""

import math
from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Attention(nn.Module):
    """Multi-head attention, softmax(Q K^T / sqrt(d) + mask) V, on inputs that are normalised already."""

    def __init__(self, dim: int, heads: int, dropout: float) -> None:
        super().__init__()
        if dim % heads:
            raise ValueError(f"dim={dim} is not a multiple of heads={heads}")
        self.heads, self.dropout = heads, dropout
        self.query, self.key_value = nn.Linear(dim, dim), nn.Linear(dim, 2 * dim)
        self.output = nn.Linear(dim, dim)

    def forward(self, x_UTD: Tensor, mask: Tensor | None = None, *, causal: bool = False) -> Tensor:
        """(U, T, D): every event asks all those that `mask` (bool, or float to be added) or `causal` lets it see."""
        key, value = self._split(self.key_value(x_UTD)).chunk(2, dim=1)
        dropout = self.dropout if self.training else 0.0
        query = self._split(self.query(x_UTD))
        mixed = F.scaled_dot_product_attention(query, key, value, attn_mask=mask, dropout_p=dropout, is_causal=causal)
        return self.output(mixed.transpose(1, 2).flatten(2))  # type: ignore[no-any-return]

    def extend(self, x_UTD: Tensor, past_UPE: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """(U, T, D) of T new events behind P known ones, and their keys and values, (U, T, 2 D).

        Args:
            x_UTD: the new events.
            past_UPE: keys and values of the known ones, as this returned them.
            mask: (T, P + T) or (H, T, P + T), to be added to the scores.
        """
        new = self.key_value(x_UTD)
        key, value = self._split(torch.cat([past_UPE, new], dim=1)).chunk(2, dim=1)
        query = self._split(self.query(x_UTD)) * self.scale
        mixed = torch.softmax(query @ key.transpose(2, 3) + mask, dim=-1) @ value
        return self.output(mixed.transpose(1, 2).flatten(2)), new

    def newest(self, x_UD: Tensor, seen_UTD: Tensor, bias_HT: Tensor | None = None) -> Tensor:
        """(U, D): one event asks those of `seen_UTD`, itself among them, without projecting any of them.

        q . (W_k n + b_k) = (W_k^T q) . n + a constant that softmax ignores, and sum_t a_t (W_v n_t + b_v) =
        W_v (sum_t a_t n_t) + b_v: the two projections cost H D^2 instead of T D^2.
        """
        dim = x_UD.shape[1]
        key_HdD, value_HdD = self.key_value.weight.view(2, self.heads, -1, dim).unbind(0)
        query_UH1d = (self.query(x_UD) * self.scale).unflatten(1, (self.heads, 1, -1))
        score_UHT = (query_UH1d @ key_HdD).squeeze(2) @ seen_UTD.transpose(1, 2)
        share_UHT = torch.softmax(score_UHT if bias_HT is None else score_UHT + bias_HT, dim=-1)
        mixed_UH1d = (share_UHT @ seen_UTD).unsqueeze(2) @ value_HdD.transpose(1, 2)
        return self.output(mixed_UH1d.flatten(1) + self.key_value.bias[self.query.out_features :])  # type: ignore[no-any-return]

    @property
    def scale(self) -> float:
        """1 / sqrt(d), d the width of a head."""
        return 1 / math.sqrt(self.query.out_features // self.heads)

    def _split(self, x: Tensor) -> Tensor:
        """(U, T, n D) -> (U, n H, T, D / H)."""
        return x.view(*x.shape[:2], -1, self.query.out_features // self.heads).transpose(1, 2)


class CausalBlock(Protocol):
    """What `extend` needs of a block."""

    attention: Attention

    def normed(self, x_UTD: Tensor) -> Tensor:
        """What attention sees of the block's inputs."""
        ...

    def extend(self, x_UTD: Tensor, past_UPE: Tensor) -> tuple[Tensor, Tensor]:
        """Outputs (U, T, D) and keys and values (U, T, 2 D) of new events."""
        ...

    def newest(self, x_UD: Tensor, seen_UTD: Tensor) -> Tensor:
        """Output (U, D) of the newest event, which `seen_UTD`, normalised, ends with."""
        ...


def extend(blocks: Sequence[CausalBlock], x_UTD: Tensor, past_UPE: Tensor) -> tuple[Tensor, Tensor]:
    """Hidden state (U, D) of the newest event, before the final norm, and the state (U, T, E) of the T new ones."""
    *lower, last = blocks
    *pasts, past = torch.split(past_UPE, state_widths(blocks, x_UTD.shape[2]), dim=2)
    new = []
    for block, past_of_block in zip(lower, pasts, strict=True):
        x_UTD, key_value = block.extend(x_UTD, past_of_block)
        new.append(key_value)
    normed = last.normed(x_UTD)
    seen = torch.cat([past, normed], dim=1)
    return last.newest(x_UTD[:, -1], seen), torch.cat([*new, normed], dim=2)


def state_widths(blocks: Sequence[CausalBlock], dim: int) -> list[int]:
    """How E is made up: keys and values of every block but the last (2 D, less where heads were cut), D of the last."""
    return [*(block.attention.key_value.out_features for block in blocks[:-1]), dim]


def no_past(x_UTD: Tensor, blocks: Sequence[CausalBlock]) -> Tensor:
    """(U, 0, E): the state of histories without an event."""
    return x_UTD.new_empty(len(x_UTD), 0, sum(state_widths(blocks, x_UTD.shape[2])))


def causal_mask(past_UPE: Tensor, x_UTD: Tensor) -> Tensor:
    """(T, P + T) to be added to scores: 0 where new event t may see event j <= P + t, else -inf."""
    known, new = past_UPE.shape[1], x_UTD.shape[1]
    every = torch.arange(known + new, device=x_UTD.device)
    return torch.where(every <= every[known:, None], 0.0, -torch.inf)


def start_as_identity(module: nn.Module, into_residual: list[nn.Linear]) -> None:
    """Xavier weights, zero biases, and zero for the layers that write into the residual stream.

    So blocks start as the identity: the first query is the newest item's own vector, which codes from co-occurrence
    already place near what comes next (docs/log.md).
    """
    for part in module.modules():
        if isinstance(part, nn.Linear):
            nn.init.xavier_uniform_(part.weight)
            nn.init.zeros_(part.bias)
    for layer in into_residual:
        nn.init.zeros_(layer.weight)
