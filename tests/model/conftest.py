"""Tiny language models with random weights, one per architecture, and a tokenizer."""

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

SIZES = {
    **{"vocab_size": 260, "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2},
    **{"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 4, "max_position_embeddings": 64},
    **{"bos_token_id": None, "eos_token_id": None, "pad_token_id": None},
}
KINDS = {
    "qwen2": (Qwen2Config, Qwen2ForCausalLM, {"tie_word_embeddings": True}),
    "qwen3": (Qwen3Config, Qwen3ForCausalLM, {}),
    "llama": (LlamaConfig, LlamaForCausalLM, {"tie_word_embeddings": False}),
    # a window shorter than the tests' histories, so that local and global layers differ
    "gemma3": (
        Gemma3TextConfig,
        Gemma3ForCausalLM,
        {"sliding_window": 4, "layer_types": ["sliding_attention", "full_attention"], "head_dim": 8},
    ),
}


@pytest.fixture
def language_model():
    """Makes one of the `KINDS`, with weights large enough for every fault to show."""

    def make(kind="qwen2", seed=0):
        config, model, extra = KINDS[kind]
        torch.manual_seed(seed)
        made = model(config(**(SIZES | extra))).eval()
        with torch.no_grad():
            for parameter in made.parameters():
                parameter.add_(torch.randn_like(parameter) * 0.1)
        return made

    return make


@pytest.fixture
def tokenizer():
    """Every byte is a token."""
    letters = {letter: n for n, letter in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    bytes_only = Tokenizer(models.BPE(letters, merges=[]))
    bytes_only.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    return PreTrainedTokenizerFast(tokenizer_object=bytes_only)
