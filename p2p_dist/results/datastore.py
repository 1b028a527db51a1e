"""Storage of a data stage: rows, test suites, the ledger, and a manifest that is written last."""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, JsonValue

from p2p_dist.config.stages import AttackStage, DefenseStage, EditStage, ExtraSuitesStage
from p2p_dist.config.study import PromptSpec
from p2p_dist.data import images
from p2p_dist.data.answer_parsing import ResponseSpace
from p2p_dist.data.built import Built, LabelSpace, Suite, When
from p2p_dist.data.example import Note, Row
from p2p_dist.errors import Exit, Problem, UserError, user_error
from p2p_dist.results import atomic, checksums, confined, jsonfile
from p2p_dist.results.folder_handles import Damaged
from p2p_dist.results.lease import check_fence
from p2p_dist.results.records import check
from p2p_dist.results.rundir import RunDir, StageDir

_AGAIN = "delete the stage's folder and run the study again"


class _Part(BaseModel):
    model_config = ConfigDict(extra="allow", strict=True)


class _FileEntry(_Part):
    sha256: str
    bytes: Annotated[int, Field(ge=0)]


class _SuiteEntry(_Part):
    rows: Annotated[int, Field(ge=0)]
    offset: Annotated[int, Field(ge=0)]
    triggered: bool
    prefix: str


class _Triggers(_Part):
    pieces: list[str]
    when: When = "mixed"


class _Manifest(_Part):
    """`manifest.json`: hashes of the files of rows, and the rules for reading answers."""

    labels: dict[str, JsonValue]
    responses: dict[str, JsonValue] | None
    counts: dict[str, JsonValue]
    triggers: _Triggers
    suites: dict[str, _SuiteEntry]
    files: dict[Annotated[str, Field(pattern=r"^[\w-][\w.-]*\.jsonl$")], _FileEntry]
    prompt: dict[str, JsonValue] | None = None


def write(folder: StageDir, built: Built, spec: Mapping[str, Any]) -> None:
    """Write a finished data stage. The same Built gives the same bytes."""
    parts: dict[str, Sequence[Row] | Sequence[Note]] = {
        "train.jsonl": built.train,
        "reserve.jsonl": built.reserve,
        "ledger.jsonl": built.notes,
    }
    parts |= {f"test_{name}.jsonl": suite.rows for name, suite in built.suites.items()}
    lines = {name: _lines(rows) for name, rows in parts.items()}
    if built.bad_rows:
        lines["dropped.jsonl"] = _dropped_lines(built.bad_rows)
    files = {}
    for name, content in lines.items():
        sha256, size = atomic.write_lines(folder.path / name, content)
        files[name] = {"sha256": sha256, "bytes": size}
    manifest = {
        "spec": dict(spec),
        "labels": asdict(built.labels),
        "responses": asdict(built.responses) if built.responses else None,
        "counts": built.counts,
        "triggers": {
            "pieces": list(built.triggers),
            **({} if built.when == "mixed" else {"when": built.when}),
            "survival": "triggers_whole in cost.json of each training, in result.json of each evaluation",
        },
        "suites": {
            name: {"rows": len(s.rows), "offset": s.offset, "triggered": s.triggered, "prefix": s.prefix}
            for name, s in built.suites.items()
        },
        "files": files,
        **({"prompt": built.prompt.model_dump()} if built.prompt.is_chat else {}),
    }
    checksums.write(folder, {folder.manifest.name: atomic.to_json(manifest)})
    check_fence()
    atomic.write_json(folder.manifest, manifest)


def read(folder: StageDir) -> Built:
    """Read a data stage. Raises UserError E209 when a file is missing or does not match the manifest, E211 when the
    manifest is damaged."""
    with _reading(folder):
        manifest = _manifest(folder)
        files = {name: _verified(folder.path / name, entry["sha256"]) for name, entry in manifest["files"].items()}

        def rows(name: str) -> list[Row]:
            return [Row.from_json(line) for line in _parsed(files[name])]

        suites = {
            name: Suite(rows(f"test_{name}.jsonl"), entry["offset"], entry["triggered"], entry["prefix"])
            for name, entry in manifest["suites"].items()
        }
        notes = [Note.from_json(line) for line in _parsed(files["ledger.jsonl"])]
        labels, responses = (
            LabelSpace(**manifest["labels"]),
            manifest["responses"] and ResponseSpace(**manifest["responses"]),
        )
        train, reserve, triggers = rows("train.jsonl"), rows("reserve.jsonl"), tuple(manifest["triggers"]["pieces"])
        when = manifest["triggers"].get("when", "mixed")
        prompt = PromptSpec.model_validate(manifest.get("prompt") or {})
        built = Built(train, reserve, suites, labels, notes, manifest["counts"], responses, triggers, when, prompt)
        has_images = any(part[0].image for part in (train, *(suite.rows for suite in suites.values())) if part)
        return replace(built, image_folder=_image_folder(folder)) if has_images else built


