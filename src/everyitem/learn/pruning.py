"""Prunes a language model on a log's titles: text, sizes, the recipe. `prune` has checked the settings."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from everyitem.compress.calibration import Batch, batch_of
from everyitem.compress.plan import KeyValues, sizes_of
from everyitem.compress.prunerec import AT_ONCE, WIDTH_TO_DEPTH, Calibration, dry_run, run
from everyitem.compress.sizes import Curves, Keep, measure_curves, sizes_within
from everyitem.compress.vocabulary import LanguageModel, trim
from everyitem.data.interactions import Log
from everyitem.data.splits import split_log
from everyitem.data.text import like_lengths, training_rows
from everyitem.evaluate.heldout import sample
from everyitem.learn.titles import Text, TitleRanker, keep_text_settings, load_text_model, quality, text_of
from everyitem.types import Histories

Settings = dict[str, Any]


def prune_text_model(
    model: Path, out: Path, log: Log, settings: Settings, *, threads: int | None, show: bool
) -> dict[str, Any]:
    """Do what `prune` promises, with its keyword arguments in `settings`."""
    if threads:
        torch.set_num_threads(threads)
    teacher, tokenizer = load_text_model(model)
    stages = AT_ONCE if settings["at_once"] else WIDTH_TO_DEPTH
    named = settings["target_parameters"] is None
    if named:  # before anything is read: the model may not have such sizes
        keep, kind = _named_sizes(teacher, settings)
        lines = dry_run(teacher, keep, stages, kind)
        if settings["dry_run"]:
            return {"stages": lines}
    text = text_of(log, tokenizer, settings)
    if settings["trim_vocabulary"]:
        used = {int(token) for token in np.unique(text.titles.events())} | set(text.start)
        teacher, tokenizer = trim(teacher, tokenizer, used)
        text = text_of(log, tokenizer, settings)
    batches = Calibration(*batches_of(log, text, settings))
    if not named:
        keep, kind = _adaptive_sizes(teacher, out, batches, settings)
        if settings["dry_run"]:
            return {"stages": dry_run(teacher, keep, stages, kind)}
    report = run(
        teacher,
        out,
        batches,
        keep,
        stages=stages,
        restore_each=not settings["restore_last_only"],
        key_values=kind,
        answers=settings["answers"],
        quality=_quality(log, text, settings) if settings["users"] else None,
        show=show,
        say=print if show else lambda _: None,
        **{name: settings[name] for name in _HANDED_ON},
    )
    tokenizer.save_pretrained(out)
    keep_text_settings(out, settings)
    return report


_MEASURED_ON = ("calibration", "batch_tokens", "length", "title_tokens", "prompt", "trim_vocabulary", "seed")
_HANDED_ON = ("method", "alpha", "paper", "divergence", "truth", "epochs", "minutes", "learning_rate", "seed")


def _quality(log: Log, text: Text, settings: Settings) -> Callable[[LanguageModel], dict[str, Any]]:
    test = split_log(log, "leave-one-out", seed=settings["seed"]).test
    holdout = sample(test, settings["users"], seed=settings["seed"])
    sizes = {"length": settings["length"], "beam": settings["beam"]}
    return lambda model: quality(TitleRanker(model, text.titles, text.start, **sizes), holdout)


def batches_of(log: Log, text: Text, settings: Settings) -> tuple[list[Batch], list[Batch]]:
    """Rows to measure with and rows to learn from, of different users, in batches of like length."""
    histories = split_log(log, "leave-one-out", seed=settings["seed"]).train.histories
    users = np.random.default_rng([settings["seed"], 7]).permutation(len(histories))
    users = users[histories.lengths[users] >= 2]
    measured, learnt = users[: settings["calibration"]], users[settings["calibration"] :]
    if not len(measured) or not len(learnt):
        raise ValueError(
            f"{len(users)} users have two training events or more, and calibration takes {settings['calibration']} of "
            "them; give a longer log or a smaller calibration"
        )
    learnt = learnt[: settings["histories"]]
    return tuple(_batched(text, histories.select(rows), settings) for rows in (measured, learnt))  # type: ignore[return-value]


def _batched(text: Text, histories: Histories, settings: Settings) -> list[Batch]:
    rows = list(training_rows(text.titles, histories, text.start, settings["length"]))
    lengths = np.array([len(tokens) for tokens, _ in rows])
    groups = like_lengths(lengths, settings["batch_tokens"], settings["seed"])
    return [batch_of([rows[row] for row in group], padding=text.start[0]) for group in groups]


def _named_sizes(model: LanguageModel, settings: Settings) -> tuple[Keep, KeyValues]:
    sizes = sizes_of(model.config)
    keep = Keep(
        settings["keep_heads"] or sizes.heads,
        settings["keep_hidden"] or sizes.hidden,
        settings["keep_mlp"] or sizes.neurons,
        settings["drop_layers"],
    )
    kind: KeyValues = "expand" if keep.heads % sizes.key_values else "balanced"
    return keep, settings["key_values"] or kind


def _adaptive_sizes(
    model: LanguageModel, out: Path, batches: Calibration, settings: Settings
) -> tuple[Keep, KeyValues]:
    """Sizes from measured curves, which are kept for a run that goes on."""
    kind: KeyValues = settings["key_values"] or "balanced"
    about = {name: settings[name] for name in _MEASURED_ON} | {"key_values": kind, "sizes": sizes_of(model.config)}
    about = json.loads(json.dumps(about))
    path = out / "stages" / "curves.json"
    stored = json.loads(path.read_text()) if path.is_file() else {}
    if stored.get("about") == about:
        curves = Curves(*({int(keep): loss for keep, loss in stored[name].items()} for name in Curves._fields))
    else:
        curves = measure_curves(model, batches.measured, key_values=kind)
        if not settings["dry_run"]:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps(curves._asdict() | {"about": about}))
    return sizes_within(model.config, curves, settings["target_parameters"], key_values=kind), kind
