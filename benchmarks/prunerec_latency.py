"""What pruning wins on a CPU at the shapes of real language models: time to read a prompt, and per token written.

Weights are random: time does not depend on them. Whole and pruned take turns on one thread; the clock is that of the
processor, so that other processes on the core do not count. Before anything is timed, the pruned model's logits are
compared with those of the masked one.
"""

import json
import time
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from rich.console import Console
from rich.table import Table
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedConfig, PreTrainedModel

from everyitem.compress.cut import cut, largest_difference, parameters
from everyitem.compress.plan import (
    Plan,
    keep_everything,
    sizes_of,
    with_heads,
    with_hidden,
    with_layers,
    with_neurons,
)
from everyitem.compress.rivals import random

SMOLLM2_135M: dict[str, Any] = {
    **{"vocab_size": 49152, "hidden_size": 576, "num_hidden_layers": 30, "num_attention_heads": 9},
    **{"num_key_value_heads": 3, "intermediate_size": 1536, "max_position_embeddings": 8192},
    **{"tie_word_embeddings": True},
}


def main(
    heads: int = 6,
    hidden: int = 288,
    neurons: int = 320,
    layers: int = 8,
    prompt: Annotated[int, typer.Option(help="Tokens that are read.")] = 256,
    repeats: int = 7,
    out: Annotated[Path | None, typer.Option(help="Where to write JSON.")] = None,
) -> None:
    """Time SmolLM2-135M's shape whole and cut to these sizes."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    whole = LlamaForCausalLM(LlamaConfig(**SMOLLM2_135M)).eval()
    plan = plan_of(whole.config, random(whole), heads, hidden, neurons, layers)
    pruned = cut(whole, plan)
    difference = largest_difference(whole, plan, pruned)
    assert difference < 1e-4, difference
    tokens = torch.randint(whole.config.vocab_size, (1, prompt))
    reading, writing = np.empty((repeats, 2)), np.empty((repeats, 2))
    for turn in range(-1, repeats):  # the first turn is not counted
        for place, model in enumerate((whole, pruned)):
            reading[turn, place], writing[turn, place] = seconds(model, tokens)
    record = {
        "shape": "SmolLM2-135M",
        "sizes": sizes_of(pruned.config)._asdict(),
        "share": parameters(pruned.config, sizes_of(pruned.config)) / parameters(whole.config, sizes_of(whole.config)),
        "prompt": prompt,
        "difference_from_masked": difference,
        "reading_ms": [float(ms) for ms in 1e3 * np.median(reading, axis=0)],
        "writing_ms": [float(ms) for ms in 1e3 * np.median(writing, axis=0)],
    }
    show(record)
    if out is not None:
        out.write_text(json.dumps(record, indent=1) + "\n")


def plan_of(config: PreTrainedConfig, scores: Any, heads: int, hidden: int, neurons: int, layers: int) -> Plan:
    """Any plan of these sizes."""
    plan, sizes = keep_everything(config), sizes_of(config)
    plan = with_heads(plan, scores.heads_LH, heads, sizes.key_values, "balanced")
    plan = with_neurons(with_hidden(plan, scores.hidden_D, hidden), scores.neurons_LF, neurons)
    return with_layers(plan, scores.layers_L, sizes.layers - layers)


def seconds(model: PreTrainedModel, tokens: torch.Tensor) -> tuple[float, float]:
    """To read all tokens but the last and say what comes next, and to do the same with one more token."""
    with torch.inference_mode():
        started = time.process_time()
        read = model(tokens[:, :-1], use_cache=True, logits_to_keep=1)
        between = time.process_time()
        name = "cache" if "cache" in read else "past_key_values"
        model(tokens[:, -1:], use_cache=True, logits_to_keep=1, **{name: read[name]})
        return between - started, time.process_time() - between


def show(record: dict[str, Any]) -> None:
    """Print the two times and their ratios."""
    table = Table(title=f"{record['shape']}, {record['share']:.1%} of the parameters outside the embeddings kept")
    for name in ("", "whole ms", "pruned ms", "ratio"):
        table.add_column(name, justify="right" if name else "left")
    for label, name in ((f"read {record['prompt']} tokens", "reading_ms"), ("write one token", "writing_ms")):
        whole, pruned = record[name]
        table.add_row(label, f"{whole:.1f}", f"{pruned:.1f}", f"{whole / pruned:.1f}")
    Console().print(table)


if __name__ == "__main__":
    typer.run(main)
