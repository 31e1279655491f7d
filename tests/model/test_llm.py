import gguf
import huggingface_hub.constants
import pytest
import torch
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM, AutoTokenizer, T5Config, T5ForConditionalGeneration

from everyitem.model.llm import load_language_model, save_language_model, small_language_model

IDS = torch.arange(12).view(2, 6)
KINDS = ("qwen2", "qwen3", "llama", "gemma3")
GGUF_NAMES = {
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "model.layers.": "blk.",
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_saved_folder_is_plain_hugging_face(kind, language_model, tokenizer, tmp_path):
    model = language_model(kind)
    save_language_model(tmp_path, model, tokenizer)
    for again in (AutoModelForCausalLM.from_pretrained(tmp_path).eval(), load_language_model(tmp_path)[0]):
        assert torch.equal(again(IDS).logits, model(IDS).logits)
    for found in (AutoTokenizer.from_pretrained(tmp_path), load_language_model(tmp_path)[1]):
        assert found("Bought: a")["input_ids"] == tokenizer("Bought: a")["input_ids"]


def test_what_is_stored_in_half_is_loaded_in_float32_without_a_word(language_model, tmp_path, capfd):
    language_model().bfloat16().save_pretrained(tmp_path)
    capfd.readouterr()
    model, tokenizer = load_language_model(tmp_path)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    assert tokenizer is None
    assert not model.training
    assert "".join(capfd.readouterr()) == ""


def test_a_gguf_file_becomes_a_dense_model_that_can_be_saved(language_model, tmp_path):
    model, path = language_model("qwen2"), tmp_path / "tiny.gguf"
    write_gguf(model, path)
    loaded, _ = load_language_model(path)
    torch.testing.assert_close(loaded(IDS).logits, model(IDS).logits, rtol=0, atol=1e-5)
    save_language_model(tmp_path / "saved", loaded, None)
    assert torch.equal(load_language_model(tmp_path / "saved")[0](IDS).logits, loaded(IDS).logits)


def write_gguf(model, path):
    config, writer = model.config, gguf.GGUFWriter(path, "qwen2")
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_key_length(config.head_dim)
    writer.add_value_length(config.head_dim)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_vocab_size(config.vocab_size)
    for name, value in model.named_parameters():
        for ours, theirs in GGUF_NAMES.items():
            name = name.replace(ours, theirs)
        writer.add_tensor(name, value.detach().numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def test_what_is_no_language_model_is_refused_with_its_name(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere: no such folder"):
        load_language_model(tmp_path / "nowhere")
    with pytest.raises(ValueError, match=r"not a causal language model .*config\.json"):
        load_language_model(tmp_path)
    sizes = {"vocab_size": 8, "d_model": 8, "d_ff": 8, "num_layers": 1, "num_heads": 2, "d_kv": 4}
    T5ForConditionalGeneration(T5Config(**sizes)).save_pretrained(tmp_path / "t5")
    with pytest.raises(ValueError, match=r"t5: not a causal language model .*Unrecognized configuration class"):
        load_language_model(tmp_path / "t5")
    (tmp_path / "weights.bin").write_bytes(b"\x80\x02")
    with pytest.raises(ValueError, match=r"weights\.bin: a file of this kind is not read"):
        load_language_model(tmp_path / "weights.bin")
    (tmp_path / "cut.gguf").write_bytes(b"GGUF")
    with pytest.raises(ValueError, match=r"cut\.gguf.*: not a causal language model"):
        load_language_model(tmp_path / "cut.gguf")


def test_weights_that_are_missing_are_not_drawn_at_random(language_model, tmp_path):
    model = language_model()
    state = {
        name: value for name, value in model.state_dict().items() if "1.mlp.up" not in name and "lm_head" not in name
    }
    model.config.save_pretrained(tmp_path)
    save_file(state, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"incomplete, the weights of model\.layers\.1\.mlp\.up_proj\.weight are"):
        load_language_model(tmp_path)


def test_weights_in_pickle_are_not_read(language_model, tmp_path):
    language_model().config.save_pretrained(tmp_path)
    (tmp_path / "pytorch_model.bin").write_bytes(b"\x80\x02}q\x00.")
    with pytest.raises(ValueError, match="safetensors"):
        load_language_model(tmp_path)


def test_a_name_that_is_not_cached_needs_the_hub_and_says_so(monkeypatch, tmp_path):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(FileNotFoundError, match=r"nobody/nothing: .* not in the local cache, and not to be had"):
        load_language_model("nobody/nothing")


def test_the_small_model_starts_as_the_identity():
    model = small_language_model(64, 2)
    x = torch.randn(2, 5, 64)
    with torch.inference_mode():
        hidden = model.model(inputs_embeds=x).last_hidden_state
    torch.testing.assert_close(hidden, x / x.square().mean(-1, keepdim=True).sqrt(), rtol=0, atol=1e-4)
    with pytest.raises(ValueError, match="dim is 40; the small language model needs a multiple of 32"):
        small_language_model(40, 2)
