"""Parallel phrases that need no download: what the quickstart trains on.

Babel writes the same value (a date, a price, a list of countries) in English and in seven languages of as many
scripts, from the Unicode CLDR data it carries. The source line opens with the language to translate into, as in
Johnson et al. 2017 (arXiv:1611.04558): `<2de> May 3, 2021` -> `3. Mai 2021`.

    kind         English (source)                     target                                what it takes
    date         <2ru> Monday, May 3, 2021            понедельник, 3 мая 2021 г.            case, order
                 <2ja> Mon, May 3, 2021               2021年5月3日(月)                      reordering
                 <2de> 5/3/2021                       3.5.2021                              month before day
                 <2el> May 2021                       Μάιος 2021                            another case than 3 Μαΐου
    time         <2de> 3:07 PM                        15:07                                 12 hours to 24
                 <2ko> Mon 3:07 PM                    (월) PM 3:07                          reordering
    duration     <2ru> in 3 hours                     через 3 часа                          plural (few, many)
                 <2ar> 3 hours and 20 minutes         3 ساعات و20 دقيقة                     plural, attached "and"
    money        <2de> $1,234.50                      1.234,50 $                            separators, side
                 <2ru> 17 Indian rupees               17 индийских рупий                    plural of two words
    measurement  <2ja> 17 kilometers per hour         時速 17 キロメートル                  a circumfix
                 <2hi> 17 km                          17 कि॰मी॰                             abbreviations
    territories  <2ar> France, Peru, and India        فرنسا وبيرو والهند                    names; and, or

*Split by underlying value.* Every value has a key that says what it is and not how it is written: `date 2021-05-03`
whether it reads May 3, 2021 or 5/3/2021, `measurement length-kilometer 17` for kilometers and km alike,
`territories FR PE` for "France and Peru" and for "France or Peru". A hash of the key decides the split, so whatever
is tested was seen in no language and no pattern, while each of its parts (the month, the day, the unit, the country,
every digit) was. One and two of something, which have forms of their own (1 Stunde, ساعتان), are never held out.
Held-out values are said in all languages; a training value is said in some of them, chosen by hash, because for the
same number of pairs more values teach more than more translations of one.

*The source determines the target.* No two-digit years (CLDR's short date), no weekday that the source lacks, and
no English form shared by two patterns: May is its own abbreviation, so a medium date (May 3, 2021 -> 03.05.2021) in
May would be a second reading of the long one, and is left out. An English phrase belongs to the first value that says
it.

*What is not as CLDR has it.* No-break and narrow spaces become plain spaces, and the few compatibility characters
their plain twins (NFKC; the full-width yen sign of Japanese), so that tokenizers that normalise can reach an exact
match; the invisible marks that order mixed Arabic and Latin text (U+061C, U+200E, U+200F) are dropped. Digits are
Latin in every language, since that is what Babel writes by default, in Arabic and Hindi too.

Nothing here depends on the machine's locale or time zone. Another version of Babel carries another CLDR, and so may
give other phrases.
"""

import datetime
import functools
import hashlib
import random
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Literal, TypeVar

from babel import Locale
from babel.dates import format_date, format_skeleton, format_time, format_timedelta
from babel.lists import format_list
from babel.numbers import format_currency
from babel.units import format_unit

from s2sjax.errors import UserError

# Latin, Cyrillic, Greek, Devanagari, Kanji and Kana, Hangul, Arabic.
LANGUAGES = ("de", "ru", "el", "hi", "ja", "ko", "ar")
TAGS = tuple(f"<2{language}>" for language in LANGUAGES)
SPLITS = ("train", "validation", "test")

T = TypeVar("T")
_Conjunction = Literal["standard", "or"]  # Babel's names for "and" and "or"

_SEED = 2016  # part of the data: another seed is another data set
_TEST_SHARE = 0.017  # of the values; each comes in every language
_VALIDATION_SHARE = 0.008
_LANGUAGE_SHARE = 0.4  # of the languages, for a training value
_MORE_LANGUAGES = 0.65  # where there are fewer values, or more words to learn
_OWN_FORMS = (0, 1, 2)  # amounts with forms of their own (singular, dual): train only, for nothing else teaches them

_ZERO_DIGIT_CURRENCIES = ("JPY", "KRW")
_SYMBOL_CURRENCIES = ("USD", "EUR", "GBP", "JPY", "INR", "CNY", "KRW", "CAD", "AUD", "BRL", "MXN")
_NAMED_CURRENCIES = (*_SYMBOL_CURRENCIES, "CHF", "SEK", "PLN", "EGP", "RUB")

