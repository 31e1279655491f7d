"""The signature of training: every setting, its default and its meaning, and which of them fit each other.

The command line reads it, so nothing heavy is imported until a training starts (`run.py`).
"""

from inspect import signature
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from everyitem.compress import ClustersName, CodesName, QuantiserName
from everyitem.data import SplitName

if TYPE_CHECKING:
    from everyitem.data.interactions import Log
    from everyitem.recommender import Recommender

BackboneName = Literal["sasrec", "esasrec", "gbert4rec", "llm"]
ItemsName = Literal["pq", "dense", "two-level", "semantic-ids"]
LossName = Literal["softmax", "gbce", "bce", "full-softmax", "split-softmax"]

LARGEST_DENSE_START = 200_000
"""Items up to which a dense model is trained first and items get 32 bytes; docs/log.md has the reasons."""
_NOT_SETTINGS = ("log", "folder", "resume", "show", "threads", "small", "written")
"""Locals of `fit` that are no settings of the result."""
_SIZES = ("num_splits", "dim", "blocks", "num_negatives", "batch_positions", "lora_rank", "pack", "beam")
_OF_LANGUAGE_MODELS = ("language_model", "prompt", "lora_rank", "pack", "gradient_checkpointing")
_CODES: dict[str, tuple[CodesName, ...]] = {
    "semantic-ids": ("dense", "kmeans", "text", "given"),
    "pq": ("dense", "hybrid", "kmeans", "svd-rank", "svd", "bpr", "random"),
}
"""Which codes each kind of items can have."""
_COLUMNS = {"text": "title", "given": "sid"}
"""Column of the items that such codes are made of."""
_COUNTS = ("epochs", "patience", "validate_every", "threads")


