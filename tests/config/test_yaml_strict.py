"""YAML that means what it looks like."""

import pytest

from p2p_dist.config.yaml_strict import parse
from p2p_dist.errors import UserError


@pytest.mark.parametrize(
    ("text", "code", "line"),
    [
        ("a: 1\nb: no\n", "E101", 2),
        ("time: 1:30:00\n", "E101", 1),
        ("n: 0123\n", "E101", 1),
        ("lr: 1\nx: 2\nlr: 3\n", "E102", 3),
        ("a: !!python/object/apply:os.system [id]\n", "E104", 1),
        ("a: !mine 3\n", "E104", 1),
        ("a: " + "{b: " * 40 + "1" + "}" * 40 + "\n", "E105", 1),
        ("- a\n- b\n", "E106", 1),
        ("", "E106", 1),
        ("a:\n\t- b\n", "E106", 2),
        ("a: [1, 2\n", "E106", 2),
        ("a: &x [*x]\n", "E105", 1),
        ("a: 1\n? [b, c]\n: 2\n", "E104", 2),
        ("a: {? {b: 1} : 2}\n", "E104", 1),
        ("a: 0x1F\n", "E101", 1),
        ("a: -0b11\n", "E101", 1),
        ("a: 0o17\n", "E101", 1),
        (f"a: {'1' * 5000}\n", "E105", 1),
    ],
)
def test_traps_are_errors_with_a_line(text: str, code: str, line: int) -> None:
    with pytest.raises(UserError) as caught:
        parse(text.encode(), "s.yaml")
    problem = caught.value.problems[0]
    assert problem.code == code
    assert f"s.yaml:{line}" in problem.where


def test_an_alias_bomb_is_refused_quickly() -> None:
    bomb = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
        f"{chr(98 + i)}: &{chr(98 + i)} [{', '.join(['*' + chr(97 + i)] * 9)}]\n" for i in range(8)
    )
    with pytest.raises(UserError) as caught:
        parse(bomb.encode(), "s.yaml")
    assert caught.value.problems[0].code == "E105"


@pytest.mark.parametrize(
    ("raw", "code"),
    [
        (b"a: " + b"[" * 2_000, "E105"),
        (b"a: \x07\n", "E106"),
        (b"a: \xff\xfe\n", "E106"),
        ("a: 1".encode("utf-16"), "E106"),
        (b"a: " + b"x" * (1 << 20), "E105"),
    ],
)
def test_bytes_that_are_no_config(raw: bytes, code: str) -> None:
    with pytest.raises(UserError) as caught:
        parse(raw, "s.yaml")
    assert caught.value.problems[0].code == code


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-5", 1e-5),
        ("1E5", 1e5),
        (".5", 0.5),
        ("-3", -3),
        ("1_000", 1000),
        ("true", True),
        ("null", None),
        ("'no'", "no"),
        ("'0x1F'", "0x1F"),
        ("0xyz", "0xyz"),
        ("1.10", 1.1),
        ("2026-01-01", "2026-01-01"),
    ],
)
def test_plain_values(text: str, value: object) -> None:
    assert parse(f"a: {text}\n".encode(), "s.yaml").data == {"a": value}


def test_bom_and_crlf_are_fine() -> None:
    assert parse("\ufeffa: 1\r\nb: 2\r\n".encode(), "s.yaml").data == {"a": 1, "b": 2}


def test_all_problems_at_once() -> None:
    with pytest.raises(UserError) as caught:
        parse(b"a: no\nb: 007\na: 1\n", "s.yaml")
    assert [problem.code for problem in caught.value.problems] == ["E101", "E101", "E102"]
