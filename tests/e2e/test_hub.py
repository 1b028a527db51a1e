"""A model from a hub: the ordinary client against a small hub of our own on loopback."""

import json
import subprocess
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import huggingface_hub
import pytest

from p2p_dist.assets import file_sha256
from p2p_dist.config.model import resolve_model
from p2p_dist.errors import Exit
from p2p_dist.modeling.random_init import random_model
from p2p_dist.scheduling.study import configs_dir
from tests import in_process
from tests.conftest import TINY_STUDY
from tests.studies import cli

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model as a folder in the hub's format."""
    folder = tmp_path_factory.mktemp("model")
    model, tokenizer = random_model(resolve_model("tiny", configs_dir() / "models").identity["shape"])
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture
def hub(model_folder: Path) -> Iterator[str]:
    """The address of a hub that has one model at one commit."""

    class Hub(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self.answer(body=False)

        def do_GET(self) -> None:
            self.answer(body=True)

        def answer(self, body: bool) -> None:
            if self.path.startswith(f"/api/models/test/tiny/tree/{COMMIT}"):
                self.listing()
                return
            _, _, name = self.path.partition(f"/test/tiny/resolve/{COMMIT}/")
            file = model_folder / name
            if not name or not file.is_file():
                self.send_response(404)
                self.send_header("X-Error-Code", "EntryNotFound")
                self.send_header("X-Repo-Commit", COMMIT)
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            self.send_response(200)
            self.send_header("X-Repo-Commit", COMMIT)
            self.send_header("ETag", f'"{file_sha256(file)}"')
            self.send_header("Content-Length", str(file.stat().st_size))
            self.end_headers()
            if body:
                self.wfile.write(file.read_bytes())

        def listing(self) -> None:
            names = ("evil.py", "weights.bin", *(path.name for path in model_folder.iterdir()))
            content = json.dumps([{"type": "file", "path": name, "size": 1, "oid": "0"} for name in names]).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: object) -> None:
            return

    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def run(
    folder: Path, model: str, carry_out: Callable[..., subprocess.CompletedProcess[str]]
) -> subprocess.CompletedProcess[str]:
    """Carry out one run with this model."""
    (folder / "study.yaml").write_text(TINY_STUDY.replace("model: tiny", f"model: {model}"))
    options = ("attack=none", "defense=none", "--backend", "local", "--json")
    return carry_out(folder / "study.yaml", folder / "runs", *options)


@pytest.mark.usefixtures("with_data")
def test_hub_and_folder_give_the_same_predictions(
    hub: str, model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_ENDPOINT", hub)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    from_hub = run(tmp_path / "a", f"test/tiny@{COMMIT}", cli)
    from_folder = run(tmp_path / "b", str(model_folder), in_process.cli)
    assert from_hub.returncode == from_folder.returncode == Exit.OK, from_hub.stderr + from_folder.stderr
    predictions = [next((tmp_path / side).rglob("predictions/clean.jsonl")).read_bytes() for side in "ab"]
    assert predictions[0] == predictions[1]
    fetched = {path.name for path in (tmp_path / "hf").rglob("snapshots/*/*")}
    assert "model.safetensors" in fetched
    assert not fetched & {"evil.py", "weights.bin"}


@pytest.mark.usefixtures("with_data")
def test_no_hub_is_said_in_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hf"))
    monkeypatch.setattr(huggingface_hub.utils._http.time, "sleep", lambda seconds: None)  # between five attempts
    done = run(tmp_path, f"test/tiny@{COMMIT}", in_process.cli)
    assert done.returncode == Exit.USAGE
    error = json.loads(done.stdout)
    assert (error["code"], error["where"]) == ("E119", "model")
    assert error["message"].startswith("cannot fetch model test/tiny")
    assert not list(tmp_path.rglob("attempts")), "nothing is started without the weights"
    assert "download the model and name its folder" in error["fix"]


@pytest.mark.usefixtures("with_data")
def test_a_model_that_wants_to_run_code_is_refused(model_folder: Path, tmp_path: Path) -> None:
    folder = tmp_path / "evil"
    folder.mkdir()
    for file in model_folder.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "auto_map": {"AutoModelForCausalLM": "evil.Model"}}))
    (folder / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    done = run(tmp_path, str(folder), in_process.cli)
    assert done.returncode == Exit.USAGE
    assert json.loads(done.stdout)["code"] == "E114"
    assert not (tmp_path / "ran").exists()
