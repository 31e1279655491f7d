"""What the token decoder says of a branch is what training says of the whole row, in torch and exported."""

import numpy as np
import pytest
import torch
from transformers import Qwen2Config, Qwen2ForCausalLM

from everyitem.index import BeamIndex
from everyitem.index.prompts import string_scores
from everyitem.model.decode import Decoder, TokenPrompts
from everyitem.model.items import DenseItems
from everyitem.model.llm import LLM
from everyitem.model.loss import full_softmax
from everyitem.model.token_decoder import TokenBatches, TokenDecoder, export_decoder, length_in_tokens
from everyitem.model.train import Objective
from everyitem.model.transformer import SASRec
from everyitem.types import Histories

LENGTH, LEVELS, DIM, VOCABULARY = 6, 3, 16, 30
RNG = np.random.default_rng(0)
TOKENS = (RNG.integers(0, 10, (40, LEVELS)) + 10 * np.arange(LEVELS)).astype(np.int32)
HISTORIES = Histories.from_lists([[3, 1, 4], [1, 5, 9, 2, 6, 5], [35], [8, 9, 7]])


def language_model(length: int) -> LLM:
    """A Qwen2 with grouped heads."""
    sizes = {"vocab_size": 8, "hidden_size": DIM, "intermediate_size": 32, "num_hidden_layers": 2}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 64}
    return LLM(Qwen2ForCausalLM(Qwen2Config(**sizes, **heads, tie_word_embeddings=True)), length=length)


@pytest.fixture(scope="module", params=["sasrec", "llm"])
def decoder(request: pytest.FixtureRequest) -> TokenDecoder:
    torch.manual_seed(0)
    length = length_in_tokens(LENGTH, LEVELS)
    backbone = SASRec(DIM, heads=2, length=length) if request.param == "sasrec" else language_model(length)
    for parameter in backbone.parameters():  # blocks start as the identity, which would hide mistakes
        torch.nn.init.normal_(parameter, std=0.3)
    return TokenDecoder(backbone, DenseItems(VOCABULARY, DIM)).eval()


@pytest.fixture(scope="module")
def exported(decoder: TokenDecoder, tmp_path_factory: pytest.TempPathFactory) -> Decoder:
    path = tmp_path_factory.mktemp("decoder") / "encoder.onnx"
    assert export_decoder(decoder, path, LENGTH, LEVELS) < 1e-5
    return Decoder(path, LENGTH)


def whole_rows(decoder: TokenDecoder, history: list[int]) -> np.ndarray:
    """(I,) scores of all items by the forward pass of training, each behind the history in a row of its own."""
    rows = torch.from_numpy(np.stack([TOKENS[[*history, item]].ravel() for item in range(len(TOKENS))]))
    with torch.inference_mode():
        hidden = decoder.backbone(decoder.table(rows[:, :-1]), torch.ones(rows[:, :-1].shape, dtype=torch.bool))
        log_probs = torch.log_softmax(hidden @ decoder.table.vectors.T, -1)
    found = log_probs.gather(2, rows[:, 1:, None].long())[:, -LEVELS:, 0]
    return found.sum(1).numpy()


def test_writing_token_by_token_is_the_forward_pass_of_training(decoder: TokenDecoder, exported: Decoder) -> None:
    expected = np.stack([whole_rows(decoder, list(history)) for history in HISTORIES])
    every = np.tile(np.arange(len(TOKENS)), (len(HISTORIES), 1))
    for source in (decoder, exported):
        prompts = source.prompts(TOKENS, HISTORIES)
        assert np.allclose(BeamIndex(TOKENS).scores(prompts, every), expected, atol=1e-4)
        assert np.allclose(string_scores(prompts, TOKENS), expected, atol=1e-4)


def test_exact_search_over_the_exported_model_finds_the_best(decoder: TokenDecoder, exported: Decoder) -> None:
    expected = np.stack([whole_rows(decoder, list(history)) for history in HISTORIES])
    for width in (1, 4, 40):
        found = BeamIndex(TOKENS, width=width, exact=True).top_k(exported.prompts(TOKENS, HISTORIES), 5)
        best = np.sort(expected, axis=1)[:, ::-1][:, :5]
        assert np.allclose(found.scores, best, atol=1e-4)
        assert np.allclose(np.take_along_axis(expected, found.items, 1), best, atol=1e-4)


def test_the_newest_events_are_seen_and_empty_histories_refused(exported: Decoder) -> None:
    long, newest = Histories.from_lists([range(20)]), Histories.from_lists([range(20 - LENGTH, 20)])
    items = np.arange(40)[None]
    scores = [BeamIndex(TOKENS).scores(exported.prompts(TOKENS, rows), items) for rows in (long, newest)]
    assert scores[0].tobytes() == scores[1].tobytes()
    with pytest.raises(ValueError, match="without events is no prompt"):
        exported.prompts(TOKENS, Histories.from_lists([[1], []]))


def test_it_learns_a_toy_log() -> None:
    torch.manual_seed(1)
    table = DenseItems(VOCABULARY, 32)
    backbone = SASRec(32, length=length_in_tokens(LENGTH, LEVELS), dropout=0.0)
    objective = Objective(backbone, table, full_softmax)
    cycle = np.array([[(start + t) % 40 for t in range(5)] for start in range(40)], np.int32)
    cycle[::2, 4] = -1  # rows of different lengths

    class Source:
        def epoch(self, number: int, *, start: int = 0):
            yield cycle

    optimiser = torch.optim.Adam(objective.parameters(), lr=1e-2)
    (rows,) = TokenBatches(Source(), TOKENS).epoch(0)
    assert rows.shape == (40, 15)
    assert (rows[1, 3:6] == TOKENS[cycle[1, 1]]).all()
    assert (rows[0, 12:] == -1).all()
    for _ in range(120):
        loss = objective(torch.from_numpy(rows), torch.zeros(1), None)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    decoder = TokenDecoder(backbone, table).eval()
    prompts = decoder.prompts(TOKENS, Histories.from_lists([[7, 8, 9, 10], [20, 21, 22]]))
    assert isinstance(prompts, TokenPrompts)
    found = BeamIndex(TOKENS, width=5).top_k(prompts, 1)
    assert [TOKENS[item].tolist() for item in found.items[:, 0]] == [TOKENS[11].tolist(), TOKENS[23].tolist()]
