import numpy as np
import pytest
import torch

from everyitem.model.written import WrittenPrompts, filled_titles
from everyitem.types import Histories

END = 2
TITLES = Histories.from_lists([[5, 6, END], [5, END], [7, 8, 9, END], [5, 6, 7, END]])
PROMPTS = [np.array([3, 4, 5]), np.array([9, 8, 7, 6, 5, 4]), np.array([11])]


def test_titles_are_filled_up_behind_their_ends():
    tokens_IM = filled_titles(TITLES, 24)
    assert tokens_IM.tolist() == [[5, 6, END, 24], [5, END, 24, 24], [7, 8, 9, END], [5, 6, 7, END]]


def one_by_one(model, prompt, title):
    """log p of every token of a title, by a forward pass each."""
    out, row = [], list(prompt)
    for token in title:
        with torch.inference_mode():
            logits = model(torch.tensor([row]), use_cache=False).logits[0, -1].double()
        out.append(float(torch.log_softmax(logits, -1)[token]))
        row.append(int(token))
    return out


@pytest.mark.parametrize("kind", ["qwen2", "llama"])
def test_every_node_is_what_the_model_says_after_its_path(language_model, kind):
    """The four titles written as a tree, level by level, for three prompts of different lengths in one batch."""
    model = language_model(kind)
    tokens_IM = filled_titles(TITLES, model.config.vocab_size)
    prompts = WrittenPrompts(model, PROMPTS, end=END, longest=4)
    ((rows, first_UV, state),) = prompts.read()
    assert sorted(rows) == [0, 1, 2]
    found = np.empty((3, 4, 4))
    found[rows, :, 0] = first_UV[:, tokens_IM[:, 0]]
    parents_UN = np.full((3, 4), -1)
    for m in range(1, 4):
        tokens_UN = np.tile(tokens_IM[:, m - 1], (3, 1)).astype(np.int64)
        log_probs_UNV, state = prompts.step(state, parents_UN, tokens_UN)
        parents_UN = np.tile((m - 1) * 4 + np.arange(4), (3, 1))
        found[rows, :, m] = log_probs_UNV[:, np.arange(4), tokens_IM[:, m]]
    for row, prompt in enumerate(PROMPTS):
        for item, title in enumerate(TITLES):
            expected = one_by_one(model, prompt, title)
            np.testing.assert_allclose(found[row, item, : len(title)], expected, atol=2e-5)
            assert (found[row, item, len(title) :] == 0).all(), "filling costs nothing"


def test_nothing_but_filling_follows_an_end(language_model):
    model = language_model("qwen2")
    filling = model.config.vocab_size
    prompts = WrittenPrompts(model, PROMPTS, end=END, longest=4)
    ((_, first_UV, state),) = prompts.read()
    assert (first_UV[:, :filling] <= 0).all()
    assert np.isneginf(first_UV[:, filling]).all()
    after_UNV, state = prompts.step(state, np.full((3, 2), -1), np.array([[5, END]] * 3))
    assert np.isneginf(after_UNV[:, 0, filling]).all()
    assert (after_UNV[:, 1, filling] == 0).all()
    assert np.isneginf(after_UNV[:, 1, :filling]).all()


def test_a_window_that_is_too_short_is_refused(language_model):
    with pytest.raises(ValueError, match="prompt and title have up to 10 tokens, the model's window 4"):
        WrittenPrompts(language_model("gemma3"), PROMPTS, end=END, longest=4)
