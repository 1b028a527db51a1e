"""The examples run, from a file as a user starts them."""

import re
import subprocess
import sys
from pathlib import Path

from p2p_dist.data.substitutions import read_choices

EXAMPLES = Path(__file__).parents[1] / "examples"


def test_one_run_prints_the_rates_of_the_defended_model(with_data: Path) -> None:
    """Rows to P2P to training to answers, on the tiny model."""
    command = [sys.executable, str(EXAMPLES / "one_run.py"), "--source", str(with_data / "rotten_tomatoes")]
    done = subprocess.run([*command, "--rows", "100"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    first, *lines = done.stdout.splitlines()
    assert re.fullmatch(r"100 rows, 8 steps, loss \d+\.\d{3}", first)
    rates = {name: (int(k), int(n)) for name, k, n in re.findall(r"^(\w+) .*\((\d+)/(\d+)\)$", "\n".join(lines), re.M)}
    assert rates["ca_ext"][1] == 20
    assert rates["asr_ext"][1] == rates["asr_nobt"][1] == 10
    assert all(0 <= k <= n for k, n in rates.values())


def test_one_run_fits_on_a_screen_or_two() -> None:
    code = (EXAMPLES / "one_run.py").read_text().partition("def one_run")[2]
    assert len(code.splitlines()) < 60


def test_wordnet_synonyms_writes_words_that_share_a_synset(tmp_path: Path) -> None:
    """Rows of WordNet's format, with its licence, a marker of an adjective and a phrase, become a thesaurus."""
    lines = {
        "noun": "  1 This software is WordNet\n00001740 10 n 03 film 0 movie 0 motion_picture 0 001 @ 00001930 n | x\n",
        "verb": "00002000 30 v 02 Shoot 1 film 2 000 | y\n",
        "adj": "00003000 00 a 02 good(p) 0 fine 3 000 | z\n",
        "adv": "",
    }
    for part, content in lines.items():
        (tmp_path / f"data.{part}").write_text(content)
    out = tmp_path / "synonyms.jsonl"
    command = [sys.executable, str(EXAMPLES / "wordnet_synonyms.py"), str(tmp_path), str(out)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert read_choices(out, 5) == {
        "film": ("film", "movie", "shoot"),
        "fine": ("fine", "good"),
        "good": ("good", "fine"),
        "movie": ("movie", "film"),
        "shoot": ("shoot", "film"),
    }
