import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from everyitem.compress.vocabulary import TextTokenizer, tokens_needed, trim, trimmed

TEXTS = [f"{a} {b} {n}" for a in ("mario", "zelda", "metroid") for b in ("kart", "party", "prime") for n in range(9)]
OTHERS = ["quantum quiz", "quantum party"] * 20


@pytest.fixture(scope="module")
def tokenizer():
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=330, special_tokens=["<end>"], initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(TEXTS + OTHERS, trainer)
    return tokenizer


def used_by(tokenizer, texts):
    return {token for text in texts for token in tokenizer.encode(text).ids}


def test_the_texts_given_stay_the_same_tokens(tokenizer):
    kept = tokens_needed(tokenizer, used_by(tokenizer, TEXTS))
    smaller = trimmed(tokenizer, kept)
    assert 257 <= smaller.get_vocab_size() == len(kept) < tokenizer.get_vocab_size()
    for text in TEXTS:
        assert [int(kept[token]) for token in smaller.encode(text).ids] == tokenizer.encode(text).ids
    assert smaller.token_to_id("<end>") == int(np.searchsorted(kept, tokenizer.token_to_id("<end>")))


def test_other_texts_can_still_be_written(tokenizer):
    smaller = trimmed(tokenizer, tokens_needed(tokenizer, used_by(tokenizer, TEXTS[:2])))
    for text in ("quantum quiz", "ünïcode €"):
        assert smaller.decode(smaller.encode(text).ids) == text


def test_model_and_tokenizer_are_trimmed_together(tokenizer, language_model, tmp_path):
    model = language_model("qwen2", vocab_size=tokenizer.get_vocab_size())
    wrapped = TextTokenizer(tokenizer_object=tokenizer, eos_token="<end>")
    smaller, trimmed_one = trim(model, wrapped, used_by(tokenizer, TEXTS))
    trimmed_one.save_pretrained(tmp_path)
    again = TextTokenizer.from_pretrained(tmp_path)
    before = torch.tensor([wrapped(TEXTS[4])["input_ids"]])
    after = torch.tensor([again(TEXTS[4])["input_ids"]])
    kept = tokens_needed(tokenizer, used_by(tokenizer, TEXTS), (0, 1, 2))
    with torch.inference_mode():
        torch.testing.assert_close(smaller(after).logits, model(before).logits[..., kept], rtol=0, atol=1e-5)
    assert again.eos_token == "<end>"


def test_only_byte_pair_vocabularies(language_model):
    words = Tokenizer(models.WordLevel({"a": 0}, unk_token="a"))
    with pytest.raises(ValueError, match="a WordLevel tokenizer cannot be trimmed"):
        tokens_needed(words, [0])
