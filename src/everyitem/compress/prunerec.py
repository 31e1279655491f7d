"""PruneRec (arXiv:2507.07064): measure, cut, restore, three times over; width before depth.

Stage 1 takes heads and hidden dimensions, stage 2 neurons, stage 3 layers; after each the model learns to answer as
the uncut one does, so that the next is measured on a model that works. A stage that is done leaves a folder, and a run
goes on after it. Knows neither logs nor recommendations: text comes as batches, quality from a function.
"""

import json
import shutil
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final, Literal, NamedTuple

import numpy as np
import torch
from transformers import PreTrainedModel

from everyitem.compress import DivergenceName, MethodName, rivals
from everyitem.compress.calibration import Batch, mean_loss
from everyitem.compress.cut import cut, largest_difference, parameters
from everyitem.compress.distil import TextLoss, keep_answers, restore
from everyitem.compress.importance import head_scores, hidden_scores, layer_scores, neuron_scores
from everyitem.compress.plan import (
    KeyValues,
    Plan,
    keep_everything,
    sizes_of,
    with_heads,
    with_hidden,
    with_layers,
    with_neurons,
)
from everyitem.compress.sizes import Keep, kept_sizes
from everyitem.model.llm import load_language_model, save_language_model

Part = Literal["heads", "hidden", "neurons", "layers"]
Stages = Sequence[Sequence[Part]]
WIDTH_TO_DEPTH: Final[Stages] = (("heads", "hidden"), ("neurons",), ("layers",))
AT_ONCE: Final[Stages] = (("heads", "hidden", "neurons", "layers"),)
FIELDS: Final[dict[Part, str]] = {"heads": "heads", "hidden": "hidden", "neurons": "neurons", "layers": "drop_layers"}
TOLERANCE = 1e-4
"""How far a cut model may be from the masked one, relative to the largest logit: float32 sums in another order."""


class Calibration(NamedTuple):
    """The text of a run."""

    measured: Sequence[Batch]
    """Rows that importances and perplexity are computed on."""
    learnt: Sequence[Batch]
    """Rows that a cut model is restored with."""


Quality = Callable[[PreTrainedModel], dict[str, Any]]
"""What to report of a model beside its size, perplexity and latency: recommendation metrics, say."""


def plan_of(
    model: PreTrainedModel,
    batches: Sequence[Batch],
    keep: Keep,
    parts: Sequence[Part] = ("heads", "hidden", "neurons", "layers"),
    *,
    method: MethodName = "prunerec",
    key_values: KeyValues = "balanced",
    alpha: float = 0.7,
    paper: bool = False,
    seed: int = 0,
) -> Plan:
    """What stays of some parts of a model, all of the others.

    Args:
        model: before the cut.
        batches: calibration rows.
        keep: sizes after it.
        parts: which to cut.
        method: "prunerec", or one that it is compared with (`rivals.py`). ShortGPT says which layers go and nothing
            of width, so there "shortgpt" is PruneRec with another choice of layers.
        key_values: what happens to groups of heads, see `Plan`.
        alpha: of `head_scores`.
        paper: the published computations.
        seed: of "random".
    """
    plan, sizes = keep_everything(model.config), sizes_of(model.config)
    found = None
    if method in ("random", "magnitude", "wanda", "taylor"):
        function: Any = getattr(rivals, method)
        found = function(model, batches, **({"seed": seed} if method == "random" else {}))
    for part in parts:
        if part == "heads" and (keep.heads < sizes.heads or key_values == "expand"):
            scores_LH = (
                head_scores(model, batches, keep=keep.heads, key_values=key_values, alpha=alpha, paper=paper)
                if found is None
                else found.heads_LH
            )
            plan = with_heads(plan, scores_LH, keep.heads, sizes.key_values, key_values)
        elif part == "hidden" and keep.hidden < sizes.hidden:
            scores_D = hidden_scores(model, batches, paper=paper) if found is None else found.hidden_D
            plan = with_hidden(plan, scores_D, keep.hidden)
        elif part == "neurons" and keep.neurons < sizes.neurons:
            scores_LF = (
                neuron_scores(model, batches, keep=keep.neurons, paper=paper) if found is None else found.neurons_LF
            )
            plan = with_neurons(plan, scores_LF, keep.neurons)
        elif part == "layers" and keep.drop_layers:
            plan = with_layers(plan, _layers(model, batches, keep, method, found, paper), keep.drop_layers)
    return plan


def _layers(
    model: PreTrainedModel, batches: Sequence[Batch], keep: Keep, method: MethodName, found: Any, paper: bool
) -> Any:
    if method == "shortgpt":
        return rivals.block_influence(model, batches)
    return layer_scores(model, batches, drop=keep.drop_layers, paper=paper) if found is None else found.layers_L


