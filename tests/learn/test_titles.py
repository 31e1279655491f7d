import numpy as np
import polars as pl
import pytest
import torch
from transformers import Qwen2Config, Qwen2ForCausalLM

from everyitem.data.interactions import read_log
from everyitem.data.splits import Holdout
from everyitem.data.text import title_tokens
from everyitem.learn.titles import TitleRanker, quality, text_of
from everyitem.types import Histories

END, START = 0, [1]
TITLES = ["ab", "a", "abc", "ba", "ccc", "cb", "a"]


@pytest.fixture(scope="module")
def titles():
    letters = {"a": 2, "b": 3, "c": 4}
    return title_tokens(TITLES, lambda texts: [[letters[x] for x in text] for text in texts], end=END, longest=4)


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "num_attention_heads": 2, "num_key_value_heads": 1, "intermediate_size": 16}
    made = Qwen2ForCausalLM(Qwen2Config(vocab_size=6, num_hidden_layers=2, tie_word_embeddings=True, **sizes)).eval()
    with torch.no_grad():
        for weight in made.parameters():
            weight.add_(torch.randn_like(weight) * 0.3)
    return made


def test_an_item_without_a_title_is_written_as_its_id():
    events = pl.DataFrame({"user_id": [1, 1, 1, 1], "item_id": ["x", "y", "z", "w"]})
    items = pl.DataFrame({"item_id": ["x", "y", "z", "w"], "title": ["two words", None, "", " "]})
    log = read_log(events, items=items)

    def tokenizer(texts, add_special_tokens):
        return {"input_ids": [[ord(letter) for letter in text] for text in texts]}

    text = text_of(log, tokenizer, {"title_tokens": 20, "prompt": ""})
    written = {"".join(map(chr, title)) for title in text.titles}
    assert written == {"two words\n", "y\n", "z\n", "w\n"}


def by_hand(model, titles, history):
    """log p of every title after the start and the titles of the history."""
    prompt = START + [token for item in history for token in titles[item].tolist()]
    out = []
    for title in titles:
        row = prompt + title.tolist()
        with torch.inference_mode():
            log_p = torch.log_softmax(model(torch.tensor([row])).logits[0].double(), -1)
        out.append(sum(float(log_p[len(prompt) + t - 1, token]) for t, token in enumerate(title)))
    return np.array(out)


def test_a_beam_as_wide_as_the_catalogue_ranks_by_the_probability_of_the_title(model, titles):
    histories = Histories.from_lists([[0, 4], [5], [2, 3, 6, 1]])
    top = TitleRanker(model, titles, START, length=40, beam=10).rank(histories, 7)
    for row, history in enumerate(histories):
        expected = by_hand(model, titles, history)
        np.testing.assert_allclose(top.scores[row], np.sort(expected)[::-1], atol=1e-4)
        assert sorted(top.items[row]) == list(range(7))
        places = {item: place for place, item in enumerate(top.items[row])}
        assert places[6] == places[1] + 1, "equal titles by position"


def test_seen_items_can_be_left_out(model, titles):
    top = TitleRanker(model, titles, START, length=40, beam=10).rank(
        Histories.from_lists([[0, 4]]), 7, exclude_seen=True
    )
    assert set(top.items[0]) == {1, 2, 3, 5, 6, -1}


def test_quality_is_of_the_ranks(model, titles):
    histories = Histories.from_lists([[0, 4], [5], [2, 3]])
    ranker = TitleRanker(model, titles, START, length=40, beam=10)
    best = ranker.rank(histories, 1).items[:, 0]
    found = quality(ranker, Holdout(np.arange(3), histories, best))
    assert found["hr@20"]["value"] == found["ndcg@20"]["value"] == 1
    assert found["users"] == 3
    assert found["recommend_ms"]["median"] > 0


def test_room_for_a_title_is_needed(model, titles):
    with pytest.raises(ValueError, match="length is 5, but start and a title take 5 tokens; allow more"):
        TitleRanker(model, titles, START, length=5)
