"""Language models as they come: loading and saving, and a small one to train from nothing.

The only file outside `compress/` that knows transformers. Weights are read from safetensors or GGUF, never from pickle,
and no code that comes with a model is run.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    GgufConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    Qwen2Config,
    Qwen2ForCausalLM,
)
from transformers.utils import logging

Tokenizer = PreTrainedTokenizerBase
_from_pretrained: Any = AutoModelForCausalLM.from_pretrained  # its annotation knows not all that it returns
HUB_NAME = re.compile(r"[\w.-]+(/[\w.-]+)?")
HEAD_WIDTH = 32
"""Dimensions of an attention head in the small model."""


def load_language_model(source: str | Path) -> tuple[PreTrainedModel, Tokenizer | None]:
    """A causal language model in float32 and its tokenizer, in evaluation mode.

    Args:
        source: a Hugging Face folder (config.json, safetensors, tokenizer), a .gguf file (its weights are unpacked), or
            a name on the Hugging Face hub, which is looked for in the local cache first.

    Returns:
        The model with its output layer, ready for `save_pretrained`; None in place of a tokenizer that is not there.

    Raises:
        FileNotFoundError: no such folder or file; or a name that is not cached while the hub cannot be reached.
        ValueError: what is there is no causal language model that transformers can load.
    """
    path = Path(source)
    if path.is_dir():
        return _load(str(path), local_files_only=True)
    if path.is_file():
        if path.suffix != ".gguf":
            raise ValueError(f"{path}: a file of this kind is not read; give a Hugging Face folder or a .gguf file")
        return _load_gguf(path)
    if not HUB_NAME.fullmatch(str(source)):
        raise FileNotFoundError(f"{source}: no such folder or .gguf file")
    try:
        return _load(str(source), local_files_only=True)
    except ValueError:  # not cached, or not completely
        pass
    try:
        return _load(str(source))
    except ValueError as error:
        raise FileNotFoundError(
            f"{source}: no such folder, not in the local cache, and not to be had from the hub ({error}); give the "
            "folder of a downloaded model"
        ) from None


def save_language_model(folder: Path, model: PreTrainedModel, tokenizer: Tokenizer | None) -> None:
    """Write a plain Hugging Face folder, which `AutoModelForCausalLM.from_pretrained` reads."""
    with _without_progress():
        model.save_pretrained(folder)
    if tokenizer is not None:
        tokenizer.save_pretrained(folder)


def small_language_model(dim: int, layers: int, *, vocabulary: int = 8, positions: int = 4096) -> PreTrainedModel:
    """A Qwen2 with random weights, small enough to be trained on a CPU; its layers start as the identity.

    Args:
        dim: D, the hidden size, a multiple of 32.
        layers: L.
        vocabulary: V. It needs no words where there is no prompt.
        positions: the longest input.

    Raises:
        ValueError: `dim` is not a multiple of 32.
    """
    if dim % HEAD_WIDTH:
        raise ValueError(f"dim is {dim}; the small language model needs a multiple of {HEAD_WIDTH}")
    config = Qwen2Config(
        vocab_size=vocabulary,
        hidden_size=dim,
        intermediate_size=4 * dim,
        num_hidden_layers=layers,
        num_attention_heads=dim // HEAD_WIDTH,
        num_key_value_heads=dim // HEAD_WIDTH,
        max_position_embeddings=positions,
        bos_token_id=None,
        eos_token_id=None,
        pad_token_id=None,
        tie_word_embeddings=True,
    )
    model: Any = Qwen2ForCausalLM(config)
    for layer in model.model.layers:
        # as the other backbones start (transformer.py): the first query is the newest item's own vector
        nn.init.zeros_(layer.self_attn.o_proj.weight)
        nn.init.zeros_(layer.mlp.down_proj.weight)
    small: PreTrainedModel = model.eval()
    return small


def _load(source: str, *, gguf: str = "", **options: Any) -> tuple[PreTrainedModel, Tokenizer | None]:
    """From a folder, or from one .gguf file in it."""
    name = Path(source, gguf)
    if gguf:
        options |= {"gguf_file": gguf, "quantization_config": GgufConfig(gguf_file=gguf, dequantize=True)}
    try:
        with _without_progress():
            model, found = _from_pretrained(
                source, dtype=torch.float32, use_safetensors=True, output_loading_info=True, **options
            )
    except Exception as error:  # readers of files raise types of their own per cause, all of them mean: not loadable
        raise ValueError(f"{name}: not a causal language model that can be loaded ({_first_line(error)})") from None
    if found["missing_keys"]:  # transformers would draw them at random
        missing = ", ".join(sorted(found["missing_keys"])[:3])
        raise ValueError(f"{name}: incomplete, the weights of {missing} are missing")
    return model.eval(), _tokenizer(source, **options)


def _load_gguf(path: Path) -> tuple[PreTrainedModel, Tokenizer | None]:
    model, tokenizer = _load(str(path.parent), gguf=path.name, local_files_only=True)
    # dense from here on: else it could not be saved
    model.config.__dict__.pop("quantization_config", None)
    model.__dict__.update(hf_quantizer=None, is_quantized=False)
    return model, tokenizer


def _tokenizer(source: str, **options: Any) -> Tokenizer | None:
    options.pop("quantization_config", None)
    try:
        tokenizer: Tokenizer = AutoTokenizer.from_pretrained(source, **options)
    except Exception:  # as above; a prompt with words then says that there is none
        return None
    # where no file describes one, transformers makes an empty one up
    return tokenizer if len(tokenizer) > len(tokenizer.all_special_tokens) else None


@contextmanager
def _without_progress() -> Iterator[None]:
    """A library must not draw on its caller's terminal."""
    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()  # type: ignore[no-untyped-call]


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0][:200] if str(error).strip() else type(error).__name__
