"""Which known items read like a new one. Knows words, no ids and no model."""

import polars as pl

COMMON = 0.1
"""Words in more than this share of the items say nothing."""


def alike_by_text(known: pl.Series, new: pl.Series, count: int) -> list[list[int]]:
    """For every new text the known ones that share its rarest words.

    Words are what `\\w+` finds, in lower case, each once per text. One in df of I known texts weighs log(1 + I / df);
    two texts are as alike as the cosine of their weighed words.

    Args:
        known: I texts, null where there is none.
        new: texts, null where there is none.
        count: rows found per new text, at most.

    Returns:
        Rows of `known` for every new text, the most alike first, of equals the first; none where no word is shared.

    Cost: one join over the words of the new texts: seconds for a thousand of them and a million known ones.
    """
    weighed = _words(known).with_columns(pl.len().over("word").alias("df"))
    # a word in all texts of a small catalogue is not common: it is all there is
    weighed = weighed.filter(pl.col("df") <= max(COMMON * len(known), 10))
    weighed = weighed.with_columns((1 + len(known) / pl.col("df")).log().alias("weight"))
    unit = weighed.with_columns(pl.col("weight") / (pl.col("weight") ** 2).sum().sqrt().over("row"))
    rarity = weighed.select("word", "weight").unique()
    asked = _words(new).rename({"row": "new"}).join(rarity, on="word")
    found = (
        asked.join(unit.rename({"weight": "part"}), on="word")
        .group_by("new", "row")
        .agg((pl.col("weight") * pl.col("part")).sum().alias("alike"))
        .sort("new", -pl.col("alike").round(9), "row")
        .group_by("new", maintain_order=True)
        .agg(pl.col("row").head(count))
    )
    rows = dict(zip(found["new"].to_list(), found["row"].to_list(), strict=True))
    return [rows.get(row, []) for row in range(len(new))]


def _words(texts: pl.Series) -> pl.DataFrame:
    """row, word: every word of every text once."""
    frame = pl.DataFrame({"row": pl.Series(range(len(texts)), dtype=pl.Int64), "word": texts.cast(pl.String)})
    words = pl.col("word").str.to_lowercase().str.extract_all(r"\w+").list.unique()
    return frame.with_columns(words).explode("word").drop_nulls("word")
