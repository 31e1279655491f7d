import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from polars.testing import assert_frame_equal

from everyitem.data.catalogue import extended, ids_as, matching
from everyitem.data.synthetic import synthetic_log

ITEMS = synthetic_log(num_items=400, num_users=1).items


def test_null_counts_as_false():
    gappy = ITEMS.with_columns(pl.when(pl.col("price") > 20).then(pl.col("price")))
    full = ITEMS["price"].to_numpy()
    assert matching(gappy, "price < 30").tolist() == ((full > 20) & (full < 30)).tolist()
    assert matching(gappy, "not price < 30").tolist() == (full >= 30).tolist()
    assert not matching(gappy, "price > null").any()
    assert matching(gappy, "price is null").tolist() == (full <= 20).tolist()


@pytest.mark.parametrize(
    "where",
    [
        *("price < 10", "in_stock and category = 'Bags'", "title like '%Oak%'", "true", "1 = 2"),
        *("title = 'lpad(' or price in (5.99, 8.99)", "not (upper(title) like '%OAK%')", "title = 'a (b) -- c'"),
        "case when price < 10 then in_stock else false end",
    ],
)
def test_where_means_what_sql_means(where):
    expected = pl.SQLContext(items=ITEMS, eager=True).execute(f"select item_id from items where {where}")
    assert ITEMS.filter(matching(ITEMS, where))["item_id"].to_list() == expected["item_id"].to_list()


WRONG_CONDITIONS = [
    *("", "price <", "nope > 1", "price", "1", "null", "price < 'abc'", "cast(title as int) > 3", "title ~ '['"),
    *("price < 50;", "select 1", "price < 50 limit 3", "foo(price) > 1", "\0", "(" * 300, "*", "array[true]"),
    "price in (select price from items)",
    "price > any(select 1)",
    "item_id in (select a from read_csv('/etc/passwd'))",
    "item_id in (/* from */ SELECT a FROM Read_Csv('/etc/passwd'))",
    "item_id in (FROM read_csv('http://127.0.0.1:9/x.csv'))",
    *("lpad(title, 1000000000, 'x') = 'y'", "LPAD (title, 9, 'x') = 'y'", "\"lpad\"(title, 9, 'x') = 'y'"),
    *("lpad/**/(title, 9, 'x') = 'y'", "lpad--\n(title, 9, 'x') = 'y'", "replace(title, '', title) = ''"),
    *("title || title || title = 'x'", "concat(title, title) = 'x'", "E'\\'' = lpad(title, 9, 'x') or title = ''"),
    *("$$'$$ = lpad(title, 9, 'x') or title = ''", "\"'\" = lpad(title, 9, 'x') or title = ''"),
    "E'\\'' = (from read_parquet('/etc/passwd')) or title = ''",
]


@pytest.mark.parametrize("where", WRONG_CONDITIONS)
def test_a_wrong_condition_is_one_line_that_names_the_columns(where, capfd):
    with pytest.raises(ValueError, match="price, in_stock") as caught:
        matching(ITEMS, where)
    assert "\n" not in str(caught.value)
    assert "os error" not in str(caught.value)  # no file was opened to find out
    assert capfd.readouterr().err == ""  # polars panics loudly


WORDS = [
    "price",
    "title",
    "in_stock",
    "null",
    "and",
    "or",
    "not",
    "in",
    "like",
    "between",
    "case",
    "when",
    "then",
    "end",
]
WORDS += [*"<=(),3", "'a'"]


@settings(max_examples=150, deadline=None)
@given(
    st.lists(
        st.sampled_from(WORDS),
        max_size=9,
    ).map(" ".join)
)
def test_any_text_is_a_condition_or_a_value_error(where):
    try:
        mask = matching(ITEMS, where)
    except ValueError as error:
        mask, message = None, str(error)
    assert "Columns: item_id" in message if mask is None else mask.shape == (400,)


@pytest.mark.parametrize(
    ("dtype", "ids", "expected"),
    [
        (pl.String(), ["a", None], ["a", None]),
        (pl.Int64(), [3, None], [3, None]),
        (pl.Int64(), pl.Series([3], dtype=pl.UInt8), [3]),
        (pl.String(), [], []),
        (pl.Int64(), [], []),
    ],
)
def test_ids_take_the_type_of_the_catalogue(dtype, ids, expected):
    found = ids_as(dtype, ids)
    assert found.dtype == dtype
    assert found.to_list() == expected


@pytest.mark.parametrize(
    ("dtype", "ids"),
    [
        *((pl.String(), ids) for ids in ([1], ["a", 1], [1.5], pl.Series([1]))),
        *((pl.Int64(), ids) for ids in (["1"], [1, "1"], [2**70], pl.Series(["1"]), pl.Series([2**64 - 1]))),
    ],
)
def test_ids_of_another_type_are_refused_in_one_line(dtype, ids):
    with pytest.raises(ValueError, match=f"item ids are {dtype} in this model") as caught:
        ids_as(dtype, ids)
    assert "\n" not in str(caught.value)


def test_new_items_come_last_in_the_types_of_the_catalogue():
    new = pl.DataFrame({"price": [7], "colour": ["red"], "item_id": ["new"], "in_stock": [False]})
    both = extended(ITEMS, new, given={"series": "none"})
    assert both.schema == ITEMS.schema
    assert_frame_equal(both.head(400), ITEMS)
    row = {"item_id": "new", "title": None, "category": None, "brand": None, "series": "none", "price": 7.0}
    assert both.row(400, named=True) == row | {"in_stock": False}
