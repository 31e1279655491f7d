import polars as pl

from everyitem.data.alike import alike_by_text

KNOWN = pl.Series(
    ["The Legend of Zelda", "Zelda: Majora's Mask", "Mario Kart 8", None, "mario", "tetris 2", "Kart racing wheel"]
)


def test_rare_words_count_more_than_common_ones():
    found = alike_by_text(KNOWN, pl.Series(["a ZELDA mask!", "Mario Kart", "wheel"]), 2)
    assert found == [[1, 0], [2, 4], [6]]


def test_nothing_shared_finds_nothing():
    assert alike_by_text(KNOWN, pl.Series(["chess", None, ""]), 3) == [[], [], []]
    assert alike_by_text(KNOWN, pl.Series([], dtype=pl.String), 3) == []


def test_words_that_everybody_has_are_not_looked_at():
    known = pl.Series(["game " + name for name in ("chess", "go", "dice", "cards") for _ in range(10)])
    assert alike_by_text(known, pl.Series(["game"]), 3) == [[]]
    assert alike_by_text(known, pl.Series(["game of go"]), 3) == [[10, 11, 12]]