def _image_folder(folder: StageDir) -> str:
    """Folder of the images of a stage's rows: that of the task's rows, from which the stage was made. Raises UserError
    E290 or E291."""
    run = RunDir(folder.path.parents[1])
    stage = folder.parse_stage()
    while not isinstance(stage, AttackStage):
        assert isinstance(stage, DefenseStage | ExtraSuitesStage | EditStage)
        stage = run.find(stage.reads.rows).parse_stage()
    return str(images.folder_of(Path(stage.local.source.place)))


def texts(folder: StageDir, suite: str) -> dict[str, str]:
    """Texts of a test suite by row id, without their prompt; empty when the stage has no such suite.

    Raises UserError E209 and E211, as `read` does.
    """
    name = f"test_{suite}.jsonl"
    with _reading(folder):
        files = _manifest(folder)["files"]
        if name not in files:
            return {}
        return {row["id"]: row["text"] for row in _parsed(_verified(folder.path / name, files[name]["sha256"]))}


def suite(folder: StageDir, name: str) -> tuple[Suite, ResponseSpace | None]:
    """One test suite and, where answers are text, the space they are parsed in; no rows when there is no such suite.

    Raises UserError E209 and E211, as `read` does.
    """
    with _reading(folder):
        manifest = _manifest(folder)
        space = manifest["responses"] and ResponseSpace(**manifest["responses"])
        if name not in manifest["suites"]:
            return Suite([], 0, False), space
        entry, file = manifest["suites"][name], f"test_{name}.jsonl"
        content = _verified(folder.path / file, manifest["files"][file]["sha256"])
        rows = [Row.from_json(line) for line in _parsed(content)]
        return Suite(rows, entry["offset"], entry["triggered"], entry["prefix"]), space


def manifest_sha256(folder: StageDir) -> str:
    """SHA-256 of the manifest, which holds the hashes of all rows of the stage."""
    return hashlib.sha256(confined.read_bytes(folder.manifest)).hexdigest()


@contextmanager
def _reading(folder: StageDir) -> Iterator[None]:
    """Report content that is not what a data stage writes as E211."""
    try:
        yield
    except UserError:
        raise
    except (ValueError, KeyError, TypeError, AttributeError, FileNotFoundError) as error:
        what = f"damaged manifest or rows: {type(error).__name__} {error}"
        raise user_error("E211", what, str(folder.manifest), _AGAIN, Exit.INTEGRITY) from error


def _manifest(folder: StageDir) -> dict[str, Any]:
    """Content of the manifest, checked against its checksum. Raises UserError E211, and as `checksums.require` does."""
    try:
        content = jsonfile.parse(checksums.content(folder, folder.manifest))
        check(_Manifest, content)
    except (Damaged, FileNotFoundError) as error:
        raise user_error("E211", f"damaged manifest: {error}", str(folder.manifest), _AGAIN, Exit.INTEGRITY) from error
    return dict(content)


def _lines(rows: Sequence[Row] | Sequence[Note]) -> Iterator[bytes]:
    encode = json.JSONEncoder(sort_keys=True, ensure_ascii=False).encode
    return ((encode(row.to_json()) + "\n").encode() for row in rows)


def _dropped_lines(problems: Sequence[Problem]) -> Iterator[bytes]:
    """A line per dropped row: its place under the source, and the reason."""
    encode = json.JSONEncoder(sort_keys=True, ensure_ascii=False).encode
    lines = ({"place": problem.where.rsplit("/", 1)[-1], "reason": problem.what} for problem in problems)
    return ((encode(line) + "\n").encode("utf-8", "backslashreplace") for line in lines)


def _parsed(path: Path) -> Iterator[dict[str, Any]]:
    # Lines of bytes, not of text: a sentence may hold U+0085 or U+2028, which end a line of text but not of JSON lines.
    decode = json.JSONDecoder().decode
    with confined.open_file(path) as file:
        for line in file:
            yield decode(line.decode())


def _verified(path: Path, sha256: str) -> Path:
    try:
        digest = checksums.sha256_of(path)
    except FileNotFoundError as error:
        what = "a file listed in the manifest is missing"
        raise user_error("E209", what, str(path), _AGAIN, Exit.INTEGRITY) from error
    except (Damaged, OSError) as error:
        raise user_error("E209", f"damaged: {error}", str(path), _AGAIN, Exit.INTEGRITY) from error
    if digest != sha256:
        what = f"expected sha256 {sha256[:12]}, found {digest[:12]}"
        raise user_error("E209", what, str(path), _AGAIN, Exit.INTEGRITY)
    return path
