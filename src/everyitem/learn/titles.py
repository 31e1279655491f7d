"""How well a language model recommends by writing titles: beam search over the titles of the catalogue.

After BIGRec (arXiv:2308.08434) and D3 (arXiv:2406.14900): only titles that exist can be written, an item's score is the
log-probability of its title, and its length is not penalised.
"""

import json
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import polars as pl

from everyitem.compress.plan import sizes_of
from everyitem.compress.vocabulary import LanguageModel, TextTokenizer
from everyitem.data.interactions import Log, read_log
from everyitem.data.splits import Holdout, split_log
from everyitem.data.text import prompt_row, title_tokens
from everyitem.evaluate.heldout import BASELINES, sample
from everyitem.evaluate.measures import interval, ndcg, ranks_of, recall
from everyitem.evaluate.run import Evaluation, evaluate, time_stages
from everyitem.index.beam import BeamIndex
from everyitem.model.llm import load_language_model
from everyitem.model.written import WrittenPrompts, filled_titles
from everyitem.types import Histories, TopK

K = 20
TIMED = 10
TITLE = "title"
END = "\n"
"""The text whose token ends a title."""
TEXT_SETTINGS = ("length", "title_tokens", "prompt", "seed")
"""Settings of `prune` that say what text a model reads; `titles.json` keeps them beside it."""


class Text(NamedTuple):
    """A catalogue in the tokens of a model."""

    titles: Histories
    """The tokens of every item's title."""
    start: list[int]
    """The tokens that every row begins with."""


def load_text_model(source: Path) -> tuple[LanguageModel, TextTokenizer]:
    """A language model that can be pruned, and its tokenizer.

    Raises:
        FileNotFoundError: no such folder or file.
        ValueError: it holds no model that can be pruned, or no tokenizer.
    """
    model, tokenizer = load_language_model(source)
    sizes_of(model.config)
    if not isinstance(tokenizer, TextTokenizer):
        raise ValueError(f"{source}: has no tokenizer of the fast kind (tokenizer.json), which titles need; add one")
    return model, tokenizer


def text_of(log: Log, tokenizer: TextTokenizer, settings: dict[str, Any]) -> Text:
    """The log's titles as tokens; an item without a title is written as its id.

    Raises:
        ValueError: the items have no column of titles.
    """
    if TITLE not in log.items.columns:
        raise ValueError(f"the items have the columns {log.items.columns}, and no {TITLE}; add one to items.parquet")
    named = pl.col(TITLE).cast(pl.String).str.strip_chars()
    titles = log.items.select(pl.when(named != "").then(named).otherwise(pl.col("item_id").cast(pl.String)))
    encode = encoder_of(tokenizer)
    (end,) = encode([END])[0][-1:]
    longest = settings["title_tokens"]
    start = encode([settings["prompt"]])[0] if settings["prompt"] else []
    return Text(title_tokens(titles.to_series().to_list(), encode, end=end, longest=longest), start or [end])


def encoder_of(tokenizer: TextTokenizer) -> Callable[[list[str]], list[list[int]]]:
    """Texts to tokens, without special ones."""

    def encode(texts: list[str]) -> list[list[int]]:
        rows: list[list[int]] = tokenizer(texts, add_special_tokens=False)["input_ids"]
        return rows

    return encode


def keep_text_settings(folder: Path, settings: dict[str, Any]) -> None:
    """Write which text a model reads, for its evaluation."""
    (folder / "titles.json").write_text(json.dumps({name: settings[name] for name in TEXT_SETTINGS}) + "\n")


def load_titles(folder: Path, log: Log) -> tuple[LanguageModel, Text, dict[str, Any]]:
    """A language model that recommends by title, the log's titles in its tokens, and what its `titles.json` says.

    Raises:
        FileNotFoundError, ValueError: as `load_text_model` and `text_of`.
    """
    told = json.loads((folder / "titles.json").read_text())
    model, tokenizer = load_text_model(folder)
    return model, text_of(log, tokenizer, told), told


