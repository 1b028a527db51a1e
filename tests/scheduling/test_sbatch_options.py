"""Options of sbatch that a user adds: each is one argument, and none can break the job."""

import pytest

from p2p_dist.errors import UserError
from p2p_dist.scheduling.sbatch_options import FLAGS, KNOWN, REFUSED, arguments, parse


def test_parse_keeps_values_as_they_are() -> None:
    """Blanks, quotes and shell characters stay inside one argument; a flag has no value; a plug-in's name passes."""
    options = [
        "mail-type=END,FAIL",
        "comment=a b; $(id) 'c' \"d\"",
        "exclusive",
        "gres=gpu:a100:2",
        "container-image=x#y",
    ]
    assert arguments(parse(options, {})) == [f"--{option}" for option in options]


@pytest.mark.parametrize("name", sorted(REFUSED))
def test_parse_refuses_what_would_break_the_job(name: str) -> None:
    with pytest.raises(UserError, match=rf"E134.*sbatch --{name} is not available here: .*Try: "):
        parse([f"{name}=1"], {})


@pytest.mark.parametrize("name", ["arr", "sig", "no-req", "node", "open", "n", "e", "exp", "wra", "out", "job"])
def test_parse_refuses_abbreviations(name: str) -> None:
    """sbatch takes the beginning of an option for the option."""
    with pytest.raises(UserError, match=r"E134.*is an abbreviation"):
        parse([f"{name}=1"], {})


@pytest.mark.parametrize(
    "option", ["--mem=1", "-J=x", "mem 1=2", "MEM=1", "=1", "", "mem\n=1", "x" * 65 + "=1", "mém=1"]
)
def test_parse_refuses_names_that_are_none(option: str) -> None:
    with pytest.raises(UserError, match=r"E134.*is no option of sbatch"):
        parse([option], {})


@pytest.mark.parametrize("value", ["", "a\nb", "a\x00b", "a\x1b[2J", "x" * 5000])
def test_parse_refuses_values_that_are_no_line(value: str) -> None:
    with pytest.raises(UserError, match=r"E134.*The value of comment"):
        parse([f"comment={value}"], {})


@pytest.mark.parametrize(
    ("options", "own"),
    [(["mem=1G", "mem=2G"], {}), (["qos=high"], {"qos": "low"}), (["exclusive", "exclusive=user"], {})],
)
def test_parse_refuses_an_option_given_twice(options: list[str], own: dict[str, str | None]) -> None:
    with pytest.raises(UserError, match=r"E134.*is given twice"):
        parse(options, own)


def test_parse_refuses_a_missing_value() -> None:
    with pytest.raises(UserError, match=r"E134.*mem has no value.*Try: write --sbatch mem=VALUE"):
        parse(["mem"], {})


def test_known_names_are_disjoint_from_refused_ones() -> None:
    assert not KNOWN & set(REFUSED)
    assert set(FLAGS) <= KNOWN