# Babel leaves out the patterns that CLDR inherits by alias and then writes "17 length-mile"; these units have their own
# in English and all seven languages.
_LONG_UNITS = (
    "length-kilometer", "length-meter", "length-centimeter", "length-millimeter", "mass-kilogram", "mass-gram",
    "mass-milligram", "mass-tonne", "speed-kilometer-per-hour", "speed-meter-per-second", "speed-mile-per-hour",
    "temperature-celsius", "temperature-fahrenheit", "area-square-kilometer", "area-square-meter",
    "volume-cubic-meter", "volume-milliliter", "volume-tablespoon", "digital-megabyte", "digital-gigabyte",
    "energy-kilocalorie", "energy-kilowatt-hour", "power-kilowatt", "power-megawatt", "frequency-megahertz",
)  # fmt: skip
_SHORT_UNITS = (
    "length-kilometer", "length-centimeter", "mass-kilogram", "mass-gram", "speed-kilometer-per-hour",
    "temperature-celsius", "volume-liter", "digital-megabyte",
)  # fmt: skip

_TERRITORIES = (
    "AR", "AT", "AU", "BE", "BR", "CA", "CH", "CL", "CN", "CO", "CZ", "DE", "DK", "EG", "ES", "FI", "FR", "GB",
    "GR", "HU", "ID", "IE", "IL", "IN", "IR", "IS", "IT", "JP", "KE", "KR", "MA", "MX", "MY", "NG", "NL", "NO",
    "NZ", "PE", "PH", "PK", "PL", "PT", "RU", "SE", "SG", "TH", "TR", "UA", "US", "VN",
)  # fmt: skip

# The largest count of each unit that is not a whole larger one: Babel says 60 minutes as 1 hour.
_DURATIONS = {"second": 59, "minute": 59, "hour": 23, "day": 6, "week": 4, "month": 11, "year": 99}
_SECONDS = {
    "second": 1, "minute": 60, "hour": 3600, "day": 86400, "week": 7 * 86400, "month": 30 * 86400, "year": 365 * 86400,
}  # fmt: skip
_DURATION_PAIRS = (("minute", "second"), ("hour", "minute"), ("day", "hour"), ("week", "day"), ("year", "month"))

# No-break spaces are NFKC's business; these have no width, only an effect on the order in which the rest is drawn.
_BIDI_MARKS = dict.fromkeys((0x061C, 0x200E, 0x200F))


@dataclass(frozen=True)
class Value:
    """Something that can be said in every language.

    Attributes:
      kind: a row of the table above.
      key: what it is, apart from how it is written. Values with one key stand in one split.
      parts: what it is made of and how it is written; each part of a held-out value is also in a training value.
      render: takes `locale=` and returns the phrase.
      share: of the languages that a training value is said in.
      train_only: never held out, for what is itself a part of other values or has a form that no other value has.
    """

    kind: str
    key: str
    parts: tuple[str, ...]
    render: Callable[..., str]
    share: float = _LANGUAGE_SHARE
    train_only: bool = False

    @property
    def split(self) -> str:
        at = _hash("split", self.kind, self.key)
        if self.train_only or at >= _TEST_SHARE + _VALIDATION_SHARE:
            return "train"
        return "test" if at < _TEST_SHARE else "validation"


@dataclass(frozen=True)
class Phrase:
    """A value in English, tagged with the language it is to be translated into, and its translation."""

    value: Value
    language: str
    source: str
    target: str


def phrases(split: str) -> list[dict[str, str]]:
    """The parallel phrases of `train`, `validation` or `test`, kinds and languages mixed, in a fixed order.

    Returns: dictionaries with the keys "source" (tag and English) and "target".
    Raises: UserError if there is no such split.
    """
    return [{"source": phrase.source, "target": phrase.target} for phrase in table(split)]


def table(split: str) -> tuple[Phrase, ...]:
    """As `phrases`, with the value behind each phrase."""
    if split not in SPLITS:
        raise UserError(f"the embedded phrases have no split {split!r}; there are {', '.join(SPLITS)}")
    return _tables()[split]


@functools.cache
def _tables() -> dict[str, tuple[Phrase, ...]]:
    english = Locale("en")
    locales = {language: Locale(language) for language in LANGUAGES}
    values: dict[str, Value] = {}
    for value in _values():
        values.setdefault(_plain(value.render(locale=english)), value)  # the first to say it keeps it

    tables: dict[str, list[Phrase]] = {split: [] for split in SPLITS}
    for source, value in values.items():
        for language, tag in zip(LANGUAGES, TAGS, strict=True):
            if value.split == "train" and _hash("language", language, source) >= value.share:
                continue
            target = _plain(value.render(locale=locales[language]))
            tables[value.split].append(Phrase(value, language, f"{tag} {source}", target))
    # Sources are unique, so this order is total; by hash, so the first few phrases of a split are a sample of it.
    return {split: tuple(sorted(rows, key=lambda row: _hash("order", row.source))) for split, rows in tables.items()}


