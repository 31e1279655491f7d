"""BIGRec with a tiny language model: what it writes, how texts become vectors, and which items are near."""

import numpy as np
import pytest
import torch
from transformers import Qwen2Config, Qwen2ForCausalLM

from everyitem.learn.bigrec import BIGRec, popularity_weights
from everyitem.types import Histories

END = 0
TITLES = Histories.from_lists([[5, 6, END], [7, END], [5, 6, 8, 9, END], [11, 12, END], [5, 6, END], [13, 14, 15, END]])
HISTORIES = Histories.from_lists([[0, 1], [2], [3, 5, 1]])


@pytest.fixture(scope="module")
def model() -> Qwen2ForCausalLM:
    torch.manual_seed(0)
    sizes = {"vocab_size": 20, "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 2, "max_position_embeddings": 64}
    none = {"bos_token_id": None, "eos_token_id": None, "pad_token_id": None}
    made = Qwen2ForCausalLM(Qwen2Config(**sizes, **heads, **none)).eval()
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.2)
    return made


def test_texts_become_the_hidden_states_of_their_last_tokens(model: Qwen2ForCausalLM) -> None:
    found = BIGRec(model, TITLES, [3], length=20, batch=4).vectors_ID
    for title, vector in zip(TITLES, found, strict=True):
        with torch.inference_mode():
            hidden = model.model(input_ids=torch.tensor([title.tolist()])).last_hidden_state[0, -1]
        assert np.allclose(vector, hidden.numpy(), atol=1e-5)


def test_what_is_written_is_what_the_model_finds_likeliest(model: Qwen2ForCausalLM) -> None:
    one_by_one = BIGRec(model, TITLES, [3], length=20, beam=1, batch=1).write(HISTORIES)
    together = BIGRec(model, TITLES, [3], length=20, beam=1).write(HISTORIES)
    for history, alone, batched in zip(HISTORIES, one_by_one, together, strict=True):
        row = [3, *(token for item in history for token in TITLES[item].tolist())]
        written: list[int] = []
        while len(written) < 5 and (not written or written[-1] != END):
            with torch.inference_mode():
                written.append(int(model(input_ids=torch.tensor([row + written])).logits[0, -1].argmax()))
        wanted = written if written[-1] == END else [*written, END]
        assert alone.tolist() == batched.tolist() == wanted


def test_items_are_ranked_by_distance_and_equal_titles_by_position(
    model: Qwen2ForCausalLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    ranker = BIGRec(model, TITLES, [3], length=20)
    monkeypatch.setattr(ranker, "write", lambda histories: [TITLES[i].astype(np.int64) for i in (3, 0, 2)])
    found = ranker.rank(HISTORIES, 6)
    assert found.items[:, 0].tolist() == [3, 0, 2]
    assert found.items[1, :2].tolist() == [0, 4]
    exact = np.linalg.norm(ranker.vectors_ID[[3, 0, 2]][:, None] - ranker.vectors_ID, axis=2)
    assert (np.argsort(exact, axis=1, kind="stable") == found.items).all()
    assert ranker.rank(HISTORIES, 6, exclude_seen=True).items[0].tolist()[-2:] == [-1, -1]


def test_popularity_can_be_mixed_in(model: Qwen2ForCausalLM, monkeypatch: pytest.MonkeyPatch) -> None:
    events = np.array([0, 0, 0, 0, 0, 100])
    ranker = BIGRec(model, TITLES, [3], length=20, weights=popularity_weights(events))
    monkeypatch.setattr(ranker, "write", lambda histories: [TITLES[1].astype(np.int64)] * len(histories))
    assert ranker.rank(HISTORIES, 1).items[:, 0].tolist() == [1, 1, 1]
    assert ranker.fit_gamma(HISTORIES, np.full(3, 5, np.int32)) > 0
    assert (ranker.rank(HISTORIES, 2).items[:, 1] == 5).all()
    ranker.weights = None
    with pytest.raises(ValueError, match="nothing to mix in"):
        ranker.fit_gamma(HISTORIES, np.full(3, 5, np.int32))


def test_rows_without_room_for_a_history_are_refused(model: Qwen2ForCausalLM) -> None:
    with pytest.raises(ValueError, match="start and a title take 6 tokens"):
        BIGRec(model, TITLES, [3], length=6)
