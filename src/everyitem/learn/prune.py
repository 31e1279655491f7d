"""The signature of pruning: every setting, its default and its meaning. The command line reads it.

Nothing heavy is imported until something is pruned (`pruning.py`).
"""

import inspect
from pathlib import Path
from typing import TYPE_CHECKING, Any

from everyitem.compress import DivergenceName, KeyValuesName, MethodName

if TYPE_CHECKING:
    from everyitem.data.interactions import Log

_OF_ITEMS = (
    *("keep_heads", "keep_hidden", "keep_mlp", "drop_layers", "target_parameters", "alpha", "calibration"),
    *("divergence", "truth", "epochs", "minutes", "learning_rate", "batch_tokens", "dry_run", "seed"),
)
"""Settings that a model folder is pruned with; what it cannot have is refused by name."""
_NOT_SETTINGS = ("model", "out", "log", "threads", "show")


def prune(
    model: str | Path,
    out: str | Path,
    log: "Log",
    *,
    keep_heads: int | None = None,
    keep_hidden: int | None = None,
    keep_mlp: int | None = None,
    drop_layers: int = 0,
    target_parameters: float | None = None,
    key_values: KeyValuesName | None = None,
    method: MethodName = "prunerec",
    alpha: float = 0.7,
    paper: bool = False,
    calibration: int = 128,
    at_once: bool = False,
    restore_last_only: bool = False,
    divergence: DivergenceName = "forward",
    truth: float = 0.2,
    answers: int | None = None,
    epochs: float = 3.0,
    minutes: float | None = None,
    learning_rate: float = 3e-4,
    histories: int | None = None,
    batch_tokens: int = 4096,
    length: int = 256,
    title_tokens: int = 24,
    prompt: str = "",
    trim_vocabulary: bool = False,
    users: int = 200,
    beam: int = 20,
    dry_run: bool = False,
    seed: int = 0,
    threads: int | None = None,
    show: bool = True,
) -> dict[str, Any]:
    """Prune a language model that continues a user's titles with the next one, and restore it (PruneRec).

    Three stages: heads and hidden dimensions, then neurons, then layers; each is measured, cut, and restored by
    learning to answer as the uncut model does. A run that was interrupted goes on after its last stage. Text: the
    titles of a user's training events, oldest first, a line each; every title after the first is asked for.

    Args:
        model: folder of a Hugging Face causal LM with its tokenizer; or a model folder whose backbone is SASRec or
            gBERT4Rec, of which heads, feed-forward neurons and blocks can go (in two stages; a run starts anew).
        out: folder to write: a plain Hugging Face checkpoint, or a model folder, and `prunerec.json`, what every stage
            did.
        log: from `read_log`; its items need a column `title`.
        keep_heads: attention heads per layer. None: all.
        keep_hidden: hidden dimensions. None: all.
        keep_mlp: feed-forward neurons per layer. None: all.
        drop_layers: layers to drop.
        target_parameters: share of the parameters outside the embeddings that may stay; sizes are then chosen from
            what each kind of cut is measured to cost this model.
        key_values: of grouped heads. "balanced": each group keeps the same number of heads. "groups": whole groups.
            "expand": each head gets a key-value head of its own. None: "balanced" where the number allows it, else
            "expand".
        method: how importance is measured: "prunerec", or what the paper compares with.
        alpha: weight of the layers before in the importance of heads.
        paper: importances as the published code computes them.
        calibration: histories that importance and perplexity are measured on.
        at_once: cut everything in one stage.
        restore_last_only: restore after the last stage alone, as long as all stages together.
        divergence: from the uncut model: "forward" KL, "reverse", "js", "skewed-forward", "skewed-reverse".
        truth: weight of the title that really came, beside what the uncut model says.
        answers: ask the uncut model once, keep so many of its likeliest tokens on disk, and learn from those. None: ask
            it at every update.
        epochs: passes over the histories per restoration, at most.
        minutes: of a restoration, at most.
        learning_rate: of a restoration, at its highest.
        histories: users to restore with, drawn at random. None: all.
        batch_tokens: tokens of a batch, its padding included.
        length: tokens of a row, at most.
        title_tokens: tokens that are read of a title, at most.
        prompt: text that every row begins with.
        trim_vocabulary: first drop the tokens that neither titles nor prompt need.
        users: test users whose next title is sought before and after every restoration; 0: none.
        beam: titles that are written side by side to find it.
        dry_run: only say the sizes and parameters of every stage.
        seed: of everything random.
        threads: of torch. None leaves torch's choice.
        show: progress bars.

    Returns:
        What `prunerec.json` says; with `dry_run` {"stages": sizes and parameters}.

    Raises:
        ValueError: settings out of range, sizes that the model cannot have, items without titles, or `out` holds a run
            with other settings; nothing has been written then.
    """
    settings = {name: value for name, value in locals().items() if name not in _NOT_SETTINGS}
    _check(settings, {"threads": threads})
    if not dry_run:
        _check_out(Path(out))
    if (Path(model) / "recommender.json").is_file():
        _check_for_items(settings)
        from everyitem.learn.shrink import prune_item_model

        return prune_item_model(Path(model), Path(out), log, settings, show=show)
    from everyitem.learn.pruning import prune_text_model

    return prune_text_model(Path(model), Path(out), log, settings, threads=threads, show=show)


def _check_out(out: Path) -> None:
    """Refuse a folder that holds anything but a pruning."""
    if out.exists() and any(out.iterdir()) and not (out / "stages").is_dir():
        raise ValueError(f"{out}: not of a pruning by everyitem, so it is not overwritten; choose another folder")


def _check_for_items(settings: dict[str, Any]) -> None:
    """Refuse settings that say nothing about an item-ID model, rather than do without them."""
    defaults = {name: parameter.default for name, parameter in inspect.signature(prune).parameters.items()}
    foreign = [name for name in settings if name not in _OF_ITEMS and settings[name] != defaults[name]]
    if foreign:
        raise ValueError(f"{', '.join(foreign)} is about language models, and this is an item-ID model; leave it out")


def _check(settings: dict[str, Any], running: dict[str, Any]) -> None:
    """Refuse what could not work, before anything is read."""
    sizes = ("keep_heads", "keep_hidden", "keep_mlp")
    counts = ("beam", "calibration", "answers", "histories", "batch_tokens", "threads")
    for name in (*sizes, *counts):
        value = (settings | running)[name]
        if value is not None and value < 1:
            raise ValueError(f"{name} is {value}; allowed: 1 or more")
    for name, least in (("drop_layers", 0), ("users", 0), ("title_tokens", 2), ("length", 8)):
        if settings[name] < least:
            raise ValueError(f"{name} is {settings[name]}; allowed: {least} or more")
    for name in ("epochs", "minutes", "learning_rate"):
        if settings[name] is not None and not settings[name] > 0:
            raise ValueError(f"{name} is {settings[name]}; allowed: more than 0")
    for name in ("alpha", "truth"):
        if not 0 <= settings[name] <= 1:
            raise ValueError(f"{name} is {settings[name]}; allowed: 0 to 1")
    named = [name for name in sizes if settings[name] is not None] + ["drop_layers"] * bool(settings["drop_layers"])
    target = settings["target_parameters"]
    if target is not None and not 0 < target < 1:
        raise ValueError(f"target_parameters is {target}; allowed: a share above 0 and below 1")
    if (target is None) == (not named):
        raise ValueError(
            f"got {'target_parameters and ' + ', '.join(named) if named else 'nothing to cut'}; give either "
            "target_parameters or some of keep_heads, keep_hidden, keep_mlp, drop_layers"
        )