def run(
    teacher: PreTrainedModel,
    out: Path,
    text: Calibration,
    keep: Keep,
    *,
    stages: Stages = WIDTH_TO_DEPTH,
    restore_each: bool = True,
    method: MethodName = "prunerec",
    key_values: KeyValues = "balanced",
    alpha: float = 0.7,
    paper: bool = False,
    divergence: DivergenceName = "forward",
    truth: float = 0.2,
    answers: int | None = None,
    epochs: float = 3.0,
    minutes: float | None = None,
    learning_rate: float = 3e-4,
    quality: Quality | None = None,
    seed: int = 0,
    show: bool = True,
    say: Callable[[str], None] = lambda _: None,
) -> dict[str, Any]:
    """Prune a causal language model in stages and write it to `out`, a plain checkpoint with `prunerec.json` beside it.

    Args:
        teacher: the model before any cut, which is also what every stage learns from.
        out: folder; `stages/` in it holds a folder per stage, of which only a run that goes on needs anything.
        text: rows to measure with and to learn from.
        keep: sizes in the end.
        stages: which parts go together. `AT_ONCE` is the comparison of the paper.
        restore_each: after every stage, or after the last alone, then as long as all of them.
        method: how importances are computed, see `plan_of`.
        key_values: what happens to groups of heads, see `Plan`.
        alpha: of `head_scores`.
        paper: the published computations of importance.
        divergence: from the teacher, see `distil.divergence`.
        truth: weight of what really came next beside the teacher.
        answers: ask the teacher once about `text.learnt` and keep so many of its likeliest tokens on disk; None: it is
            asked each time.
        epochs: passes over `text.learnt` per restoration, at most.
        minutes: of a restoration, at most.
        learning_rate: of a restoration.
        quality: more to report of a model.
        seed: of everything random.
        show: progress bars.
        say: told what is being done.

    Returns:
        The report: {"before": .., "stages": [{"parts": .., "cut": .., "restored": ..}, ..], "after": ..}.

    Raises:
        ValueError: sizes that the model cannot have, or `out` is of a run with other settings; nothing was written.
        RuntimeError: a cut model does not compute what the masked one does.
    """
    given = {name: value for name, value in locals().items() if name not in _NOT_SETTINGS}
    sizes = kept_sizes(teacher.config, keep, key_values)
    folder = out / "stages"
    _keep_settings(folder, given | {"sizes": sizes, "teacher": sizes_of(teacher.config), "batches": _shape(text)})
    asked: PreTrainedModel | Path = teacher
    if answers is not None:
        say("asking the uncut model")
        asked = folder / "answers"
        keep_answers(teacher, text.learnt, asked, k=answers)
    say("measuring the uncut model")
    before = _remembered(folder / "before.json", lambda: measure(teacher, text.measured, quality))
    how: dict[str, Any] = {"method": method, "key_values": key_values, "alpha": alpha, "paper": paper, "seed": seed}
    learning: dict[str, Any] = {
        "epochs": epochs,
        "minutes": minutes,
        "learning_rate": learning_rate,
        "seed": seed,
        "show": show,
    }
    model, reports = teacher, []
    for number, parts in enumerate(stages):
        stage = folder / f"{number + 1}-{'-'.join(parts)}"
        if not (stage / "report.json").is_file():
            say(f"{stage.name}: measuring what stays")
            smaller, report = _cut_stage(model, stage, partial(plan_of, model, text.measured, keep, parts, **how))
            report |= {"parts": list(parts), "cut": measure(smaller, text.measured, quality)}
            times = 1 if restore_each else len(stages) * (number == len(stages) - 1)
            if times:
                say(f"{stage.name}: restoring")
                loss = TextLoss(smaller, text.learnt, asked, kind=divergence, truth=truth)
                report |= _restore_stage(smaller, loss, stage / "restoration", times, learning)
                report["restored"] = measure(smaller, text.measured, quality)
            _finish_stage(stage, smaller, report)
        model, _ = load_language_model(stage / "model")
        reports.append(json.loads((stage / "report.json").read_text()))
    document = {"before": before, "stages": reports, "after": reports[-1].get("restored", reports[-1]["cut"])}
    document["settings"] = json.loads((folder / "settings.json").read_text())
    _publish(model, out, document)
    return document


_NOT_SETTINGS = ("teacher", "out", "text", "quality", "show", "say")


def measure(model: PreTrainedModel, batches: Sequence[Batch], quality: Quality | None = None) -> dict[str, Any]:
    """Parameters, bytes in float32, perplexity of the tokens asked for, milliseconds to read a row, and `quality`."""
    sizes = sizes_of(model.config)
    model.train(False)
    return {
        "sizes": sizes._asdict(),
        "parameters": parameters(model.config, sizes, embeddings=True),
        "parameters_without_embeddings": parameters(model.config, sizes),
        "bytes": 4 * parameters(model.config, sizes, embeddings=True),
        "perplexity": float(np.exp(mean_loss(model, batches))),
        "prefill_ms": latency_ms(model, batches[0]),
        **({} if quality is None else quality(model)),
    }


