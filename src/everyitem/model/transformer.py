"""The published backbones: histories of item vectors in, hidden states out: `(x_UTD, real_UT) -> hidden_UTD`.

Backbones know no items and no loss. Rows are padded on the right, so a causal model needs no padding mask. A causal
model counts positions from the oldest event it sees, so that what it computed for an event stays true when others
follow; the bidirectional one counts from the newest, as with the papers' left padding.
"""

from typing import TYPE_CHECKING, Literal, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from everyitem.model.attention import Attention, causal_mask, extend, no_past, start_as_identity
from everyitem.model.esasrec import ESASRec

if TYPE_CHECKING:
    from everyitem.model.llm import LLM  # transformers takes seconds to import


class Block(nn.Module):
    """Pre-norm attention and feed-forward, each with its residual: x + f(LayerNorm(x)).

    As written in the SASRec paper (arXiv:1808.09781, section 3.2). Its code normalises the queries only and adds the
    residual to the normalised queries; that is a slip we do not copy.
    """

    def __init__(self, dim: int, heads: int, feed_forward: int, activation: str, dropout: float) -> None:
        super().__init__()
        self.dropout, self.activation = dropout, activation
        self.attention_norm, self.feed_forward_norm = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.attention = Attention(dim, heads, dropout)
        self.widen, self.narrow = nn.Linear(dim, feed_forward), nn.Linear(feed_forward, dim)

    def forward(self, x_UTD: Tensor, mask: Tensor | None = None, *, causal: bool = False) -> Tensor:
        """All positions of whole rows."""
        return self._added(x_UTD, self.attention(self.normed(x_UTD), mask, causal=causal))

    def normed(self, x_UTD: Tensor) -> Tensor:
        """What attention sees."""
        return self.attention_norm(x_UTD)  # type: ignore[no-any-return]

    def extend(self, x_UTD: Tensor, past_UPE: Tensor, mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """New events behind known ones; see `Attention.extend`. `mask`: None lets each see all those before it."""
        mask = causal_mask(past_UPE, x_UTD) if mask is None else mask
        attended, key_value = self.attention.extend(self.normed(x_UTD), past_UPE, mask)
        return self._added(x_UTD, attended), key_value

    def newest(self, x_UD: Tensor, seen_UTD: Tensor) -> Tensor:
        """The newest event alone; see `Attention.newest`."""
        return self._added(x_UD, self.attention.newest(self.normed(x_UD), seen_UTD))

    def _added(self, x: Tensor, attended: Tensor) -> Tensor:
        x = x + self._drop(attended)
        wide = self.widen(self.feed_forward_norm(x))
        wide = F.relu(wide) if self.activation == "relu" else F.gelu(wide)
        return x + self._drop(self.narrow(self._drop(wide)))

    def _drop(self, x: Tensor) -> Tensor:
        return F.dropout(x, self.dropout, self.training)


class SASRec(nn.Module):
    """SASRec (arXiv:1808.09781): causal self-attention; every position predicts the next item.

    The paper pads on the left, which counts positions from the newest event; ours are counted from the oldest.

    Args:
        dim: D. The published runs use 50 (paper) to 512 (RecJPQ).
        blocks: attention blocks, at least one.
        heads: attention heads.
        length: T, the newest events that are seen.
        dropout: on embeddings, attention and both residual branches.
        feed_forward: inner width over D. The paper has 1; 4 is today's practice and slower.
    """

    objective: Literal["next", "masked"] = "next"

    def __init__(
        self,
        dim: int,
        *,
        blocks: int = 2,
        heads: int = 1,
        length: int = 50,
        dropout: float = 0.3,
        feed_forward: int = 1,
    ) -> None:
        super().__init__()
        self.dim, self.length, self.dropout = dim, length, dropout
        self.positions = nn.Parameter(torch.randn(length, dim) * 0.02)
        made = [Block(dim, heads, feed_forward * dim, "relu", dropout) for _ in range(blocks)]
        self.blocks, self.norm = nn.ModuleList(made), nn.LayerNorm(dim)
        start_as_identity(self, [layer for block in made for layer in (block.attention.output, block.narrow)])

    def forward(self, x_UTD: Tensor, real_UT: Tensor) -> Tensor:
        """Hidden states (U, T, D); state t has seen events 0..t."""
        x_UTD = F.dropout(x_UTD + self.positions[: x_UTD.shape[1]], self.dropout, self.training)
        for block in self.blocks:
            x_UTD = block(x_UTD, causal=True)
        return self.norm(x_UTD)  # type: ignore[no-any-return]

    def last(self, x_UTD: Tensor) -> Tensor:
        """Queries (U, D) of rows of equal length, 1 <= T <= `length`, without padding."""
        return self.extend(x_UTD, no_past(x_UTD, list(self.blocks)))[0]  # type: ignore[arg-type]

    def extend(self, x_UTD: Tensor, past_UPE: Tensor) -> tuple[Tensor, Tensor]:
        """Queries (U, D) after T more events, P + T <= `length`, and their state (U, T, E); see `attention.py`."""
        # looked up, as a slice would tell the exporter that P + T <= length for the example as well
        place_T = past_UPE.shape[1] + torch.arange(x_UTD.shape[1], device=x_UTD.device)
        x_UTD = x_UTD + F.embedding(place_T, self.positions)
        hidden_UD, state_UTE = extend(list(self.blocks), x_UTD, past_UPE)  # type: ignore[arg-type]
        return self.norm(hidden_UD), state_UTE

    @property
    def written_width(self) -> int:
        """E of `write`: keys and values of all blocks."""
        return 2 * self.dim * len(self.blocks)

    def write(self, x_UND: Tensor, places_UN: Tensor, mask: Tensor, past_UPE: Tensor) -> tuple[Tensor, Tensor]:
        """Hidden states (U, N, D) of new nodes of a tree, and their keys and values (U, N, E); see `decode.Decode`.

        Args:
            x_UND: the nodes.
            places_UN: where each of them stands in its own branch, the prompt before it.
            mask: (U, 1, N, P + N), to be added to the scores: which known and new nodes each of them sees.
            past_UPE: keys and values of the known ones.
        """
        x_UND, new, width = x_UND + F.embedding(places_UN, self.positions), [], 2 * self.dim
        for number, block in enumerate(self.blocks):
            assert isinstance(block, Block)
            x_UND, key_value = block.extend(x_UND, past_UPE[:, :, width * number : width * (number + 1)], mask)
            new.append(key_value)
        return self.norm(x_UND), torch.cat(new, dim=2)


class GBERT4Rec(nn.Module):
    """gBERT4Rec (RecJPQ's code; BERT4Rec, arXiv:1904.06690): bidirectional; masked events are predicted.

    A learned mask vector stands for a hidden event; at inference it is appended after the newest event. Pre-norm, where
    BERT has post-norm: the latter needs a warm-up of the learning rate and gains nothing at two or three blocks.

    Args:
        dim: D.
        blocks: attention blocks, at least one.
        heads: attention heads.
        length: T, events seen, the mask included.
        dropout: on embeddings, attention and both residual branches.
        feed_forward: inner width over D.
    """

    objective: Literal["next", "masked"] = "masked"

    def __init__(
        self,
        dim: int,
        *,
        blocks: int = 2,
        heads: int = 2,
        length: int = 50,
        dropout: float = 0.2,
        feed_forward: int = 4,
    ) -> None:
        super().__init__()
        self.dim, self.length, self.dropout = dim, length, dropout
        self.mask_vector = nn.Parameter(torch.randn(dim) * 0.02)
        self.positions = nn.Parameter(torch.randn(length, dim) * 0.02)
        made = [Block(dim, heads, feed_forward * dim, "gelu", dropout) for _ in range(blocks)]
        self.blocks, self.norm = nn.ModuleList(made), nn.LayerNorm(dim)
        start_as_identity(self, [layer for block in made for layer in (block.attention.output, block.narrow)])

    def forward(self, x_UTD: Tensor, real_UT: Tensor) -> Tensor:
        """Hidden states (U, T, D); every state has seen the whole row."""
        lengths = real_UT.sum(1, keepdim=True)
        from_end = (self.length - lengths + torch.arange(x_UTD.shape[1], device=x_UTD.device)).clamp(0, self.length - 1)
        x_UTD = F.dropout(x_UTD + F.embedding(from_end, self.positions), self.dropout, self.training)
        for block in self.blocks:
            x_UTD = block(x_UTD, real_UT[:, None, None, :])
        return self.norm(x_UTD)  # type: ignore[no-any-return]

    def last(self, x_UTD: Tensor) -> Tensor:
        """Queries (U, D) of rows of equal length, 1 <= T < `length`, without padding: the state of an appended mask."""
        x_UTD = torch.cat([x_UTD, self.mask_vector.expand(x_UTD.shape[0], 1, -1)], dim=1)
        x_UTD = x_UTD + self.positions[self.length - x_UTD.shape[1] :]
        *lower, last = self.blocks
        for block in lower:
            x_UTD = block(x_UTD)
        assert isinstance(last, Block)
        return self.norm(last.newest(x_UTD[:, -1], last.normed(x_UTD)))  # type: ignore[no-any-return]


Backbone: TypeAlias = "SASRec | GBERT4Rec | ESASRec | LLM"