class TitleRanker:
    """A language model as a recommender.

    Args:
        model: a causal language model of the Hugging Face kind.
        titles: the tokens of every item's title.
        start: tokens that begin every row.
        length: tokens of a row, at most, the title that is written included.
        beam: titles that are written side by side.
    """

    def __init__(self, model: Any, titles: Histories, start: list[int], *, length: int, beam: int = K) -> None:
        self.model, self.titles, self.start = model, titles, start
        self.end, self.longest = int(titles[0][-1]), int(titles.lengths.max())
        if length <= self.longest + len(start):
            raise ValueError(
                f"length is {length}, but start and a title take {self.longest + len(start)} tokens; allow more"
            )
        self.length = length
        self.index = BeamIndex(filled_titles(titles, model.config.vocab_size), width=beam)

    def prompts(self, histories: Histories) -> WrittenPrompts:
        """The newest titles of every history, as many as fit."""
        room = self.length - self.longest
        rows = [prompt_row(self.titles, history, self.start, room) for history in histories]
        return WrittenPrompts(self.model, rows, end=self.end, longest=self.longest)

    def rank(self, histories: Histories, k: int, *, exclude_seen: bool = False) -> TopK:
        """The k best items for every history; with `exclude_seen` none that the history holds."""
        exclude = histories.padded("left") if exclude_seen else None
        return self.index.top_k(self.prompts(histories), k, exclude=exclude)


def quality(ranker: TitleRanker, holdout: Holdout) -> dict[str, Any]:
    """HR@20 and NDCG@20 with 95 % intervals over users, and milliseconds per recommendation of one user at a time."""
    ranker.model.train(False)
    ranks_U = ranks_of(ranker.rank(holdout.histories, K).items, holdout.targets)
    times = []
    for user in range(min(TIMED, len(ranks_U))):
        started = time.perf_counter()
        ranker.rank(holdout.histories.select(np.array([user])), K)
        times.append(1e3 * (time.perf_counter() - started))
    return {
        f"hr@{K}": interval(recall(ranks_U, K))._asdict(),
        f"ndcg@{K}": interval(ndcg(ranks_U, K))._asdict(),
        "users": len(ranks_U),
        "recommend_ms": {"median": float(np.median(times)), "p95": float(np.quantile(times, 0.95))},
    }


def evaluate_title_models(
    models: list[Path],
    log_path: Path,
    *,
    baselines: bool = False,
    exclude_seen: bool = False,
    max_users: int | None = None,
    time_users: int = 500,
    console: Any = None,
) -> dict[str, Evaluation]:
    """`evaluate.heldout.evaluate_models` for language models that recommend by title: folders with `titles.json`.

    The first 20 places are ranked, by a beam of 20: a user takes tenths of a second.

    Raises:
        ValueError: the models were made with different splits.
    """
    log = read_log(log_path)
    settings = {str(folder): json.loads((folder / "titles.json").read_text()) for folder in models}
    if len({one["seed"] for one in settings.values()}) > 1:
        raise ValueError("the models were made with different splits, so their test users differ")
    split = split_log(log, "leave-one-out", seed=settings[str(models[0])]["seed"])
    questions = sample(split.test, max_users)
    rankers: dict[str, Any] = {}
    for name in settings:
        model, text, told = load_titles(Path(name), log)
        rankers[name] = TitleRanker(model, text.titles, text.start, length=told["length"])
    if baselines:
        rankers |= {name: build(split.train.histories, log.num_items) for name, build in BASELINES.items()}
    asked: dict[str, Any] = {"num_items": log.num_items, "ks": (1, 5, 10, K), "exclude_seen": exclude_seen}
    results = {}
    for name, ranker in rankers.items():
        if console is not None:
            console.print(f"{name}: {len(questions.rows):,} users", markup=False, soft_wrap=True)
        results[name] = evaluate(ranker, questions.histories, questions.targets, **asked)
        if isinstance(ranker, TitleRanker) and time_users:
            timing = time_stages(
                ranker.prompts, ranker.index.top_k, questions.histories, num_users=time_users, warm_up=2
            )
            results[name] = replace(results[name], timing=timing)
    return results