def latency_ms(model: PreTrainedModel, batch: Batch, *, repeats: int = 15) -> dict[str, float]:
    """Median and p95 milliseconds to read the longest row of a batch, alone, and say what comes next."""
    lengths_U = batch.real_UT.sum(1)
    row = int(lengths_U.argmax())
    tokens = batch.ids_UT[row : row + 1, : int(lengths_U[row])].to(model.device)
    times = []
    with torch.inference_mode():
        for _ in range(repeats + 2):
            started = time.perf_counter()
            model(tokens, use_cache=False, logits_to_keep=1).logits.cpu()
            times.append(1e3 * (time.perf_counter() - started))
    return {"median": float(np.median(times[2:])), "p95": float(np.quantile(times[2:], 0.95))}


def _cut_stage(
    model: PreTrainedModel, folder: Path, make_plan: Callable[[], Plan]
) -> tuple[PreTrainedModel, dict[str, Any]]:
    """The cut model of a stage; its plan is measured once, and cut again when an interrupted run goes on."""
    folder.mkdir(parents=True, exist_ok=True)
    plan = Plan.from_json(_remembered(folder / "plan.json", lambda: make_plan().to_json()))
    smaller = cut(model, plan)
    difference = largest_difference(model, plan, smaller)
    if difference > TOLERANCE:
        raise RuntimeError(f"the cut model is {difference:.1e} away from the masked one; allowed {TOLERANCE:.0e}")
    return smaller, {"difference_from_masked": difference}


def _restore_stage(
    model: PreTrainedModel, loss: TextLoss, folder: Path, times: int, learning: dict[str, Any]
) -> dict[str, Any]:
    """Restore as long as `times` restorations; how far it came."""
    minutes = learning["minutes"]
    longer = {"epochs": learning["epochs"] * times, "minutes": None if minutes is None else minutes * times}
    state = restore(model, loss, len(loss.batches), folder, **(learning | longer))
    return {"updates": state.update, "seconds": state.seconds}


def _finish_stage(folder: Path, model: PreTrainedModel, report: dict[str, Any]) -> None:
    save_language_model(folder / "model", model, None)
    _write(folder / "report.json", report)
    shutil.rmtree(folder / "restoration", ignore_errors=True)


def _publish(model: PreTrainedModel, out: Path, document: dict[str, Any]) -> None:
    """The last stage's model as the result, read back and compared."""
    save_language_model(out, model, None)
    tokens = torch.arange(min(16, model.config.vocab_size), device=model.device)[None]
    again, _ = load_language_model(out)
    again.to(device=model.device)  # type: ignore[call-arg]
    with torch.inference_mode():
        if not torch.equal(again(tokens).logits, model(tokens).logits):
            raise RuntimeError(f"{out}: what was written does not give the logits of what was pruned")
    _write(out / "prunerec.json", document)


def _shape(text: Calibration) -> dict[str, Any]:
    return {
        name: [len(batches), sum(int(batch.real_UT.sum()) for batch in batches)]
        for name, batches in text._asdict().items()
    }


def _keep_settings(folder: Path, settings: dict[str, Any]) -> None:
    path, plain = folder / "settings.json", json.loads(json.dumps(settings))
    if path.is_file() and (before := json.loads(path.read_text())) != plain:
        changed = sorted(name for name in plain if before.get(name) != plain[name])
        was = ", ".join(f"{name}={before.get(name)}" for name in changed)
        raise ValueError(f"{folder.parent}: of a run with {was}; give the same, or another folder")
    folder.mkdir(parents=True, exist_ok=True)
    _write(path, plain)


def _remembered(path: Path, compute: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    if not path.is_file():
        _write(path, compute())
    document: dict[str, Any] = json.loads(path.read_text())
    return document


def _write(path: Path, document: dict[str, Any]) -> None:
    temporary = path.with_suffix(".new")
    temporary.write_text(json.dumps(document, indent=1) + "\n")
    temporary.replace(path)


def dry_run(model: PreTrainedModel, keep: Keep, stages: Stages, key_values: KeyValues) -> list[dict[str, Any]]:
    """Sizes and parameters before and after every stage, without computing anything.

    Raises:
        ValueError: sizes that the model cannot have.
    """
    config, now = model.config, sizes_of(model.config)
    kept_sizes(config, keep, key_values)
    so_far = Keep(now.heads, now.hidden, now.neurons, 0)
    kind: KeyValues = "balanced"
    lines = [_line("uncut", config, so_far, kind)]
    for parts in stages:
        changed = {FIELDS[part]: getattr(keep, FIELDS[part]) for part in parts}
        so_far, kind = so_far._replace(**changed), key_values if "heads" in parts else kind
        lines.append(_line(" and ".join(parts), config, so_far, kind))
    return lines


def _line(name: str, config: Any, keep: Keep, key_values: KeyValues) -> dict[str, Any]:
    sizes = kept_sizes(config, keep, key_values)
    return {
        "stage": name,
        **sizes._asdict(),
        "parameters": parameters(config, sizes, embeddings=True),
        "parameters_without_embeddings": parameters(config, sizes),
    }