def fit(
    log: "Log",
    folder: str | Path,
    *,
    backbone: BackboneName = "sasrec",
    items: ItemsName = "pq",
    loss: LossName = "softmax",
    concentration: float = 0.0,
    codes: CodesName | None = None,
    num_splits: int | None = None,
    num_sub_items: int = 256,
    clusters: ClustersName = "kmeans",
    num_clusters: int | None = None,
    logit_cap: float | None = None,
    quantiser: QuantiserName = "residual-kmeans",
    beam: int = 20,
    warm_start: bool = True,
    memory: int | None = None,
    dim: int = 64,
    blocks: int = 2,
    length: int = 50,
    dropout: float = 0.2,
    language_model: str | None = None,
    prompt: str = "{item}",
    lora_rank: int | None = None,
    pack: int | None = None,
    gradient_checkpointing: bool = False,
    num_negatives: int = 2048,
    learning_rate: float = 1e-3,
    batch_positions: int = 1600,
    epochs: int = 1000,
    minutes: float | None = None,
    patience: int = 5,
    validate_every: int | None = None,
    split: SplitName = "leave-one-out",
    seed: int = 0,
    threads: int | None = None,
    resume: bool = False,
    show: bool = True,
) -> "Recommender":
    """Train a recommender on a log and write its folder; afterwards it serves without torch.

    SASRec with `loss="gbce"` is gSASRec; `items="pq"` makes any of them a RecJPQ model. The folder also holds
    `training/` (checkpoints, codes, log.jsonl, TensorBoard), which only `resume` needs.

    Args:
        log: from `read_log`.
        folder: model folder; created.
        backbone: "sasrec" (causal), "esasrec" (causal; gated blocks, relative positions), "gbert4rec" (masked,
            bidirectional) or "llm" (a causal language model in which an item is one position).
        items: "pq" (shared sub-items, frozen byte codes), "dense" (a vector per item), "two-level" (the same, and
            clusters: first which cluster, then which item of it), or "semantic-ids" (a string of tokens per item, which
            the model writes one by one, found by beam search).
        loss: "softmax" (sampled; of two-level items their own, which needs no sample), "gbce", "bce", "full-softmax"
            (chunked), or "split-softmax" (RPG: every split predicts its sub-item by itself). Tokens of semantic ids are
            few, so theirs is always the full softmax.
        concentration: weight of "split-softmax" beside the loss. Scores concentrate on few sub-items, so that searches
            look at fewer items; docs/results.md has what it costs.
        codes: how PQ codes are assigned. "dense" spends half of the time on a dense model, compresses its vectors
            (OPQ) and trains on from there; the others need the log alone, for catalogues whose dense table is too big.
            None: "dense" up to 200,000 items, "hybrid" beyond ("kmeans" for semantic ids). "text" (words of the items'
            titles) and "given" (column sid of the items) are for semantic ids.
        num_splits: M, bytes per item. None: 32 up to 200,000 items, 16 beyond; 3 for semantic ids, where a last digit
            may be added that tells items apart.
        num_sub_items: B, sub-items of a split of PQ codes, 2 to 256.
        quantiser: how vectors become semantic ids: "residual-kmeans", "balanced" (the same, with equally full codes) or
            "rq-vae" (learned codes).
        beam: strings that the search for semantic ids goes on with at every token.
        clusters: of two-level items: "kmeans" or "spectral" of the log's SVD, "frequency" (dealt out by popularity) or
            "random". None has more than twice the fair share of items.
        num_clusters: C; None: the root of the number of items.
        logit_cap: logits x of two-level items become cap tanh(x / cap); the published runs have 30. None: they stay.
        warm_start: dense and two-level item vectors start from an SVD of the log, as those of "kmeans" and "hybrid"
            codes do. The published models start at random.
        memory: successors remembered per item, at most. Beside the query's vector the model then knows which items
            stood in the history and what came after its last events (`everyitem.memory`); its weights are fitted
            after training, on the validation users. 0: vectors alone, as published. None: 32, for semantic ids 0.
        dim: D, a multiple of `num_splits`; with a language model the size of an item vector before its projection.
        blocks: attention blocks.
        length: T, events of a history that the model sees.
        dropout: everywhere in the backbone; of a language model on item vectors and in attention.
        language_model: Hugging Face folder, .gguf file or name on the hub of the "llm" backbone. None: a small Qwen2
            with random weights, of hidden size `dim` (a multiple of 32) and `blocks` layers.
        prompt: of a language model: words before the first item and after every item, as in
            "Bought so far: {item}, ".
        lora_rank: train low-rank updates of the language model (LoRA); None trains its weights.
        pack: lay histories end to end in rows of so many tokens; None: a row per history.
        gradient_checkpointing: less memory, a third more time; of a language model.
        num_negatives: K, shared by a batch.
        learning_rate: of Adam.
        batch_positions: padded positions per batch.
        epochs: at most.
        minutes: of training, at most; None trains until validation stops improving.
        patience: validations without improvement after which training stops.
        validate_every: updates between validations. None: an epoch, but not under 200 nor over 1,000.
        split: "leave-one-out" (the papers') or "time" (one instant for everybody, nothing leaks).
        seed: of everything random.
        threads: of torch and index; None leaves torch's choice.
        resume: go on from the checkpoint in the folder.
        show: progress bars.

    Returns:
        The trained `Recommender`, loaded from the folder.

    Raises:
        ValueError: settings out of range or that do not fit each other or the log, or `resume` with other settings than
            the checkpoint's; nothing has been written then.
    """
    small, written = log.num_items <= LARGEST_DENSE_START, items == "semantic-ids"
    codes = codes or ("dense" if small else "kmeans" if written else "hybrid")
    num_splits = (3 if written else 32 if small else 16) if num_splits is None else num_splits
    memory = (0 if written else 32) if memory is None else memory
    settings = {name: value for name, value in locals().items() if name not in _NOT_SETTINGS}
    _check(log, settings | {"threads": threads})
    if written:
        from everyitem.learn.semantic import learn_semantic_ids as learn
    else:
        from everyitem.learn.run import learn

    return learn(log, Path(folder), settings, threads=threads, resume=resume, show=show)


