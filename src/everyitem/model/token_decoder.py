"""A causal backbone over tokens instead of items: it writes an item token by token (TIGER, arXiv:2305.05065).

Training needs nothing of its own: a batch of items becomes a batch of tokens, and every token is predicted from those
before it by the full softmax over the vocabulary. Here is what inference needs beside it: keys and values that are
kept, and nodes of a tree that see their own branch alone.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from everyitem.model.decode import Decoder, Mask, TokenPrompts, Whole
from everyitem.model.export import TOLERANCE, without_noise
from everyitem.model.items import DenseItems
from everyitem.model.train import EpochBatches
from everyitem.model.transformer import SASRec
from everyitem.types import Floats, Histories, Ids

if TYPE_CHECKING:
    from everyitem.model.llm import LLM  # transformers takes seconds to import


def length_in_tokens(length: int, num_levels: int) -> int:
    """Tokens that a backbone must see for `length` events and all but the last token of the next one."""
    return (length + 1) * num_levels - 1


class TokenBatches:
    """Batches of items as batches of tokens, see `train.EpochBatches`.

    Args:
        batches: of positions padded with -1.
        tokens_IM: the items' strings.
    """

    def __init__(self, batches: EpochBatches, tokens_IM: Ids) -> None:
        self.batches, self.tokens_IM = batches, tokens_IM

    def epoch(self, number: int, *, start: int = 0) -> Iterator[NDArray[np.int32]]:
        """(U, T M) tokens padded with -1 on the right."""
        for ids_UT in self.batches.epoch(number, start=start):
            tokens_UTM = np.where(ids_UT[..., None] >= 0, self.tokens_IM[ids_UT], np.int32(-1))
            yield tokens_UTM.reshape(len(ids_UT), -1)


class TokenDecoder(nn.Module):
    """A trained backbone and its tokens' vectors as one pass of `decode.Decode`."""

    def __init__(self, backbone: "SASRec | LLM", table: DenseItems) -> None:
        super().__init__()
        self.backbone, self.table = backbone, table

    @property
    def state_width(self) -> int:
        """E: keys and values of every block."""
        return self.backbone.written_width

    def forward(self, tokens: Tensor, places: Tensor, seen: Tensor, past: Tensor, asked: Tensor) -> tuple[Tensor, ...]:
        """Log-probabilities (U, Q, V) and keys and values (U, N, E)."""
        mask = torch.where(seen, 0.0, -torch.inf)[:, None]
        hidden_UND, state_UNE = self.backbone.write(self.table(tokens), places, mask, past)
        return torch.log_softmax(hidden_UND[:, asked] @ self.table.vectors.T, dim=-1), state_UNE

    def run(
        self, tokens_UN: Whole, places_UN: Whole, seen_UNS: Mask, past_UPE: Floats, asked_Q: Whole
    ) -> tuple[Floats, Floats]:
        """As `Decode`, by torch."""
        device = self.table.vectors.device
        given = (torch.from_numpy(array).to(device) for array in (tokens_UN, places_UN, seen_UNS, past_UPE, asked_Q))
        with torch.inference_mode():
            log_probs, state = self(*given)
        return log_probs.cpu().numpy(), state.cpu().numpy()

    def prompts(self, tokens_IM: Ids, histories: Histories) -> TokenPrompts:
        """As `Decoder.prompts`, by torch; histories no longer than the backbone can see."""
        return TokenPrompts(self.run, self.state_width, tokens_IM, histories)


def export_decoder(decoder: TokenDecoder, path: Path, length: int, num_levels: int) -> float:
    """Write the decoder with free numbers of rows, of new and of known tokens, and check it against torch.

    Args:
        decoder: on any device; on the CPU and in evaluation mode afterwards.
        path: the .onnx file.
        length: events of a history.
        num_levels: M, tokens of an item.

    Returns:
        The largest absolute difference between log-probabilities that the file gives token by token and those of the
        training forward pass.

    Raises:
        RuntimeError: the difference passes 1e-5 (relative to the largest value).
    """
    decoder = decoder.eval().cpu()
    example = (  # sizes that differ, or the exporter would take two of them for one
        torch.zeros(2, 3, dtype=torch.int64),
        torch.zeros(2, 3, dtype=torch.int64),
        torch.ones(2, 3, 8, dtype=torch.bool),
        torch.zeros(2, 5, decoder.state_width),
        torch.zeros(4, dtype=torch.int64),
    )
    free = tuple(dict.fromkeys(axes, torch.export.Dim.AUTO) for axes in ((0, 1), (0, 1), (0, 1, 2), (0, 1), (0,)))
    with without_noise():
        program = torch.onnx.export(
            decoder,
            example,
            dynamo=True,
            dynamic_shapes=free,
            input_names=["tokens", "places", "seen", "past", "asked"],
            output_names=["log_probs", "state"],
            verbose=False,
        )
    assert program is not None
    program.save(path, external_data=False)
    worst = _largest_difference(decoder, Decoder(path, length), length, num_levels)
    if worst > TOLERANCE:
        raise RuntimeError(f"{path}: the exported decoder differs from torch by {worst:.1e}, allowed {TOLERANCE:.0e}")
    return worst


def _largest_difference(decoder: TokenDecoder, exported: Decoder, length: int, num_levels: int) -> float:
    """Of an item written in two branches behind prompts of several lengths."""
    rng, worst = np.random.default_rng(0), 0.0
    for events in {1, 2, length}:
        tokens = rng.integers(0, decoder.table.num_items, (events + 1, num_levels)).astype(np.int32)
        prompts = exported.prompts(tokens, Histories.from_lists([range(events)]))
        (_, log_probs, state), *_ = prompts.read()
        found = [log_probs[0]]
        for m, token in enumerate(tokens[-1, :-1]):
            # column 0 is another branch, which must not be seen
            parents = np.array([[-1, 2 * m - 1]])
            two, state = prompts.step(state, parents, np.array([[0, token]]))
            found.append(two[0, 1])
        expected = _forward(decoder, tokens.ravel())[-num_levels:]
        worst = max(worst, float(np.abs(np.stack(found) - expected).max() / max(1.0, np.abs(expected).max())))
    return worst


def _forward(decoder: TokenDecoder, tokens: Ids) -> Floats:
    """(T - 1, V) log-probabilities of what follows each token, as training sees them."""
    row = torch.from_numpy(tokens[None, :-1])
    with torch.inference_mode():
        hidden = decoder.backbone(decoder.table(row), torch.ones_like(row, dtype=torch.bool))[0]
        found: Floats = torch.log_softmax(hidden @ decoder.table.vectors.T, dim=-1).numpy()
    return found
