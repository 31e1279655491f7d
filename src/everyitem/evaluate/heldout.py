"""Evaluates model folders on the users of a log that they were not trained on.

Repeats the split that the model's own metadata states, so that nobody has to remember which events were held out.
"""

from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import Progress

from everyitem.data.interactions import Log, read_log
from everyitem.data.splits import Holdout, Split, split_log
from everyitem.evaluate.baselines import ItemKNN, Markov, Popularity, RepeatLast
from everyitem.evaluate.resident import resident_mb
from everyitem.evaluate.run import Evaluation, evaluate, time_stages
from everyitem.recommender import EVENTS, Recommender, load
from everyitem.types import Floats, Histories, Ranker, TopK

BASELINES: Mapping[str, Callable[[Histories, int], Ranker]] = {
    "popularity": Popularity,
    "repeat last": RepeatLast,
    "Markov": Markov,
    "ItemKNN": ItemKNN,
}


def split_for(recommender: Recommender, log: Log) -> Split:
    """The log as the model saw it: its own split, in the model's positions (-1: an item it does not have).

    Raises:
        ValueError: the model does not say how it was split, or the log has other events than the one it was trained on.
    """
    protocol = recommender.metadata.get("protocol")
    if protocol is None:
        raise ValueError(
            "this model does not state its split (recommender.json: protocol), so it cannot be evaluated fairly"
        )
    split = split_log(log, protocol["split"], seed=protocol["seed"])
    sizes = {"train_events": split.train.num_events, "test_users": len(split.test.rows)}
    if any(protocol[name] != size for name, size in sizes.items()):
        told = ", ".join(f"{name} {protocol[name]:,} then and {size:,} now" for name, size in sizes.items())
        raise ValueError(f"this is not the log that the model was trained on ({told}); give that one, or train anew")
    position_of = recommender.positions_in(log.items["item_id"])
    if np.array_equal(position_of, np.arange(log.num_items)):
        return split
    return Split(*(_translated(part, position_of) for part in split))


def _translated(part: Any, position_of: Any) -> Any:
    histories: Histories = part.histories.translate(position_of)
    if isinstance(part, Log):
        return part.with_histories(histories)
    return part._replace(histories=histories, targets=position_of[part.targets])


def sample(questions: Holdout, max_users: int | None, *, seed: int = 0) -> Holdout:
    """At most so many of the questions, at random."""
    if max_users is None or len(questions.rows) <= max_users:
        return questions
    rows = np.sort(np.random.default_rng(seed).permutation(len(questions.rows))[:max_users])
    return Holdout(questions.rows[rows], questions.histories.select(rows), questions.targets[rows])


def evaluate_models(
    models: list[Path],
    log_path: Path,
    *,
    baselines: bool = False,
    exclude_seen: bool = False,
    max_users: int | None = None,
    time_users: int = 500,
    console: Console | None = None,
) -> dict[str, Evaluation]:
    """Evaluate models, and on request baselines fitted on the same training events, on the same test users.

    Args:
        models: model folders; the first one's split decides.
        log_path: the log they were trained on.
        baselines: add popularity, repeat-last, Markov and ItemKNN.
        exclude_seen: rank only items that the history does not hold.
        max_users: a random sample of the test users.
        time_users: users timed one by one, on one thread; with 0 neither time nor resident memory is measured.
        console: shows progress.

    Returns:
        Evaluations by name (folder, or baseline), in that order.

    Raises:
        ValueError: the models were trained with different splits, or have different catalogues.
    """
    log = read_log(log_path)
    recommenders = {str(path): load(path) for path in models}
    first = next(iter(recommenders.values()))
    if any(other.metadata.get("protocol") != first.metadata.get("protocol") for other in recommenders.values()):
        raise ValueError(
            "the models were trained with different splits or seeds, so their test users differ; train one of them anew"
        )
    if any(not other.items["item_id"].equals(first.items["item_id"]) for other in recommenders.values()):
        raise ValueError(
            "the models have different catalogues, so their ranks do not compare; evaluate them one by one"
        )
    split = split_for(first, log)
    questions = sample(split.test, max_users)
    rankers: dict[str, Ranker] = dict(recommenders)
    if baselines:
        rankers |= {name: build(split.train.histories, first.index.num_items) for name, build in BASELINES.items()}
    popularity = first.items[EVENTS].to_numpy()
    results = {}
    with Progress(console=console, transient=True) if console else nullcontext() as bar:
        for name, ranker in rankers.items():
            advance = partial(_advance, bar, bar.add_task(name, total=len(questions.rows))) if bar else None
            evaluation = evaluate(
                ranker,
                questions.histories,
                questions.targets,
                num_items=first.index.num_items,
                exclude_seen=exclude_seen,
                popularity=popularity,
                progress=advance,
            )
            if isinstance(ranker, Recommender) and time_users:
                asked = questions.histories.select(np.flatnonzero(questions.histories.lengths > 0))
                timing = time_stages(*_stages(ranker), asked, num_users=time_users)
                evaluation = replace(evaluation, timing=timing, resident=resident_mb(Path(name)))
            results[name] = evaluation
    return results


def _stages(recommender: Recommender) -> tuple[Callable[[Histories], Any], Callable[[Any, int], TopK]]:
    """Encoder and scoring; what a memory looks up in the history belongs to scoring."""

    def encode(histories: Histories) -> tuple[Floats, Histories]:
        return recommender.encode(histories), histories

    def top_k(asked: tuple[Floats, Histories], k: int) -> TopK:
        return recommender.best(*asked, k, threads=1)

    return encode, top_k


def _advance(bar: Progress, task: Any, done: int, total: int) -> None:
    bar.update(task, completed=done, total=total)
