"""Exact arithmetic in answers: number literals as a whole, in linear time.

A literal is a decimal with exponent (1.5e-3), a power (2^10, 10⁻³), scientific notation (1.2 × 10^5), a fraction (3/4,
½) or a mixed number (1 5/6, 1(5/6), 1½), with sign and per cent. Numbers of more than 400 digits are none.
"""

import re
import unicodedata
from fractions import Fraction

_LONGEST_DIGITS, _LONGEST_LITERAL, _LONGEST_ARITHMETIC, _DEEPEST = 400, 1000, 200, 40
_LARGEST_EXPONENT = 9999

_SUPERSCRIPTS = dict(zip("⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻", "0123456789+-", strict=True))
_SUPERSCRIPT = re.compile(r"([A-Za-zµ]?)([⁺⁻]?[⁰¹²³⁴⁵⁶⁷⁸⁹]++)")
_VULGAR = re.compile("[¼-¾⅐-⅞↉]")
_SIGNS = str.maketrans({"−": "-", "‐": "-", "‑": "-", "–": "-", "⁄": "/", "÷": "/", "×": "*", "·": "*", "⋅": "*"})
_GROUPED = re.compile(r"(?<![\d.,])\d{1,3}(?:,\d{3})++(?![\d,])")
_UNIT_POWER = re.compile(r"(?<=[A-Za-zµ])\^[+-]?\d++|\b[kcdmµ]?m[23]\b")

_DECIMAL = r"(?:\d++(?:\.\d++)?+|\.\d++)"
_EXPONENT = r"(?:[eE][+-]?\d++(?!\w|\.\d))?+"
_POWER = rf"\s?\^\s?(?:[+-]?{_DECIMAL}|\([^()]{{0,40}}+\))"
_LITERAL = re.compile(
    r"(?:-\s?)?+(?:"
    rf"(?P<mixed>\d++(?:\s?\(\d++/\d++\)|\s\d++/\d++))"
    rf"|{_DECIMAL}\s?[*x]\s?10{_POWER}"
    rf"|{_DECIMAL}{_EXPONENT}(?:{_POWER})?+(?:\s?/\s?{_DECIMAL}(?:{_POWER})?+)?+"
    r")(?:\s?%)?+"
)
_MIXED = re.compile(r"(\d++)(?:\s?\((\d++/\d++)\)|\s(\d++/\d++))")
_TOKEN = re.compile(rf"\s*+(?:({_DECIMAL}{_EXPONENT})|([-+*/^()%]))")
_ARITHMETIC = re.compile(r"[\d.+\-*/^()%\seE]++")


class NoNumberError(ValueError):
    """A text that is no arithmetic, or has no value."""


def plain(text: str) -> str:
    """A text with ASCII digits, signs and operators, without thousands separators and powers of units (cm²)."""
    spelled = _SUPERSCRIPT.sub(_power, text)
    spelled = _VULGAR.sub(lambda match: f" {unicodedata.normalize('NFKC', match[0])} ", spelled)
    ascii_ = unicodedata.normalize("NFKC", spelled).translate(_SIGNS).replace("**", "^")
    return _GROUPED.sub(lambda match: match[0].replace(",", ""), _UNIT_POWER.sub("", ascii_)).strip()


def arithmetic(text: str) -> Fraction | None:
    """The value of a plain text that is arithmetic as a whole, or None."""
    if len(text) > _LONGEST_ARITHMETIC or not _ARITHMETIC.fullmatch(text):
        return None
    return _value(text)


def last_number(text: str) -> Fraction | None:
    """The value of the last number literal in a plain text, or None where there is none or it has no value."""
    last = None
    for match in _LITERAL.finditer(text):
        last = match
    if last is None:
        return None
    literal = last[0]
    before = text[max(0, last.start() - 2) : last.start()].rstrip()
    if literal.startswith("-") and re.search(r"[\dA-Za-z)%]$", before) and not _detached(text, last.start()):
        literal = literal[1:]
    return _value(literal.replace("x", "*", 1))


def _detached(text: str, start: int) -> bool:
    """True for a minus behind a letter and a space, which is a sign and not an operation: `is -5`."""
    return start > 1 and text[start - 1] == " " and text[start - 2].isalpha()


def _power(match: re.Match[str]) -> str:
    return match[1] if match[1] else "^" + "".join(_SUPERSCRIPTS[char] for char in match[2])


def _value(text: str) -> Fraction | None:
    if len(text) > _LONGEST_LITERAL:
        return None
    spelled = _MIXED.sub(lambda match: f"({match[1]}+{match[2] or match[3]})", text.strip())
    try:
        parser = _Parser(spelled)
        value = parser.sum()
        return value if parser.at_end else None
    except (NoNumberError, ZeroDivisionError):
        return None


class _Parser:
    """Recursive descent over +, -, *, /, ^, per cent and parentheses. Raises NoNumberError."""

    def __init__(self, text: str):
        self.tokens, self.index, self.depth = _tokens(text), 0, 0

    @property
    def at_end(self) -> bool:
        """True behind the last token."""
        return self.index == len(self.tokens)

    def sum(self) -> Fraction:
        """Products, added and subtracted."""
        self.depth += 1
        if self.depth > _DEEPEST:
            raise NoNumberError("nested too deeply")
        value = self._product()
        while operator := self._take("+", "-"):
            other = self._product()
            value = value + other if operator == "+" else value - other
        self.depth -= 1
        return value

    def _product(self) -> Fraction:
        value = self._signed()
        while operator := self._take("*", "/"):
            other = self._signed()
            value = value * other if operator == "*" else value / other
        return value

    def _signed(self) -> Fraction:
        negative = False
        while sign := self._take("+", "-"):
            negative ^= sign == "-"
        value = self._percent()
        return -value if negative else value

    def _percent(self) -> Fraction:
        value = self._raised()
        while self._take("%"):
            value /= 100
        return value

    def _raised(self) -> Fraction:
        base = self._atom()
        if not self._take("^"):
            return base
        sign = self._take("+", "-")
        exponent = self._atom()
        return _raise(base, -exponent if sign == "-" else exponent)

    def _atom(self) -> Fraction:
        if self._take("("):
            value = self.sum()
            if not self._take(")"):
                raise NoNumberError("an open parenthesis")
            return value
        if self.at_end or self.tokens[self.index] in "+-*/^()%":
            raise NoNumberError("no number where one is expected")
        self.index += 1
        return _literal(self.tokens[self.index - 1])

    def _take(self, *tokens: str) -> str | None:
        if self.at_end or self.tokens[self.index] not in tokens:
            return None
        self.index += 1
        return self.tokens[self.index - 1]


def _tokens(text: str) -> list[str]:
    tokens, position = [], 0
    while position < len(text.rstrip()):
        if not (match := _TOKEN.match(text, position)):
            raise NoNumberError("neither number nor operator")
        tokens.append(match[1] or match[2])
        position = match.end()
    return tokens


def _literal(token: str) -> Fraction:
    mantissa, _, exponent = token.lower().partition("e")
    if len(mantissa) > _LONGEST_DIGITS or len(exponent) > 6:
        raise NoNumberError("too many digits")
    return Fraction(mantissa if mantissa[0] != "." else f"0{mantissa}") * _raise(Fraction(10), Fraction(exponent or 0))


def _raise(base: Fraction, exponent: Fraction) -> Fraction:
    size = base.numerator.bit_length() + base.denominator.bit_length()
    if exponent.denominator != 1 or abs(exponent) > _LARGEST_EXPONENT or size * abs(exponent) > 100_000:
        raise NoNumberError("a power that is not computed")
    return Fraction(base ** int(exponent))
