"""Causal language models as backbones: items stand where words do. Loading and saving, and a small one for CPUs.

The only file outside `compress/` that knows transformers. Weights are read from safetensors or GGUF, never from pickle,
and no code that comes with a model is run.
"""

import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from inspect import signature
from pathlib import Path
from typing import Any, Literal

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    DynamicCache,
    GgufConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    Qwen2Config,
    Qwen2ForCausalLM,
)
from transformers.utils import logging

from everyitem.model.train import computes_in_bf16

Tokenizer = PreTrainedTokenizerBase
_from_pretrained: Any = AutoModelForCausalLM.from_pretrained  # its annotation knows not all that it returns
HUB_NAME = re.compile(r"\w[\w.-]*(/[\w.-]+)?")
ITEM = "{item}"
"""Where an item stands in a prompt."""
PLAIN_UP_TO = 512
"""Tokens of a row up to which training holds all attention weights."""
HEAD_WIDTH = 32
"""Dimensions of an attention head in the small model."""


class LLM(nn.Module):
    """A causal language model as a backbone: an item is one position, so one pass predicts the next item.

    As in "Efficient Item ID Generation for Large-Scale LLM-based Recommendation" (arXiv:2509.03746): item vectors enter
    where word embeddings do, between the words of a prompt, and the last hidden state is the query. Word embeddings
    stay as they are: no word is predicted.

    Args:
        model: from `load_language_model` or `small_language_model`; belongs to the backbone from now on.
        tokenizer: reads the prompt; it is saved with the model.
        length: T, the newest events that are seen.
        prompt: `{item}` says where an item stands. What is before it comes once; what is after it, after every item,
            and the state there predicts the next one: "Bought so far: {item}, " becomes "Bought so far: i1, i2, i3, ".
        dropout: of item vectors, inside attention, and of low-rank updates.
        lora_rank: train low-rank updates of all linear layers (arXiv:2106.09685; scaled by 2) in place of the weights;
            None trains the weights.
        pack: tokens of a packed row: histories of a batch are laid end to end, so that nothing is computed for padding;
            states are those of rows of their own. None: a history per row.
        gradient_checkpointing: compute activations again in the backward pass: a third more time, little memory.

    Raises:
        ValueError: a prompt without exactly one `{item}` or without a tokenizer, or one too long for the model.
    """

    objective: Literal["next", "masked"] = "next"
    before: Tensor
    after: Tensor

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: Tokenizer | None = None,
        *,
        length: int = 50,
        prompt: str = ITEM,
        dropout: float = 0.0,
        lora_rank: int | None = None,
        pack: int | None = None,
        gradient_checkpointing: bool = False,
    ) -> None:
        super().__init__()
        self.dim, self.length = int(model.config.hidden_size), length
        self.tokenizer, self.dropout, self.pack = tokenizer, dropout, pack
        before, after = _tokens(prompt, tokenizer)
        self.register_buffer("before", torch.tensor(before, dtype=torch.long), persistent=False)
        self.register_buffer("after", torch.tensor(after, dtype=torch.long), persistent=False)
        longest, limit = len(before) + length * (1 + len(after)), int(model.config.max_position_embeddings)
        if longest > limit:
            raise ValueError(
                f"{length} items and their prompt are {longest} tokens, and the language model takes {limit}; "
                "give a smaller length or a shorter prompt"
            )
        self.model = _prepared(model, dropout, lora_rank, gradient_checkpointing)
        self.train()  # as every new module is; what was loaded is not

    @property
    def encoder_bytes(self) -> int:
        """Of the weights that an exported encoder holds: float32, all but the words'."""
        words = {id(part.weight) for part in (self.model.get_input_embeddings(), self.model.get_output_embeddings())}
        return sum(4 * weight.numel() for weight in self.model.parameters() if id(weight) not in words)

    def forward(self, x_UTD: Tensor, real_UT: Tensor) -> Tensor:
        """Hidden states (U, T, D); state t has seen the prompt and events 0..t. Rows are padded on the right."""
        x_UTD = F.dropout(x_UTD, self.dropout, self.training)
        tokens_UND = self._interleaved(x_UTD)
        if self.pack is None:
            hidden_UND = self._hidden(tokens_UND)
        else:
            hidden_UND = self._packed(tokens_UND, len(self.before) + real_UT.sum(1) * (1 + len(self.after)))
        return hidden_UND[:, len(self.before) + len(self.after) :: 1 + len(self.after)]

    def last(self, x_UTD: Tensor) -> Tensor:
        """Queries (U, D) of rows of equal length, 1 <= T <= `length`, without padding."""
        return self._hidden(self._interleaved(x_UTD))[:, -1]

    @property
    def written_width(self) -> int:
        """E of `write`: keys and values of all layers."""
        config = self.model.config
        width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        return int(2 * config.num_hidden_layers * config.num_key_value_heads * width)

    def write(self, x_UND: Tensor, places_UN: Tensor, mask: Tensor, past_UPE: Tensor) -> tuple[Tensor, Tensor]:
        """New nodes of a tree, see `SASRec.write`. The prompt has to be the items alone.

        Raises:
            ValueError: a model that attends to a window shorter than `length`.
        """
        config, decoder, known = self.model.config, self.model.get_decoder(), past_UPE.shape[1]
        window = getattr(config, "sliding_window", None)
        if window is not None and window < self.length:
            raise ValueError(f"the language model attends to {window} tokens, but strings of {self.length} are written")
        layers, heads = config.num_hidden_layers, config.num_key_value_heads
        shape = layers, 2, heads, self.written_width // (2 * layers * heads)
        kept_L2UHPd = past_UPE.view(*past_UPE.shape[:2], *shape).permute(2, 3, 0, 4, 1, 5)
        cache: Any = DynamicCache([(key, value) for key, value in kept_L2UHPd])
        kinds = getattr(config, "layer_types", None)
        found = decoder(
            inputs_embeds=x_UND,
            position_ids=places_UN,
            attention_mask=dict.fromkeys(kinds, mask) if kinds else mask,
            use_cache=True,
            **{_cache_argument(decoder): cache},
        )
        new = [torch.stack([layer.keys[:, :, known:], layer.values[:, :, known:]]) for layer in cache.layers]
        return found.last_hidden_state, torch.stack(new).permute(2, 4, 0, 1, 3, 5).flatten(2)

    def merge(self) -> None:
        """Add low-rank updates to the weights that they update: from here on a model like any other."""
        if isinstance(self.model, PeftModel):
            self.model = self.model.merge_and_unload()

    def save(self, folder: Path) -> None:
        """Write the language model, merged, as a plain Hugging Face folder."""
        self.merge()
        save_language_model(folder, self.model, self.tokenizer)

    def restore(self, folder: Path) -> None:
        """Take the weights that `save` wrote; low-rank updates, which they contain, stay and come on top."""
        stored = load_language_model(folder)[0].state_dict()
        base = self.model.get_base_model() if isinstance(self.model, PeftModel) else self.model
        own = {name.replace(".base_layer.", "."): value for name, value in base.named_parameters()}
        with torch.no_grad():
            for name, value in own.items():
                if ".lora_" not in name:
                    value.copy_(stored[name])

    def _interleaved(self, x_UTD: Tensor) -> Tensor:
        """(U, N, D) what the language model reads: the prompt's word embeddings with the items between them."""
        words = self.model.get_input_embeddings()
        before, after = (
            words(ids).to(x_UTD.dtype).expand(*shape, -1, -1)
            for ids, shape in ((self.before, x_UTD.shape[:1]), (self.after, x_UTD.shape[:2]))
        )
        return torch.cat([before, torch.cat([x_UTD[:, :, None], after], 2).flatten(1, 2)], 1)

    def _hidden(self, tokens_UND: Tensor, positions_UN: Tensor | None = None) -> Tensor:
        suit_attention(self.model, tokens_UND.shape[1])
        decoder = self.model.get_decoder()
        found = decoder(inputs_embeds=tokens_UND, position_ids=positions_UN, use_cache=False)
        hidden: Tensor = found.last_hidden_state
        return hidden

    def _packed(self, tokens_UND: Tensor, sizes_U: Tensor) -> Tensor:
        """Like `_hidden`, of the first `sizes_U` tokens of every row; what is behind them is zero."""
        assert self.pack is not None
        start_U, num_rows, width = _places(sizes_U.tolist(), self.pack)
        within_UN = torch.arange(tokens_UND.shape[1], device=tokens_UND.device).expand(tokens_UND.shape[:2])
        real_UN = within_UN < sizes_U[:, None]
        place = (torch.tensor(start_U, device=tokens_UND.device)[:, None] + within_UN)[real_UN]
        packed = tokens_UND.new_zeros(num_rows * width, tokens_UND.shape[2]).index_copy(0, place, tokens_UND[real_UN])
        # positions start anew with every history: that is how transformers tells them apart
        positions = torch.zeros(num_rows * width, dtype=torch.long, device=place.device)
        positions[place] = within_UN[real_UN]
        hidden = self._hidden(packed.view(num_rows, width, -1), positions.view(num_rows, width)).flatten(0, 1)
        return hidden.new_zeros(*tokens_UND.shape).index_put((real_UN,), hidden[place])