def _check(log: "Log", settings: dict[str, Any]) -> None:
    """Refuse what could not be trained, before anything is written."""
    from everyitem.recommender import EVENTS

    for name in _SIZES + _COUNTS:
        if settings[name] is not None and settings[name] < 1:
            raise ValueError(f"{name} is {settings[name]}; allowed: 1 or more")
    shortest = 3 if settings["backbone"] == "gbert4rec" else 2  # events, and the mask takes a place
    if settings["length"] < shortest:
        raise ValueError(f"length is {settings['length']}; allowed: {shortest} or more")
    if settings["memory"] < 0:
        raise ValueError(f"memory is {settings['memory']}; allowed: 0 (vectors alone) or more")
    if not 0 <= settings["dropout"] < 1:
        raise ValueError(f"dropout is {settings['dropout']}; allowed: 0 to less than 1")
    for name in ("learning_rate", "minutes", "logit_cap"):
        if settings[name] is not None and not settings[name] > 0:
            raise ValueError(f"{name} is {settings[name]}; allowed: more than 0")
    _check_language_model(settings)
    if not settings["concentration"] >= 0:
        raise ValueError(f"concentration is {settings['concentration']}; allowed: 0 (off) or more")
    if settings["items"] != "pq" and (settings["concentration"] or settings["loss"] == "split-softmax"):
        raise ValueError(f"{settings['items']} items have no splits to concentrate on; use items='pq' or another loss")
    dim, num_splits = settings["dim"], settings["num_splits"]
    if settings["items"] == "pq" and (num_splits > 64 or dim % num_splits):
        raise ValueError(f"num_splits={num_splits} must divide dim={dim} and be at most 64; choose other values")
    if not 2 <= settings["num_sub_items"] <= 256:
        raise ValueError(f"num_sub_items is {settings['num_sub_items']}; codes are bytes, so allowed: 2 to 256")
    if settings["items"] == "two-level" and settings["loss"] != "softmax":
        raise ValueError(f"loss is {settings['loss']}; two-level items have one of their own, so allowed: softmax")
    if settings["num_clusters"] is not None and not 1 <= settings["num_clusters"] <= log.num_items:
        raise ValueError(f"num_clusters is {settings['num_clusters']}; allowed: 1 to {log.num_items}, the items")
    _check_codes(log, settings)
    if EVENTS in log.items.columns:
        raise ValueError(f"the items have a column {EVENTS}, which the model folder uses itself; rename it")


def _check_language_model(settings: dict[str, Any]) -> None:
    given = [name for name in _OF_LANGUAGE_MODELS if settings[name] != signature(fit).parameters[name].default]
    if given and settings["backbone"] != "llm":
        raise ValueError(f"{given[0]} is a setting of language models; give backbone llm, or leave it out")
    if settings["lora_rank"] and settings["language_model"] is None:
        raise ValueError("lora_rank updates a trained language model; name one by language_model, or leave it out")


def _check_codes(log: "Log", settings: dict[str, Any]) -> None:
    items, codes = settings["items"], settings["codes"]
    allowed = _CODES.get(items)
    if allowed and codes not in allowed:
        raise ValueError(f"items={items} cannot have codes={codes}; allowed: {', '.join(allowed)}")
    if items != "semantic-ids":
        return
    column = _COLUMNS.get(codes)
    if column and column not in log.items.columns:
        raise ValueError(f"codes={codes} are made of the column {column} of the items, which have none; add it")
    for name, wanted in (("backbone", ("sasrec", "llm")), ("memory", (0,)), ("prompt", ("{item}",))):
        if settings[name] not in wanted:
            allowed_ones = ", ".join(map(str, wanted))
            raise ValueError(f"{name} is {settings[name]}; allowed with semantic ids: {allowed_ones}")
    if settings["loss"] not in ("softmax", "full-softmax"):
        raise ValueError(f"loss is {settings['loss']}; tokens of semantic ids are trained with the full softmax")
