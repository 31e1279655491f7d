import json
import re

import numpy as np
import pytest
from safetensors.numpy import load_file
from transformers import AutoModelForCausalLM, Qwen2ForCausalLM

from everyitem.data.interactions import read_log
from everyitem.learn.fit import fit
from everyitem.model.llm import save_language_model, small_language_model
from everyitem.recommender import load


@pytest.fixture(scope="module")
def log(tiny_log):
    return read_log(tiny_log)


@pytest.fixture(scope="module")
def trained(log, tiny_settings, tmp_path_factory):
    """A model folder whose items went from vectors to codes, by way of low-rank updates of a language model."""
    folder = tmp_path_factory.mktemp("llm")
    save_language_model(folder / "pretrained", small_language_model(64, 1), None)
    settings = {"codes": "dense", "lora_rank": 2, "pack": 64, "num_splits": 4, "epochs": 1}
    fit(log, folder / "model", backbone="llm", language_model=str(folder / "pretrained"), **tiny_settings | settings)
    return folder / "model"


def test_a_language_model_with_codes_answers_like_any_model(trained, log, works):
    metrics = json.loads((trained / "metrics.json").read_text())
    assert metrics["updates"] > 0
    assert metrics["dense_start"]["updates"] > 0
    history = ",".join(log.items["item_id"].gather(log.histories[0][:4]).to_list())
    answers = json.loads(works("recommend", trained, "--history", history, "--json", "--k", "3"))
    assert [answer["rank"] for answer in answers] == [1, 2, 3]
    model = load(trained)
    assert model.index.codes_IM.shape == (log.num_items, 4)
    assert model.index.dim == 64  # the language model's, while tiny item vectors have 32
    assert load(trained / "training" / "dense").index.dim == 64


def test_it_is_saved_as_a_plain_language_model_and_an_item_head(trained):
    assert type(AutoModelForCausalLM.from_pretrained(trained / "language_model")) is Qwen2ForCausalLM
    head, index = load_file(trained / "item_head.safetensors"), load(trained).index
    assert np.array_equal(head["codes"], index.codes_IM)
    assert np.array_equal(head["sub_items"], index.codebooks_MBd)
    dense = load_file(trained / "training" / "dense" / "item_head.safetensors")
    assert dense["vectors"].shape[1] == 32
    assert dense["projection.linear.weight"].shape == (64, 32)
    assert not (trained / "encoder.safetensors").exists()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"pack": 64}, "pack is a setting of language models; give backbone llm, or leave it out"),
        ({"backbone": "llm", "lora_rank": 2}, "lora_rank updates a trained language model; name one"),
        ({"backbone": "llm", "lora_rank": 0}, "lora_rank is 0; allowed: 1 or more"),
        ({"backbone": "llm", "language_model": "/nowhere"}, "/nowhere: no such folder or .gguf file"),
        ({"backbone": "llm", "dim": 40}, "dim is 40; the small language model needs a multiple of 32"),
        ({"backbone": "llm", "prompt": "So far: {item}"}, "comes without a tokenizer"),
    ],
)
def test_settings_that_do_not_fit_are_refused_before_anything_is_written(
    settings, message, log, tiny_settings, tmp_path
):
    with pytest.raises((ValueError, FileNotFoundError), match=re.escape(message)):
        fit(log, tmp_path / "model", **tiny_settings | settings)
    assert not (tmp_path / "model").exists()


def test_what_no_onnx_file_holds_is_refused_before_it_is_trained(log, tiny_settings, tmp_path, monkeypatch):
    monkeypatch.setattr("everyitem.learn.run.LARGEST_ENCODER", 100_000)
    with pytest.raises(ValueError, match=r"its encoder has 0\.0 GB of weights, and the ONNX file takes"):
        fit(log, tmp_path / "model", backbone="llm", **tiny_settings | {"dim": 64})
    assert not (tmp_path / "model").exists()


def test_codes_must_divide_the_hidden_size(log, tiny_settings, tmp_path):
    save_language_model(tmp_path / "pretrained", small_language_model(96, 1), None)
    settings = {"language_model": str(tmp_path / "pretrained"), "num_splits": 64, "dim": 64}
    with pytest.raises(ValueError, match="num_splits=64 must divide the language model's hidden size 96"):
        fit(log, tmp_path / "model", backbone="llm", **tiny_settings | settings)