def _values() -> Iterator[Value]:
    yield from _dates(_Draw("date"))
    yield from _times(_Draw("time"))
    yield from _durations(_Draw("duration"))
    yield from _money(_Draw("money"))
    yield from _measurements(_Draw("measurement"))
    yield from _territories(_Draw("territories"))


def _dates(draw: "_Draw") -> Iterator[Value]:
    def value(key: str, pattern: str, render: Callable[..., str], *parts: str) -> Value:
        return Value("date", key, (f"as {pattern}", *parts), render)

    # Pattern by pattern, full and long dates twice as often: their month names inflect.
    for pattern, count in (("full", 1200), ("long", 1200), ("medium", 600), ("yMd", 600), ("yMMMEd", 500)):
        for _ in range(count):
            day = draw.day()
            if pattern == "medium" and day.month == 5:
                continue  # in English the same as long
            if pattern in ("full", "long", "medium"):
                render = functools.partial(format_date, day, pattern)
            else:
                render = functools.partial(format_skeleton, pattern, day)
            parts = [f"year {day.year}", f"month {day.month}", f"day {day.day}"]
            if pattern in ("full", "yMMMEd"):
                parts.append(f"weekday {day.weekday()}")
            yield value(f"{day:%Y-%m-%d}", pattern, render, *parts)
    for _ in range(500):
        day = draw.day().replace(day=1)
        render = functools.partial(format_skeleton, "yMMMM", day)
        yield value(f"{day:%Y-%m}", "yMMMM", render, f"year {day.year}", f"month {day.month}")
    for pattern, count in (("MMMMd", 400), ("MMMEd", 450)):
        for _ in range(count):
            day = draw.day()
            parts = [f"month {day.month}", f"day {day.day}"]
            if pattern == "MMMEd":
                parts.append(f"weekday {day.weekday()}")
            yield value(f"{day:%m-%d}", pattern, functools.partial(format_skeleton, pattern, day), *parts)


