"""A log with the statistics of a real shop: what the demo, the tests and the benchmarks learn from.

Knows how users wander; knows no reader, no split and no model. The same seed gives the same log.
"""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import polars as pl
from numpy.typing import NDArray

from everyitem.data.sources.folder import write_log

Ints = NDArray[np.integer]

SERIES_SIZE = 40
"""Items per series, the clusters in which users move."""
EXPONENT, HEAD = 0.9, 2.0
"""Zipf-Mandelbrot law of the draw among series and inside a series: rank r has weight (r + HEAD) ** -EXPONENT."""
TASTES = (0.50, 0.25, 0.10, 0.15)
"""How often a session goes to a user's first, second, third taste, and (last) to a series that is new to the user."""
NEW_SESSION, RESUME = 0.2, 0.6
"""An event begins a session; a session goes on where the user left its series."""
MOVE, BROWSE, REPEAT = 0.65, 0.20, 0.10
"""Inside a session: to a neighbour, to a popular item of the series, to one of the last events; else to any item."""
STEPS, STEP_ODDS = (1, 2, -1), (0.60, 0.25, 0.15)
"""Neighbours to which a move goes."""
MIN_LENGTH, MAX_LENGTH, SPREAD = 5, 300, 1.0
"""Lengths are MIN_LENGTH + a log-normal of this spread."""
SECONDS_INSIDE, SECONDS_BETWEEN = 90.0, 4 * 86_400.0
"""Mean gaps between events of a session, and between sessions."""
FIRST_DAY, START_DAYS = 1_704_067_200, 180
"""2024-01-01 in Unix seconds; days over which users arrive."""
USERS_PER_CHUNK = 50_000
ITEMS_PER_CHUNK = 1_000_000

ADJECTIVES = (
    "Alpine Amber Arctic Ashen Azure Bright Calm Classic Clever Coastal Copper Crimson Desert Eager Early Elm "
    "Fine Frosted Gentle Golden Grand Hazel Indigo Ivory Jade Light Lunar Maple Misty Modern Noble Nordic Olive "
    "Pale Quiet Royal Rustic Silver Solar Vivid"
)
MATERIALS = (
    "Aluminium Ash Bamboo Birch Brass Canvas Carbon Cashmere Ceramic Cherry Clay Cork Cotton Denim Felt Flannel "
    "Fleece Glass Granite Hemp Iron Jute Larch Leather Linen Marble Merino Mesh Nylon Oak Paper Pine Porcelain "
    "Satin Silk Steel Suede Velvet Walnut Wool"
)
NOUNS = {
    "Bags": "Backpack Briefcase Duffel Pouch Satchel Suitcase Tote Wallet",
    "Bath": "Bathmat Bathrobe Mirror Scale Soapdish Towel Tray Washcloth",
    "Bedroom": "Bedspread Blanket Duvet Mattress Nightstand Pillow Quilt Wardrobe",
    "Camping": "Cooler Hammock Headlamp Lantern Stove Tarp Tent Thermos",
    "Cycling": "Bell Gloves Handlebar Helmet Pannier Pump Saddle Tyre",
    "Dining": "Bowl Carafe Cup Decanter Fork Glass Plate Platter",
    "Garden": "Bench Birdhouse Hose Planter Rake Shears Trellis Trowel",
    "Hats": "Beanie Beret Bonnet Bucket-Hat Cap Earmuffs Fedora Visor",
    "Jackets": "Anorak Blazer Bomber Coat Gilet Parka Poncho Raincoat",
    "Kitchen": "Blender Grater Kettle Knife Ladle Pan Pot Toaster",
    "Lighting": "Candle Chandelier Desk-Lamp Floor-Lamp Nightlight Pendant Sconce Spotlight",
    "Music": "Banjo Cello Drum Flute Guitar Harp Ukulele Violin",
    "Office": "Binder Calendar Clipboard Folder Notebook Organizer Pen Stapler",
    "Pets": "Aquarium Birdcage Brush Collar Kennel Leash Litterbox Scratcher",
    "Running": "Armband Headband Jersey Leggings Shorts Singlet Sneakers Stopwatch",
    "Seating": "Armchair Beanbag Chair Footstool Loveseat Ottoman Rocker Sofa",
    "Shirts": "Blouse Cardigan Henley Hoodie Polo Pullover Shirt Sweater",
    "Shoes": "Boots Clogs Derbies Loafers Moccasins Pumps Sandals Slippers",
    "Sports": "Basketball Dumbbell Football Kettlebell Paddle Racket Skateboard Yoga-Mat",
    "Storage": "Basket Bin Cabinet Chest Crate Hook Rack Shelf",
    "Tools": "Chisel Clamp Drill Hammer Pliers Sander Screwdriver Wrench",
    "Toys": "Blocks Doll Kite Marbles Puzzle Robot Train Yo-Yo",
    "Travel": "Adapter Earplugs Eyemask Luggage-Tag Neck-Pillow Padlock Passport-Case Toiletry-Kit",
    "Watches": "Alarm-Clock Bracelet Chronograph Cuckoo-Clock Pocket-Watch Strap Timer Wristwatch",
}
BRANDS = (
    "Alder Arven Bellow Borro Calder Cintra Dalmor Dovrin Elmway Eskil Fenwick Fjorda Garrow Grenna Halden Hesper "
    "Ilmar Inver Jarro Juno Kestrel Korda Larkin Lumo Marlow Merida Norrland Nyssa Osten Orrin Pell Portmore "
    "Quill Ravenna Rook Sable Sorrel Tamsin Thorne Ulva Umbra Vesper Vireo Wexley Wyn Xanto Yarrow Ysolde Zephyr "
    "Zora"
)