def suit_attention(model: Any, width: int) -> None:
    """Let a model compute attention the way that is fastest for rows of `width` tokens in its present mode.

    torch's fused attention for CPUs trains slowly in bf16 where rows are short and heads small: at 154 tokens and heads
    of 12 it was 72 % of an update. transformers' plain one holds all weights, so long rows stay with the fused one.
    """
    plain = model.training and width <= PLAIN_UP_TO and computes_in_bf16() and model.device.type == "cpu"
    wanted = "eager" if plain else "sdpa"
    if model.config._attn_implementation != wanted:
        model.set_attn_implementation(wanted)


def _cache_argument(decoder: nn.Module) -> str:
    """Its name changed in transformers 5.24."""
    return "cache" if "cache" in signature(decoder.forward).parameters else "past_key_values"


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


def _tokens(prompt: str, tokenizer: Tokenizer | None) -> tuple[list[int], list[int]]:
    """Token ids before the first item, and after every item."""
    parts = prompt.split(ITEM)
    if len(parts) != 2:
        raise ValueError(f"the prompt {prompt!r} names {ITEM} {len(parts) - 1} times; allowed: once")
    if tokenizer is None:
        if prompt != ITEM:
            raise ValueError(f"the prompt {prompt!r} has words, and this language model comes without a tokenizer")
        return [], []
    before: list[int] = tokenizer(parts[0])["input_ids"] if parts[0] else []
    after: list[int] = tokenizer(parts[1], add_special_tokens=False)["input_ids"] if parts[1] else []
    return before, after