def _times(draw: "_Draw") -> Iterator[Value]:
    for pattern, count in (("short", 1000), ("Ehm", 700), ("medium", 700), ("Hm", 300)):
        for _ in range(count):
            moment = draw.moment()
            parts = [f"as {pattern}", f"hour {moment.hour}", f"minute {moment.minute}"]
            key = f"{moment:%H:%M}"
            if pattern == "medium":
                moment = moment.replace(second=moment.second // 5 * 5)  # 12 seconds, not 60: each often enough
                parts.append(f"second {moment.second}")
                key = f"{moment:%H:%M:%S}"
            if pattern in ("short", "medium"):
                render = functools.partial(format_time, moment.time(), pattern)
            else:
                render = functools.partial(format_skeleton, pattern, moment)
            if pattern == "Ehm":
                parts.append(f"weekday {moment.weekday()}")
            yield Value("time", key, tuple(parts), render)


def _durations(draw: "_Draw") -> Iterator[Value]:
    for unit, largest in _DURATIONS.items():
        for count in range(1, largest + 1):
            for direction, sign in (("", 1), ("in", 1), ("ago", -1)):
                delta = datetime.timedelta(seconds=sign * count * _SECONDS[unit])
                render = functools.partial(format_timedelta, delta, threshold=1, add_direction=bool(direction))
                parts = (f"unit {unit}", f"direction {direction}", *_digits(count))
                yield Value("duration", f"{count} {unit}", parts, render, _MORE_LANGUAGES, count in _OWN_FORMS)
    for _ in range(1300):
        large, small = draw.one_of(_DURATION_PAIRS)
        counts = {unit: draw.integer(1, min(_DURATIONS[unit], 30)) for unit in (large, small)}
        parts = (f"pair {large} {small}", *(d for count in counts.values() for d in _digits(count)))
        key = " ".join(f"{count} {unit}" for unit, count in counts.items())
        yield Value("duration", key, parts, functools.partial(_render_durations, counts), _MORE_LANGUAGES)


def _render_durations(counts: dict[str, int], *, locale: Locale) -> str:
    deltas = [datetime.timedelta(seconds=count * _SECONDS[unit]) for unit, count in counts.items()]
    # Joined with "and": CLDR's own list of units comes out of Babel 2.18 with its last item twice in Arabic.
    return format_list([format_timedelta(delta, threshold=1, locale=locale) for delta in deltas], locale=locale)


def _money(draw: "_Draw") -> Iterator[Value]:
    def value(amount: Decimal, currency: str, style: str, render: Callable[..., str]) -> Value:
        parts = (f"{style} {currency}", *_digits(amount))
        return Value("money", f"{amount.normalize():f} {currency}", parts, render, train_only=amount in _OWN_FORMS)

    for _ in range(1400):
        currency = draw.one_of(_SYMBOL_CURRENCIES)
        if currency in _ZERO_DIGIT_CURRENCIES or draw.chance(0.3):
            amount = Decimal(draw.integer(1, 9_999))
        else:
            amount = Decimal(draw.integer(50, 99_999)) / 100
        yield value(amount, currency, "symbol", functools.partial(format_currency, amount, currency))
    for _ in range(1800):
        currency = draw.one_of(_NAMED_CURRENCIES)
        amount = draw.amount()
        if currency in _ZERO_DIGIT_CURRENCIES:
            amount = Decimal(int(amount) or 1)
        # Without currency_digits a whole amount is written whole, and takes the plural that it should.
        render = functools.partial(format_currency, amount, currency, format_type="name", currency_digits=False)
        yield value(amount, currency, "name", render)


def _measurements(draw: "_Draw") -> Iterator[Value]:
    lengths: tuple[tuple[Literal["long", "short"], tuple[str, ...], int], ...]
    lengths = (("long", _LONG_UNITS, 2600), ("short", _SHORT_UNITS, 700))
    for length, units, count in lengths:
        for _ in range(count):
            unit = draw.one_of(units)
            amount = Decimal(draw.integer(-40, 110)) if unit.startswith("temperature") else draw.amount()
            parts = (f"{length} {unit}", *_digits(amount))
            render = functools.partial(format_unit, amount, unit, length)
            yield Value("measurement", f"{unit} {amount}", parts, render, train_only=abs(amount) in _OWN_FORMS)


def _territories(draw: "_Draw") -> Iterator[Value]:
    def value(codes: Sequence[str], style: _Conjunction, *, alone: bool = False) -> Value:
        parts = (" ".join((str(len(codes)), style)), *codes)
        render, share = functools.partial(_render_territories, codes, style), 1 if alone else _MORE_LANGUAGES
        return Value("territories", " ".join(sorted(codes)), parts, render, share, train_only=alone)

    for code in _TERRITORIES:
        yield value([code], "standard", alone=True)
    for size, count in ((2, 1200), (3, 900), (4, 200)):
        for _ in range(count):
            codes = draw.distinct(_TERRITORIES, size)
            yield value(codes, "or" if draw.chance(0.35) else "standard")


def _render_territories(codes: Sequence[str], style: _Conjunction, *, locale: Locale) -> str:
    return format_list([locale.territories[code] for code in codes], style=style, locale=locale)


class _Draw:
    """Random values that are the same on every Python: of all its methods only `random()` promises that."""

    def __init__(self, name: str):
        self._random = random.Random(f"{_SEED} {name}").random

    def chance(self, probability: float) -> bool:
        return self._random() < probability

    def integer(self, first: int, last: int) -> int:
        """Between `first` and `last`, both included."""
        return first + int(self._random() * (last - first + 1))

    def one_of(self, items: Sequence[T]) -> T:
        return items[self.integer(0, len(items) - 1)]

    def distinct(self, items: Sequence[str], count: int) -> list[str]:
        chosen: list[str] = []
        while len(chosen) < count:
            item = self.one_of(items)
            if item not in chosen:
                chosen.append(item)
        return chosen

    def moment(self) -> datetime.datetime:
        """A second of a week."""
        return datetime.datetime(2021, 5, 3) + datetime.timedelta(seconds=self.integer(0, 7 * 86400 - 1))

    def day(self) -> datetime.datetime:
        """A day from 1950 to 2049."""
        first, last = datetime.datetime(1950, 1, 1), datetime.datetime(2049, 12, 31)
        return first + datetime.timedelta(days=self.integer(0, (last - first).days))

    def amount(self) -> Decimal:
        """Mostly small whole numbers, for plurals hang on them; some larger, some with one decimal that is not zero."""
        at = self._random()
        if at < 0.55:
            return Decimal(self.integer(1, 99))
        if at < 0.70:
            return Decimal(self.integer(100, 999))
        if at < 0.80:
            return Decimal(self.integer(1000, 9999))
        return Decimal(10 * self.integer(0, 99) + self.integer(1, 9)) / 10


def _digits(amount: int | Decimal) -> tuple[str, ...]:
    return tuple(f"digit {character}" for character in sorted(set(str(amount))))


def _plain(text: str) -> str:
    return unicodedata.normalize("NFKC", text.translate(_BIDI_MARKS))


def _hash(*what: str) -> float:
    """Evenly spread over [0, 1), the same in every process."""
    digest = hashlib.sha256(" ".join((str(_SEED), *what)).encode()).digest()
    return int.from_bytes(digest[:7], "big") / 2**56