class SyntheticLog(NamedTuple):
    """The two tables of a log folder."""

    interactions: pl.DataFrame
    """user_id, item_id, datetime; in the order of user, then time."""
    items: pl.DataFrame
    """item_id, title, category, brand, series, price, in_stock; position i is row i."""


def synthetic_log(
    num_items: int = 20_000,
    num_users: int = 6_000,
    *,
    mean_length: float = 25.0,
    ids: Literal["str", "int"] = "str",
    seed: int = 0,
) -> SyntheticLog:
    """A generated log in memory; `write_synthetic_log` writes the same one to a folder.

    Items stand in series of 40. A user has three favourite series. A session goes to one of them (.85) or to a new one,
    mostly on from where the user left it; inside a session the next item is a neighbour (.65), a popular item of the
    series (.20), an item seen lately (.10) or any item (.05). Series, and items inside a series, are drawn by a
    Zipf-Mandelbrot law. So popularity tells a little, the last item a good part, and the sessions before it some more.

    Args:
        num_items: catalogue size, 1 or more; every item is listed, whether or not it occurs.
        num_users: 1 or more.
        mean_length: events per user before the cap at 300; 6 or more.
        ids: "str" gives "item-00042" and "user-0042", "int" gives int64.
        seed: same seed, same log.

    Returns:
        Two frames as a log folder holds them. With the defaults, as `statistics` measures them (and a test):
        about 152,000 events on 16,900 different items; 25 events per user in the mean, 17 in the median; Zipf exponent
        .68; 21 % of the events on the top 1 % of items; 75 % of next events in the same series; 28 % on an item that
        the user met before. Leave-one-out HR@10 over all items: popularity .026, first-order Markov .46, successors of
        the last 20 events .56. A larger catalogue is steeper: with a million items and 200,000 users .85 and 42 %.

    Raises:
        ValueError: a number out of range.

    Cost: one core and 4 s for 1,000,000 items and 5,000,000 events (0.6 GB); `write_synthetic_log` 10 s (0.4 GB), and
        for 10,000,000 items and 25,000,000 events 72 s (0.6 GB).
    """
    events, items = _frames(num_items, num_users, mean_length, ids, seed)
    return SyntheticLog(pl.concat(list(events)), pl.concat(list(items)))


def write_synthetic_log(
    folder: str | Path,
    num_items: int = 20_000,
    num_users: int = 6_000,
    *,
    mean_length: float = 25.0,
    ids: Literal["str", "int"] = "str",
    seed: int = 0,
) -> Path:
    """Write what `synthetic_log` returns as a log folder, a chunk at a time. Memory: 8 bytes per item and a chunk."""
    return write_log(folder, *_frames(num_items, num_users, mean_length, ids, seed))


