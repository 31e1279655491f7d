"""Small random language models of every family, awake: norms, biases and embeddings are not what they start as."""

import pytest
import torch


def small_model(family, seed=0, **changes):
    from transformers import AutoConfig, AutoModelForCausalLM

    sizes = {
        **{"hidden_size": 48, "num_attention_heads": 6, "num_key_value_heads": 2, "head_dim": 8, "vocab_size": 61},
        **{"intermediate_size": 40, "num_hidden_layers": 3, "max_position_embeddings": 64},
        **{"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2},
    }
    special = {
        "qwen2": {"tie_word_embeddings": True},
        "qwen3": {"tie_word_embeddings": True},
        "llama": {"tie_word_embeddings": False, "attention_bias": True, "mlp_bias": True},
        "mistral": {"sliding_window": 8, "tie_word_embeddings": False},
        "gemma3_text": {
            **{"layer_types": ["sliding_attention", "full_attention", "sliding_attention"], "sliding_window": 8},
            **{"tie_word_embeddings": True, "query_pre_attn_scalar": 8},
        },
    }
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(family, **sizes | special[family] | changes))
    with torch.no_grad():
        for name, weight in model.named_parameters():
            size = 0.3 if "embed" in name else 0.2 if weight.dim() == 1 else 0.1
            weight.add_(torch.randn_like(weight) * size)
    return model.eval()


@pytest.fixture(scope="session")
def language_model():
    """A function from a family's name to a model of three layers, 6 heads in 2 groups, 48 dimensions, 40 neurons."""
    return small_model


@pytest.fixture
def text_batches():
    """Two batches of random rows of several lengths, about half of whose tokens are asked for."""
    from everyitem.compress.calibration import batch_of

    generator = torch.Generator().manual_seed(1)

    def row(length):
        ids = torch.randint(3, 61, (length,), generator=generator)
        asked = torch.rand(length, generator=generator) < 0.5
        asked[0], asked[-1] = False, True
        return ids, ids.masked_fill(~asked, -100)

    return [batch_of([row(n) for n in lengths], padding=0) for lengths in ((12, 7, 3), (9, 12))]
