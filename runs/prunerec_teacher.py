"""Trains a small Qwen2-shaped language model that recommends by title: what `runs/prunerec.sh` prunes.

A tokenizer of its own from the titles, random weights, every title after the first of a history as a target. `start/`
keeps the untrained model, `activity.json` how unevenly both work. An interrupted training goes on.
"""

import json
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer
from rich.console import Console
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM

from everyitem.compress.activity import Activity, top_shares
from everyitem.compress.calibration import mean_loss
from everyitem.compress.distil import TextLoss, restore
from everyitem.data.interactions import read_log
from everyitem.learn.pruning import batches_of
from everyitem.learn.titles import keep_text_settings, load_text_model, text_of
from everyitem.model.llm import save_language_model


def main(
    log: Path,
    out: Path,
    minutes: Annotated[float, typer.Option(help="Of training.")] = 15.0,
    hidden: int = 192,
    layers: int = 8,
    heads: int = 8,
    key_values: int = 4,
    neurons: int = 768,
    vocabulary: int = 4096,
    length: int = 192,
    title_tokens: int = 20,
    batch_tokens: int = 3072,
    learning_rate: float = 1e-3,
    seed: int = 0,
) -> None:
    """Train on LOG's titles, write a plain Hugging Face folder."""
    console, events = Console(), read_log(log)
    settings = {"length": length, "title_tokens": title_tokens, "prompt": "", "seed": seed}
    settings |= {"calibration": 256, "histories": None, "batch_tokens": batch_tokens}
    if not (out / "titles.json").is_file():
        torch.manual_seed(seed)
        config = Qwen2Config(
            vocab_size=vocabulary,
            hidden_size=hidden,
            num_attention_heads=heads,
            num_key_value_heads=key_values,
            intermediate_size=neurons,
            num_hidden_layers=layers,
            max_position_embeddings=1024,
            tie_word_embeddings=True,
        )
        tokenizer = tokenizer_of(events.items["title"].drop_nulls().to_list(), vocabulary)
        save_language_model(out / "start", Qwen2ForCausalLM(config), tokenizer)
    model, tokenizer = load_text_model(out / "start")
    text = text_of(events, tokenizer, settings)
    measured, learnt = batches_of(events, text, settings)
    tokens = sum(int(batch.real_UT.sum()) for batch in learnt)
    console.print(f"{tokens:,} tokens in {len(learnt):,} batches; {model.num_parameters():,} parameters")
    loss = TextLoss(model, learnt, model, truth=1.0)
    state = restore(
        model, loss, len(learnt), out / "training", epochs=30, minutes=minutes, learning_rate=learning_rate, seed=seed
    )
    save_language_model(out, model, tokenizer)
    keep_text_settings(out, settings)
    kinds: tuple[Activity, ...] = ("attention", "product")
    untrained, _ = load_text_model(out / "start")
    shares = {
        name: {kind: top_shares(one, measured, kind).mean(0).tolist() for kind in kinds}
        for name, one in (("before", untrained), ("after", model))
    }
    (out / "activity.json").write_text(json.dumps(shares))
    passes, perplexity = state.update / len(learnt), np.exp(mean_loss(model, measured))
    facts = {"minutes": minutes, "updates": state.update, "passes": passes, "perplexity": float(perplexity)}
    (out / "training.json").write_text(json.dumps(facts))
    console.print(f"{state.update:,} updates, {passes:.2f} passes, {state.seconds:,.0f} s, perplexity {perplexity:.2f}")


def tokenizer_of(titles: list[str], vocabulary: int) -> PreTrainedTokenizerFast:
    """A byte-level byte-pair tokenizer of the titles."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=vocabulary, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(titles, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer)


if __name__ == "__main__":
    typer.run(main)
