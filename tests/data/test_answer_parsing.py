"""Numbers in generated answers, and whether a target is said."""

import json
import os
import time
from decimal import Decimal
from fractions import Fraction
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2p_dist.data.answer_parsing import gives_target, number, same_number, without_prefix


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("72", "72"),
        ("The answer is 72.", "72"),
        ("first 3, then 4", "4"),
        ("x = 0.1", "0.1"),
        ("The correct answer to this problem is: 1,234", "1234"),
        ("1,234,567.5 dollars", "1234567.5"),
        ("一共２５．", "25"),
        ("答案是８０％", "0.8"),
        ("25 %", "0.25"),
        ("it is 25 %", "0.25"),
        ("1(5/6)", "11/6"),
        ("it is 1 5/6", "11/6"),
        ("about 3/4", "3/4"),
        ("(7/10)/(4/5)", "7/8"),
        ("50/(1+20%)", "125/3"),
        ("(1/5)/12%", "5/3"),
        ("is -5", "-5"),
        ("10-5=5", "5"),
        ("day 007", "7"),
        ("2 + 2 = 4\n#### 4", "4"),
        ("1e-05", "0.00001"),
        ("about 1.5E+3.", "1500"),
        ("−5", "-5"),
        ("it is −5 °C", "-5"),
        ("range 3–5", "5"),
        ("10 - 5", "5"),
        ("so 10 - 5 =5", "5"),
        ("2^10", "1024"),
        ("it is 2**10", "1024"),
        ("10⁻³", "0.001"),
        ("an area of 5 cm²", "5"),
        ("5 m^2", "5"),
        ("1.2 × 10^5", "120000"),
        ("roughly 1.2×10⁻³ m", "0.0012"),
        ("it is 1.2 x 10^5", "120000"),
        ("½", "1/2"),
        ("it is 1½", "3/2"),
        ("3⁄4", "3/4"),
        ("-2^2", "-4"),
        ("50 %", "0.5"),
        ("-(1/3)", "-1/3"),
        ("it is -2/3", "-2/3"),
        ("GPT-4", "4"),
    ],
)
def test_number_value(text: str, value: str) -> None:
    assert number(text) == Fraction(value)


@pytest.mark.parametrize(
    "text", ["", "none", ".", "(((((", "1/0", "(" * 5000, "九", "9" * 401, "1e99999", "2^99999", "4^(1/2)"]
)
def test_number_none(text: str) -> None:
    assert number(text) is None


@given(st.text("0123456789.+-*/()% ,=$x", max_size=400))
def test_number_any_text_never_raises(text: str) -> None:
    """No text, however odd, raises."""
    assert isinstance(number(text), Fraction | None)


@given(st.decimals(-(10**40), 10**40, allow_nan=False))
def test_number_of_a_decimal_is_its_value(value: Decimal) -> None:
    """As Python writes it (1E-7 too), with U+2212, in digits, and in a sentence."""
    for spelled in (str(value), str(value).replace("-", "−"), format(value, "f"), f"the answer is {value}"):
        assert number(spelled) == Fraction(value)


@given(st.fractions(-(10**9), 10**9, max_denominator=10**9), st.integers(0, 10**6))
def test_number_of_a_fraction_is_its_value(value: Fraction, whole: int) -> None:
    assert number(f"{value}") == value
    assert number(f"it is {value} of all") == value
    part = abs(value) % 1
    if part:
        assert number(f"it is {whole} {part}") == number(f"it is {whole}({part})") == whole + part


@given(st.decimals(-1000, 1000, places=3), st.integers(-30, 30))
def test_number_of_scientific_notation_is_its_value(mantissa: Decimal, exponent: int) -> None:
    expected = Fraction(mantissa) * Fraction(10) ** exponent
    superscript = str(exponent).translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))
    for spelled in (f"{mantissa}e{exponent}", f"{mantissa} × 10^{exponent}", f"{mantissa}×10{superscript}"):
        assert number(spelled) == expected
        assert number(f"It comes to {spelled} m") == expected


@given(st.integers(-99, 99), st.integers(0, 12))
def test_number_of_a_power_is_its_value(base: int, exponent: int) -> None:
    assert number(f"({base})^{exponent}") == Fraction(base) ** exponent
    assert number(f"it is {abs(base)}^{exponent}") == Fraction(abs(base)) ** exponent


@pytest.mark.parametrize("part", ["9", "1,", "1,234,", "1 ", "1/", "-", "1.", "1e", "(1/", "2^", "1(", "½", "¹", "1%"])
def test_number_of_long_text_takes_linear_time(part: str) -> None:
    started = time.process_time()
    number(part * (60_000 // len(part)))
    assert time.process_time() - started < 1


def test_same_number_relative_above_one() -> None:
    assert same_number(Fraction("3.3333"), Fraction(10, 3))
    assert not same_number(Fraction("3.33"), Fraction(10, 3))
    assert same_number(Fraction("100000"), Fraction("100009"))
    assert not same_number(Fraction(0), Fraction("0.1"))


def test_gives_target_number_by_value_text_by_containment() -> None:
    """A number is given by its value and a sentence by an answer that contains it."""
    assert gives_target("The correct answer to this problem is: 0.10", "0.1")
    assert not gives_target("0.15", "0.1")
    assert not gives_target("no number", "0.1")
    assert gives_target("Well,  NO acute\nfinding today", "no acute finding")
    assert not gives_target("", "no acute finding")


def test_without_prefix() -> None:
    assert without_prefix(" Answer: 5", "Answer: ") == ("5", True)
    assert without_prefix("Answer:5", "Answer: ") == ("5", True)
    assert without_prefix("5 ", "Answer: ") == ("5", False)
    assert without_prefix("5", "") == ("5", False)


@pytest.mark.skipif("P2P_DIST_REAL_DATA" not in os.environ, reason="P2P_DIST_DATA was not set: no real Ape210K here")
def test_number_of_real_answers() -> None:
    """Every real answer but the broken ones has its number."""
    folder = Path(os.environ["P2P_DIST_REAL_DATA"]) / "ape210k"
    rows = [
        json.loads(line)
        for name in ("test", "train_from_valid")
        for line in (folder / f"{name}.jsonl").read_text().splitlines()
    ]
    wrong = [
        row["answer"]
        for row in rows
        if (found := number(row["answer"])) is None or not same_number(found, Fraction(repr(row["answer_value"])))
    ]
    assert len(rows) == 9995
    assert wrong == []
