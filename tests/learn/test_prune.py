"""Pruning from the command line: a random language model with a tokenizer of the log's titles."""

import json
import shutil

import polars as pl
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM

from everyitem.data.interactions import read_log

SIZES = ("--keep-heads", 2, "--keep-hidden", 16, "--keep-mlp", 24, "--drop-layers", 1)
SHORT = ("--epochs", 1, "--histories", 24, "--calibration", 12, "--title-tokens", 6, "--length", 48, "--users", 6)


@pytest.fixture(scope="module")
def language_model_folder(tiny_log, tmp_path_factory):
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    folder = tmp_path_factory.mktemp("language") / "model"
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=400, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator([*read_log(tiny_log).items["title"], *["some other words"] * 30], trainer)
    PreTrainedTokenizerFast(tokenizer_object=tokenizer).save_pretrained(folder)
    torch.manual_seed(0)
    config = Qwen2Config(
        vocab_size=tokenizer.get_vocab_size(),
        hidden_size=32,
        num_attention_heads=4,
        num_key_value_heads=2,
        intermediate_size=48,
        num_hidden_layers=3,
        tie_word_embeddings=True,
    )
    Qwen2ForCausalLM(config).save_pretrained(folder)
    return folder


def test_prune_writes_a_plain_checkpoint(works, language_model_folder, tiny_log, tmp_path, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    out = tmp_path / "out"
    table = works("prune", language_model_folder, out, "--log", tiny_log, *SIZES, *SHORT)
    assert "heads and hidden cut" in table
    assert "…" not in table
    assert "NDCG@20" in table
    model, tokenizer = AutoModelForCausalLM.from_pretrained(out), AutoTokenizer.from_pretrained(out)
    assert (model.config.hidden_size, model.config.num_hidden_layers, model.config.intermediate_size) == (16, 2, 24)
    ids = torch.tensor([tokenizer("Some title\n")["input_ids"]])
    assert torch.isfinite(model(ids).logits).all()
    report = json.loads((out / "prunerec.json").read_text())
    assert [stage["restored"]["sizes"]["layers"] for stage in report["stages"]] == [3, 3, 2]
    evaluation = json.loads(works("evaluate", out, tiny_log, "--max-users", 6, "--time-users", 2, "--json"))
    assert evaluation["recall@20"]["value"] == report["after"]["hr@20"]["value"]
    assert evaluation["total_ms"]["median"] > 0
    again = json.loads(works("prune", language_model_folder, out, "--log", tiny_log, *SIZES, *SHORT, "--json"))
    assert again == report, "a run that is done is not done again"


def test_a_dry_run_only_says_sizes(works, language_model_folder, tiny_log, tmp_path, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    command = ("prune", language_model_folder, tmp_path / "out", "--log", tiny_log, *SIZES, "--dry-run")
    lines = json.loads(works(*command, "--json"))["stages"]
    assert [line["layers"] for line in lines] == [3, 3, 3, 2]
    assert lines[-1]["hidden"] == 16
    assert "100.0%" in works(*command)
    assert not (tmp_path / "out").exists()


def test_sizes_for_a_budget_and_a_trimmed_vocabulary(works, language_model_folder, tiny_log, tmp_path):
    out = tmp_path / "out"
    options = ("--target-parameters", 0.3, "--trim-vocabulary", "--answers", 8)
    report = json.loads(works("prune", language_model_folder, out, "--log", tiny_log, *options, *SHORT, "--json"))
    share = report["after"]["parameters_without_embeddings"] / report["before"]["parameters_without_embeddings"]
    assert share <= 0.3
    tokenizer, before = (AutoTokenizer.from_pretrained(folder) for folder in (out, language_model_folder))
    vocabulary = AutoModelForCausalLM.from_pretrained(out).config.vocab_size
    # transformers adds a token of its own to the tokenizer of every Qwen2
    assert tokenizer.backend_tokenizer.get_vocab_size(with_added_tokens=False) == vocabulary < len(before) - 1
    title = read_log(tiny_log).items["title"][0]
    assert tokenizer.convert_ids_to_tokens(tokenizer(title)["input_ids"]) == before.convert_ids_to_tokens(
        before(title)["input_ids"]
    )


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ((), "got nothing to cut; give either target_parameters or some of keep_heads"),
        (("--keep-heads", 2, "--target-parameters", 0.1), "got target_parameters and keep_heads; give either"),
        (("--target-parameters", 1.5), "target_parameters is 1.5; allowed: a share above 0 and below 1"),
        (("--keep-hidden", 64), "got 64 hidden to keep; allowed: 1 to 32"),
        (("--keep-heads", 0), "keep_heads is 0; allowed: 1 or more"),
        (("--drop-layers", 3), "got 0 layers to keep; allowed: 1 to 3"),
        (("--drop-layers", 1, "--truth", 2), "truth is 2.0; allowed: 0 to 1"),
        (("--drop-layers", 1, "--calibration", 100000), "two training events or more, and calibration takes 100000"),
    ],
)
def test_mistakes_are_one_line(refused, language_model_folder, tiny_log, tmp_path, options, said):
    assert said in refused("prune", language_model_folder, tmp_path / "out", "--log", tiny_log, *options)
    assert not (tmp_path / "out").exists()


def test_folders_without_model_or_titles_are_refused(refused, language_model_folder, tiny_log, tmp_path):
    said = refused("prune", tmp_path, tmp_path / "out", "--log", tiny_log, "--drop-layers", 1)
    assert "not a causal language model that can be loaded" in said
    shutil.copytree(language_model_folder, tmp_path / "mute", ignore=shutil.ignore_patterns("tokenizer*"))
    said = refused("prune", tmp_path / "mute", tmp_path / "out", "--log", tiny_log, "--drop-layers", 1)
    assert "has no tokenizer of the fast kind" in said
    events = pl.read_parquet(tiny_log / "interactions.parquet")
    events.write_parquet(tmp_path / "plain.parquet")
    said = refused(
        "prune", language_model_folder, tmp_path / "out", "--log", tmp_path / "plain.parquet", "--drop-layers", 1
    )
    assert "and no title; add one to items.parquet" in said


def test_a_folder_with_something_else_is_not_written_to(refused, language_model_folder, tiny_log, tmp_path):
    (tmp_path / "recommender.json").write_text("{}")
    said = refused("prune", language_model_folder, tmp_path, "--log", tiny_log, "--drop-layers", 1)
    assert "not of a pruning by everyitem, so it is not overwritten" in said
    assert [path.name for path in tmp_path.iterdir()] == ["recommender.json"]
