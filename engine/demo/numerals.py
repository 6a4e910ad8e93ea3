"""Cardinal numerals in Spanish and European Portuguese, 0 to 999,999.

The wording is num2words' own, number for number (checked over the whole range), without needing
num2words: both languages compose a numeral from the words of its thousands and of its last three
digits, so a table of 0 to 999 is enough and a million numerals take about a second.

In one place num2words does not write standard Spanish: before "mil" it leaves "uno" whole
("veintiuno mil", "ciento uno mil"), where the norm shortens it ("veintiún mil", "ciento un mil").
``spanish`` follows num2words unless it is asked for the apocope; the demonstration checkpoint was
trained on both.
"""

import zlib
from typing import Final

LIMIT: Final = 1_000_000
"""One more than the largest number that has a numeral here."""


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


_ES_BELOW_30: Final = _words(
    "cero uno dos tres cuatro cinco seis siete ocho nueve diez once doce trece catorce quince "
    "dieciséis diecisiete dieciocho diecinueve veinte veintiuno veintidós veintitrés veinticuatro "
    "veinticinco veintiséis veintisiete veintiocho veintinueve"
)
_ES_TENS: Final = _words("treinta cuarenta cincuenta sesenta setenta ochenta noventa")
_ES_HUNDREDS: Final = _words(
    "ciento doscientos trescientos cuatrocientos quinientos seiscientos setecientos ochocientos "
    "novecientos"
)

_PT_BELOW_20: Final = _words(
    "zero um dois três quatro cinco seis sete oito nove dez onze doze treze catorze quinze "
    "dezasseis dezassete dezoito dezanove"
)
_PT_TENS: Final = _words("vinte trinta quarenta cinquenta sessenta setenta oitenta noventa")
_PT_HUNDREDS: Final = _words(
    "cento duzentos trezentos quatrocentos quinhentos seiscentos setecentos oitocentos novecentos"
)


def _spanish_below_1000(n: int) -> str:
    hundreds, rest = divmod(n, 100)
    tens, units = divmod(rest, 10)
    if n == 100:
        return "cien"
    if rest < 30:
        words = _ES_BELOW_30[rest]
    else:
        words = _ES_TENS[tens - 3] + (f" y {_ES_BELOW_30[units]}" if units else "")
    if not hundreds:
        return words
    return f"{_ES_HUNDREDS[hundreds - 1]} {words}" if rest else _ES_HUNDREDS[hundreds - 1]


def _portuguese_below_1000(n: int) -> str:
    hundreds, rest = divmod(n, 100)
    tens, units = divmod(rest, 10)
    if n == 100:
        return "cem"
    if rest < 20:
        words = _PT_BELOW_20[rest]
    else:
        words = _PT_TENS[tens - 2] + (f" e {_PT_BELOW_20[units]}" if units else "")
    if not hundreds:
        return words
    return f"{_PT_HUNDREDS[hundreds - 1]} e {words}" if rest else _PT_HUNDREDS[hundreds - 1]


def _shortened(words: str) -> str:
    """The form a Spanish numeral takes before "mil": a final "uno" loses its vowel."""
    if words.endswith("veintiuno"):
        return words.removesuffix("uno") + "ún"
    return words.removesuffix("o") if words.endswith("uno") else words


_ES: Final = tuple(_spanish_below_1000(n) for n in range(1000))
_ES_SHORTENED: Final = tuple(_shortened(words) for words in _ES)
_PT: Final = tuple(_portuguese_below_1000(n) for n in range(1000))


def spanish(n: int, *, apocope: bool = False) -> str:
    """Return ``n`` in Spanish words, as num2words has it.

    With ``apocope`` the thousands take the standard short form: "veintiún mil", not
    "veintiuno mil".
    """
    _check(n)
    thousands, rest = divmod(n, 1000)
    if not thousands:
        return _ES[rest]
    table = _ES_SHORTENED if apocope else _ES
    head = "mil" if thousands == 1 else f"{table[thousands]} mil"
    return f"{head} {_ES[rest]}" if rest else head


def portuguese(n: int) -> str:
    """Return ``n`` in European Portuguese words, as num2words has it."""
    _check(n)
    thousands, rest = divmod(n, 1000)
    if not thousands:
        return _PT[rest]
    head = "mil" if thousands == 1 else f"{_PT[thousands]} mil"
    if not rest:
        return head
    # "e" binds the last part to "mil" only where that part has no "e" of its own after a
    # hundred: "mil e cem", "mil e vinte e um", "mil e duzentos", but "mil duzentos e um".
    joint = " e " if rest < 100 or rest % 100 == 0 else " "
    return f"{head}{joint}{_PT[rest]}"


def held_out(n: int) -> bool:
    """Tell whether ``n`` belongs to the tenth of the numbers that training never saw.

    The rule is a CRC-32 of the decimal digits, so it is the same on every machine and in every
    version of Python.
    """
    return zlib.crc32(str(n).encode("ascii")) % 10 == 0


def _check(n: int) -> None:
    if not 0 <= n < LIMIT:
        raise ValueError(f"{n} has no numeral here: it must be from 0 to {LIMIT - 1:,}")
