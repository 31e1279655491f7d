"""Leaves out the tokens that a catalogue does not need: a small model is mostly embeddings otherwise.

For tokenizers of the byte-pair kind, as `tokenizers` stores them. Kept are the tokens that some text needs, whatever
those are merged from, all tokens of one symbol (so that any other text can still be written, in smaller pieces) and the
special ones. The texts that were given become the same tokens as before, under new numbers.
"""

import json
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import numpy as np
from tokenizers import Tokenizer
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from everyitem.compress.cut import cut
from everyitem.compress.plan import Positions, keep_everything

LanguageModel = PreTrainedModel
TextTokenizer = PreTrainedTokenizerFast


def trim(
    model: PreTrainedModel, tokenizer: TextTokenizer, used: Iterable[int]
) -> tuple[PreTrainedModel, TextTokenizer]:
    """Model and tokenizer with the tokens used, those they are merged from, single symbols and special ones."""
    named = (getattr(model.config, f"{name}_token_id", None) for name in ("pad", "bos", "eos"))
    special = {token for one in named if one is not None for token in (one if isinstance(one, list) else [one])}
    kept = tokens_needed(tokenizer.backend_tokenizer, used, special)
    kept = kept[kept < model.config.vocab_size]
    smaller = trimmed(tokenizer.backend_tokenizer, kept)
    names: dict[str, Any] = tokenizer.special_tokens_map
    plan = replace(keep_everything(model.config), vocabulary_V=kept)
    return cut(model, plan), TextTokenizer(tokenizer_object=smaller, **names)  # type: ignore[no-untyped-call]


def tokens_needed(tokenizer: Tokenizer, used: Iterable[int], special: Iterable[int] = ()) -> Positions:
    """Ascending tokens to keep: those used, what they are merged from, single symbols and special ones.

    Raises:
        ValueError: not a byte-pair tokenizer.
    """
    model = _bpe(json.loads(tokenizer.to_str()))
    vocabulary: dict[str, int] = model["vocab"]
    text_of = {number: text for text, number in vocabulary.items()}
    parts: dict[str, list[str]] = {}
    for left, right in map(_pair, model["merges"]):
        parts.setdefault(left + right, []).extend((left, right))
    kept, waiting = set(special) | set(_added(tokenizer)), [text_of[token] for token in used if token in text_of]
    kept |= {token for token in used if token not in text_of}
    kept |= {number for text, number in vocabulary.items() if text not in parts}
    while waiting:
        text = waiting.pop()
        if vocabulary[text] not in kept:
            kept.add(vocabulary[text])
            waiting += parts.get(text, [])
    return np.array(sorted(kept), np.int64)


def trimmed(tokenizer: Tokenizer, kept: Positions) -> Tokenizer:
    """The tokenizer with those tokens alone, numbered by their place in `kept`."""
    document = json.loads(tokenizer.to_str())
    model, number = _bpe(document), {int(token): place for place, token in enumerate(kept)}
    model["vocab"] = {text: number[token] for text, token in model["vocab"].items() if token in number}
    known = model["vocab"]
    model["merges"] = [
        merge for merge in model["merges"] if all(part in known for part in (*_pair(merge), "".join(_pair(merge))))
    ]
    document["added_tokens"] = [
        token | {"id": number[token["id"]]} for token in document["added_tokens"] if token["id"] in number
    ]  # a tokenizer may add tokens that the model has no row for
    _renumber(document.get("post_processor"), number)
    return Tokenizer.from_str(json.dumps(document))


def _bpe(document: dict[str, Any]) -> dict[str, Any]:
    model: dict[str, Any] = document["model"]
    if model["type"] != "BPE":
        raise ValueError(f"the vocabulary of a {model['type']} tokenizer cannot be trimmed; only byte-pair ones can")
    return model


def _pair(merge: str | list[str]) -> tuple[str, str]:
    left, right = merge.split(" ") if isinstance(merge, str) else merge
    return left, right


def _added(tokenizer: Tokenizer) -> list[int]:
    return list(tokenizer.get_added_tokens_decoder())


def _renumber(part: Any, number: dict[int, int]) -> None:
    """Token numbers in the templates of a post-processor, wherever they stand."""
    if isinstance(part, dict):
        if isinstance(part.get("ids"), list):
            part["ids"] = [number[token] for token in part["ids"]]
        for name in ("sep", "cls"):
            if isinstance(part.get(name), list) and len(part[name]) == 2 and isinstance(part[name][1], int):
                part[name][1] = number[part[name][1]]
        for value in part.values():
            _renumber(value, number)
    elif isinstance(part, list):
        for value in part:
            _renumber(value, number)
