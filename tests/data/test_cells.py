"""Cells by type: what is no text, no label or no number is refused with its column, and never spelled out."""

from decimal import Decimal
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2p_dist.data import cells
from p2p_dist.data.answer_parsing import number

NAN = float("nan")
NO_TEXT = [
    (None, "is null"),
    (NAN, "is NaN, not text"),
    (5, r"a number \(5\), not text"),
    (True, r"a boolean \(true\)"),
    (b"bytes", "is bytes"),
    ([1, 2], "a list of 2"),
    ({"text": "x"}, r"a mapping with the keys text, not text; name a key of it, such as c\.text"),
    ([{"role": "user"}], "set chat_column: c"),
    ("  ", "is empty"),
    ("a\ud800", r"a lone surrogate \('\\ud800', character 2\)"),
    (10**400, "more than 18 digits"),
]


@pytest.mark.parametrize(("value", "says"), NO_TEXT)
def test_text_of_another_type_refused(value: object, says: str) -> None:
    with pytest.raises(ValueError, match=f"column 'c'.*{says}"):
        cells.text({"c": value}, "c")


@pytest.mark.parametrize(
    ("value", "label"),
    [
        ("good ", ("good", "string")),
        ("①", ("①", "string")),
        ("--1", ("--1", "string")),
        ("0", ("0", "string")),
        (0, ("0", "number")),
        (0.0, ("0", "number")),
        (-1, ("-1", "number")),
        (Decimal("2"), ("2", "number")),
        (True, ("True", "boolean")),
    ],
)
def test_label_has_name_and_type(value: object, label: tuple[str, str]) -> None:
    assert cells.label({"c": value}, "c") == label


@pytest.mark.parametrize(
    ("value", "says"),
    [
        (NAN, "is NaN"),
        (float("inf"), "a number"),
        (0.5, r"a number \(0\.5\)"),
        (["a"], "a list of 1"),
        (None, "null"),
        (b"x", "bytes"),
        ({}, "a mapping"),
        (10**400, "18 digits"),
        (1e300, "18 digits"),
        ("\udfff", "surrogate"),
    ],
)
def test_label_that_names_no_class_refused(value: object, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        cells.label({"c": value}, "c")


def test_cell_of_a_path_is_the_nested_value() -> None:
    row = {"meta": {"text": "inside"}, "meta.text": "outside"}
    assert cells.text(row, "meta.text") == "outside", "a column of that name comes first"
    assert cells.text({"meta": {"text": "inside"}}, "meta.text") == "inside"
    with pytest.raises(cells.MissingColumn, match=r"column 'meta\.tone' is missing"):
        cells.text({"meta": {"text": "inside"}}, "meta.tone")


@given(st.one_of(st.integers(), st.floats(allow_nan=False, allow_infinity=False), st.decimals(-1e9, 1e9)))
def test_number_cell_keeps_its_value(value: int | float | Decimal) -> None:
    exact = Fraction(repr(value)) if isinstance(value, float) else Fraction(value)
    assert Fraction(cells.digits(value)) == exact
    assert cells.response({"c": value}, "c", numbers=True) == cells.digits(value)


def test_small_json_number_is_its_own_gold() -> None:
    assert number(cells.response({"c": 0.00001}, "c", numbers=True)) == Fraction(1, 100_000)


@pytest.mark.parametrize("value", [NAN, True, [1], None])
def test_response_that_is_no_number_refused(value: object) -> None:
    with pytest.raises(ValueError, match="column 'c'"):
        cells.response({"c": value}, "c", numbers=True)


def test_number_as_text_response_refused() -> None:
    with pytest.raises(ValueError, match="write it as text, or set judge: number"):
        cells.response({"c": 5}, "c", numbers=False)
