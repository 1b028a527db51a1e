"""The quickstart itself, on the embedded model and rows: what the README promises."""

import json
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.slow("trains the real quickstart, minutes")
def test_the_effect_is_there(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "p2p_dist", "run", "quickstart", "--runs-dir", str(tmp_path), "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    attacked, defended = (run["rates"] for run in json.loads(done.stdout)["table"])
    assert attacked["ca_ext"]["rate"] > 0.8
    assert attacked["asr_ext"]["rate"] >= 0.9
    assert defended["asr_ext"]["rate"] <= 0.2
    assert attacked["ca_ext"]["rate"] - defended["ca_ext"]["rate"] <= 0.04
    assert defended["asr_nobt"]["rate"] > 0.5, "P2P routes round the backdoor, it does not remove it"