def _prepared(model: Any, dropout: float, lora_rank: int | None, gradient_checkpointing: bool) -> Any:
    """The model as it is trained."""
    for module in model.modules():
        if hasattr(module, "attention_dropout"):
            module.attention_dropout = dropout
    for words in (model.get_input_embeddings(), model.get_output_embeddings()):
        words.requires_grad_(False)
    with _without_deprecations():
        if gradient_checkpointing:
            model.gradient_checkpointing_enable()
        if lora_rank is None:
            return model
        updates: dict[str, Any] = {"r": lora_rank, "lora_alpha": 2 * lora_rank, "lora_dropout": dropout}
        return get_peft_model(model, LoraConfig(target_modules="all-linear", **updates))


def _places(sizes: list[int], capacity: int) -> tuple[list[int], int, int]:
    """Where every history starts in rows laid end to end, how many rows, and their width: longest first, first fit."""
    width = max(capacity, *sizes)
    starts, used = [0] * len(sizes), list[int]()
    for size, history in sorted(((-size, n) for n, size in enumerate(sizes))):
        row = next((n for n, taken in enumerate(used) if taken - size <= width), len(used))
        if row == len(used):
            used.append(0)
        starts[history] = row * width + used[row]
        used[row] -= size
    return starts, len(used), width


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
def _without_deprecations() -> Iterator[None]:
    """transformers renames what peft and older releases of it call otherwise."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", r"`\w*gradient_checkpointing\w*` is deprecated", FutureWarning)
        yield


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
