"""Which columns of a table mean what: by the names that were asked for, or by the usual ones."""

from __future__ import annotations

import re
from dataclasses import dataclass

from peel_ext.config import ReadingConfig
from peel_ext.errors import DataError

#: Usual names in order of preference, compared without case, blanks and punctuation.
USER_NAMES = (
    "userid", "user", "uid", "reviewerid", "customerid", "customer", "visitorid", "memberid",
    "username", "userindex", "userkey", "account", "accountid", "profileid", "profilename",
)  # fmt: skip
ITEM_NAMES = (
    "itemid", "item", "iid", "movieid", "parentasin", "asin", "productid", "product", "isbn",
    "bookid", "artistid", "trackid", "songid", "albumid", "gameid", "animeid", "articleid",
    "newsid", "recipeid", "businessid", "gmapid", "videoid", "stockcode", "movie", "artist",
    "track", "song", "book", "game",
)  # fmt: skip
TIME_NAMES = (
    "timestamp", "unixreviewtime", "time", "eventtime", "datetime", "date", "ratingtimestamp",
    "createdat", "reviewtime", "ts",
)  # fmt: skip
RATING_NAMES = ("rating", "ratings", "overall", "stars", "score", "reviewscore", "label")

#: Columns that say how much an interaction is worth, or whether it is one at all.
_VALUE_NAME = re.compile(
    "(.*rating|ratings|overall|stars|.*score|label|liked?|likes|click(s|ed)?|target|weight"
    "|.*counts?|plays|listens|views|purchased?|quantity|qty|value|event|eventtype|behavior|behaviortype"
    "|behaviour|behaviourtype|action|actiontype|feedback|interest|.*percentage|.*duration)"
)


@dataclass(frozen=True)
class Columns:
    """Positions of the columns that are read.

    Attributes:
        user: the column of the ids of users.
        item: the column of the ids of items.
        timestamp: the column of the times, or None.
        rating: the column of the ratings that are compared with a least one, or None.
        weight: the column of the weights, or None.
        unused: names of the others.
    """

    user: int
    item: int
    timestamp: int | None
    rating: int | None
    weight: int | None
    unused: list[str]

    @property
    def read(self) -> list[int]:
        """All positions, each once, in the order of the attributes."""
        every = (self.user, self.item, self.timestamp, self.rating, self.weight)
        return list(dict.fromkeys(at for at in every if at is not None))

    def remarks(self) -> list[str]:
        """Remarks on the columns that are not read: a line for each that has a value."""
        values = [name for name in self.unused if _VALUE_NAME.fullmatch(_plain(name))]
        lines = [
            f"column {name} is not used, every row counts alike: rating_column and min_rating "
            "(--rating-column, --min-rating) keep rows of some value or more, weight_column "
            "(--weight-column) weighs by it"
            for name in values
        ]
        others = [name for name in self.unused if name not in values]
        if others:
            lines.append(f"columns not used: {', '.join(others)}")
        return lines


def find_columns(place: str, header: list[str], reading: ReadingConfig) -> Columns:
    """Finds the columns of a table.

    Args:
        place: what the table is called in errors.
        header: the names of its columns.
        reading: the names that were asked for.

    Raises:
        DataError: one that is needed or was asked for is missing, or means two things.
    """
    named = reading.header or any(not re.fullmatch("[0-9]+", name) for name in header)
    user = _need(place, header, reading, USER_NAMES if named else ("1",), "user")
    item = _need(place, header, reading, ITEM_NAMES if named else ("2",), "item")
    time = rating = weight = None
    if reading.timestamps:
        time = _find(place, header, reading.timestamp_column, TIME_NAMES)
    if reading.min_rating is not None:
        rating = _need(place, header, reading, RATING_NAMES, "rating")
    if reading.weight_column is not None:
        weight = _find(place, header, reading.weight_column, ())
    if user == item:
        raise DataError(f"{place}: column {header[user]} cannot be both user and item")
    read = {user, item, time, rating, weight}
    unused = [name for at, name in enumerate(header) if name and at not in read]
    return Columns(user, item, time, rating, weight, unused)


def find_usual(header: list[str], names: tuple[str, ...]) -> int | None:
    """The position of the first of some usual names in a header, or None."""
    plain = [_plain(name) for name in header]
    return next((plain.index(name) for name in names if name in plain), None)


def _need(
    place: str, header: list[str], reading: ReadingConfig, names: tuple[str, ...], what: str
) -> int:
    asked = getattr(reading, f"{what}_column")
    at = _find(place, header, asked, names)
    if at is None:
        usual = what if what == "rating" else f"{what}_id"
        unnamed = reading.header and all(re.fullmatch(r"-?[0-9.]+", name) for name in header)
        remedy = (
            "say that there is no header (--no-header, header=False)"
            if unnamed
            else (f"name it (--{what}-column, {what}_column)")
        )
        raise DataError(
            f"{place}: no column {usual} or the like; columns are {', '.join(header) or 'none'}: "
            f"{remedy}"
        )
    return at


def _find(place: str, header: list[str], asked: str | None, names: tuple[str, ...]) -> int | None:
    if asked is None:
        at = find_usual(header, names)
    elif asked in header:
        at = header.index(asked)
    else:
        raise DataError(f"{place}: no column {asked}; columns are {', '.join(header) or 'none'}")
    if at is not None and header.count(header[at]) > 1:
        raise DataError(f"{place}: {header.count(header[at])} columns {header[at]}, expected one")
    return at


def _plain(name: str) -> str:
    return re.sub(r"[\W_]", "", name.lower())