def statistics(log: SyntheticLog) -> dict[str, float]:
    """What a log looks like.

    Returns:
        users, items (seen at least once), events; mean_length, median_length; top_1_percent: share of events on the 1 %
        most frequent items of the catalogue; zipf_exponent: minus the slope of log frequency over log rank, between
        rank 10 and a tenth of the items (NaN for a log of 120 items or fewer); same_series: share of next events in the
        series of the event before; repeats: share of events on an item that the user met before.
    """
    events = log.interactions.join(
        log.items.select("item_id", "series"), on="item_id", how="left", maintain_order="left"
    )
    lengths = events.group_by("user_id").len()["len"]
    counts = np.sort(events.group_by("item_id").len()["len"].to_numpy())[::-1]
    ranks = np.arange(10, max(12, len(counts) // 10))
    slope = np.polyfit(np.log(ranks), np.log(counts[ranks - 1]), 1)[0] if len(counts) > 120 else np.nan
    inside = events["user_id"] == events["user_id"].shift(1)
    return {
        "users": float(len(lengths)),
        "items": float(len(counts)),
        "events": float(len(events)),
        "mean_length": float(lengths.mean()),  # type: ignore[arg-type]
        "median_length": float(lengths.median()),  # type: ignore[arg-type]
        "top_1_percent": float(counts[: max(1, len(log.items) // 100)].sum() / len(events)),
        "zipf_exponent": -float(slope),
        "same_series": float((events["series"] == events["series"].shift(1)).filter(inside).mean()),  # type: ignore[arg-type]
        "repeats": 1 - events.select("user_id", "item_id").n_unique() / len(events),
    }


def _frames(
    num_items: int, num_users: int, mean_length: float, ids: Literal["str", "int"], seed: int
) -> tuple[Iterator[pl.DataFrame], Iterator[pl.DataFrame]]:
    """Events and items, chunk by chunk. The random stream of a chunk is its own."""
    for name, number, least in (
        ("num_items", num_items, 1),
        ("num_users", num_users, 1),
        ("mean_length", mean_length, 6),
    ):
        if number < least:
            raise ValueError(f"{name} is {number}; allowed: {least} or more")
    # on the shelf items stand series by series, popular first; positions are shuffled, so that an id tells nothing
    position = np.random.default_rng([seed, 0]).permutation(num_items).astype(np.int32)
    item_ids, user_ids = _ids("item", num_items, ids), _ids("user", num_users, ids)

    def events() -> Iterator[pl.DataFrame]:
        for first in range(0, num_users, USERS_PER_CHUNK):
            rng = np.random.default_rng([seed, 1, first])
            rows = _events(rng, position, min(USERS_PER_CHUNK, num_users - first), mean_length)
            yield rows.select(
                user_id=user_ids(pl.col("user") + first), item_id=item_ids(pl.col("item")), datetime="datetime"
            )

    def items() -> Iterator[pl.DataFrame]:
        shelf = np.empty(num_items, np.int32)
        shelf[position] = np.arange(num_items, dtype=np.int32)
        for first in range(0, num_items, ITEMS_PER_CHUNK):
            rng = np.random.default_rng([seed, 2, first])
            rows = _attributes(rng, shelf[first : first + ITEMS_PER_CHUNK])
            yield rows.select(item_ids(pl.int_range(first, first + pl.len())).alias("item_id"), pl.all())

    return events(), items()


def _ids(kind: str, number: int, ids: Literal["str", "int"]) -> Callable[[pl.Expr], pl.Expr]:
    if ids == "int":
        return lambda positions: positions.cast(pl.Int64)
    digits = len(str(number - 1))
    return lambda positions: f"{kind}-" + positions.cast(pl.String).str.zfill(digits)


def _events(rng: np.random.Generator, position: Ints, num_users: int, mean_length: float) -> pl.DataFrame:
    """Rows (user, item, datetime) of a chunk of users, in the order of user, then time. All take a step at once."""
    lengths = _lengths(rng, num_users, mean_length)
    longest = np.argsort(-lengths, kind="stable")  # those who still act at a step are the first of these
    begins = (np.cumsum(lengths) - lengths)[longest]
    active = num_users - np.searchsorted(np.sort(lengths), np.arange(lengths.max()), side="right")
    shelf, times = np.empty((2, int(lengths.sum())), np.int64)
    walk = _Walk(rng, num_users, len(position))
    for step, users in enumerate(active):
        at = begins[:users] + step
        fresh = (rng.random(users) < NEW_SESSION) | (step == 0)
        item, again = walk.step(fresh)
        back = np.minimum(rng.integers(1, 11, users), step)
        shelf[at] = np.where(again, shelf[at - back], item)
        gap = rng.exponential(np.where(fresh, SECONDS_BETWEEN, SECONDS_INSIDE)).astype(np.int64) + 1
        times[at] = times[at - 1] + gap if step else FIRST_DAY + rng.integers(0, START_DAYS * 86_400, users)
    columns = {"user": np.repeat(np.arange(num_users), lengths), "item": position[shelf], "datetime": times * 1_000_000}
    return pl.DataFrame(columns).with_columns(pl.col("datetime").cast(pl.Datetime("us")))


def _lengths(rng: np.random.Generator, num_users: int, mean_length: float) -> Ints:
    location = np.log(mean_length - MIN_LENGTH) - SPREAD**2 / 2
    return np.minimum(MIN_LENGTH + rng.lognormal(location, SPREAD, num_users), MAX_LENGTH).round().astype(np.int64)


def _zipf(rng: np.random.Generator, size: Ints) -> Ints:
    """Ranks below `size` (one per entry): the Zipf-Mandelbrot law's continuous inverse, rounded down."""
    power = 1 - EXPONENT
    low, high = HEAD**power, (size + HEAD) ** power
    ranks = (low + rng.random(size.shape) * (high - low)) ** (1 / power) - HEAD
    return np.asarray(np.minimum(ranks.astype(np.int64), size - 1))


class _Walk:
    """Where users stand: a series for every taste and one for visits, a place in each, and which of them is current."""

    def __init__(self, rng: np.random.Generator, num_users: int, num_items: int) -> None:
        self.rng = rng
        self.num_items = num_items
        self.series = self._any_series((num_users, len(TASTES)))
        self.place = _zipf(rng, self._size(self.series))
        self.slot = np.zeros(num_users, np.int64)

    def _any_series(self, shape: int | tuple[int, ...]) -> Ints:
        return _zipf(self.rng, np.full(shape, -(-self.num_items // SERIES_SIZE)))

    def _size(self, series: Ints) -> Ints:
        return np.minimum(SERIES_SIZE, self.num_items - series * SERIES_SIZE)

    def step(self, fresh: NDArray[np.bool_]) -> tuple[Ints, NDArray[np.bool_]]:
        """Next item of the first `len(fresh)` users by place on the shelf, and who repeats a past one instead."""
        rng, users = self.rng, np.arange(len(fresh))
        self._begin_sessions(np.flatnonzero(fresh))
        slot = self.slot[: len(fresh)]
        series, place = self.series[users, slot], self.place[users, slot]
        size = self._size(series)
        act = rng.random(len(fresh))
        move = act < np.where(fresh, RESUME, MOVE)
        browse = ~move & (fresh | (act < MOVE + BROWSE))
        neighbour = (place + rng.choice(STEPS, len(fresh), p=STEP_ODDS)) % size
        place = np.where(move, neighbour, np.where(browse, _zipf(rng, size), place))
        self.place[users, slot] = place
        again = ~move & ~browse & (act < MOVE + BROWSE + REPEAT)
        stray = ~move & ~browse & ~again
        item = series * SERIES_SIZE + place
        item[stray] = self._any_item(int(stray.sum()))
        return item, again

    def _begin_sessions(self, users: Ints) -> None:
        slot = self.rng.choice(len(TASTES), len(users), p=TASTES)
        visits = users[slot == len(TASTES) - 1]
        self.slot[users] = slot
        self.series[visits, -1] = self._any_series(len(visits))
        self.place[visits, -1] = _zipf(self.rng, self._size(self.series[visits, -1]))

    def _any_item(self, number: int) -> Ints:
        series = self._any_series(number)
        return series * SERIES_SIZE + _zipf(self.rng, self._size(series))


def _attributes(rng: np.random.Generator, shelf: NDArray[np.int32]) -> pl.DataFrame:
    """title, category, brand, series, price, in_stock of the items at these places of the shelf."""
    series, place = np.divmod(shelf.astype(np.int64), SERIES_SIZE)
    name = series * 7919  # coprime to the number of names, so that neighbouring series sell different things
    category, name = name % len(NOUNS), name // len(NOUNS)
    noun, name = name % 8, name // 8
    adjective, name = name % len(ADJECTIVES.split()), name // len(ADJECTIVES.split())
    material = name % len(MATERIALS.split())
    usual_price = 3.0 * 1.6 ** (noun + (category + adjective) % 4)
    columns = {
        "category": _words(" ".join(NOUNS), category),
        "brand": _words(BRANDS, (series * 31 + (rng.random(len(shelf)) < 0.2)) % len(BRANDS.split())),
        "series": _words(ADJECTIVES, adjective)
        + " "
        + _words(MATERIALS, material)
        + " "
        + _words(" ".join(NOUNS.values()), category * 8 + noun),
        "price": (usual_price * rng.lognormal(0.0, 0.25, len(shelf))).round() + 0.99,
        "in_stock": rng.random(len(shelf)) < 0.92,
    }
    number = pl.Series(place + 1).cast(pl.String)
    return pl.DataFrame({"title": columns["series"] + " " + number, **columns})


def _words(text: str, which: Ints) -> pl.Series:
    return pl.Series(text.split()).gather(which)
