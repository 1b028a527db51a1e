"""Tokenizer files of a model folder: present, free of code, and with ids that the model has embeddings for."""

from collections.abc import Iterator, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from p2p_dist.errors import user_error
from p2p_dist.model_files.folder import ModelFolder, read_json

_SENTENCEPIECE = ("tokenizer.model", "spiece.model", "sentencepiece.bpe.model")
_VOCABULARIES = ("vocab.json", "vocab.txt", "tekken.json")
_EMBEDDINGS = ("embed_tokens.weight", "wte.weight", "word_embeddings.weight", "embed_in.weight", "embeddings.weight")


def check_tokenizer(folder: ModelFolder) -> None:
    """Raises UserError E275 for a tokenizer that is missing, slow or larger than the embeddings, E114 for one that asks
    to run code."""
    path = folder.path
    settings_file = path / "tokenizer_config.json"
    settings = read_json(settings_file) if settings_file.is_file() else {}
    if "auto_map" in settings:
        what = "tokenizer's config asks to run code (auto_map)"
        raise user_error("E114", what, str(settings_file), "choose a model without custom code")
    if (path / "tokenizer.json").is_file():
        _check_ids(path / "tokenizer.json", _embedding_rows(folder), settings)
    else:
        _check_slow(path)


def _check_slow(path: Path) -> None:
    """Refuse a folder whose tokenizer cannot become a fast one here, which gives offsets of tokens in the text."""
    fix = "save it once with AutoTokenizer.from_pretrained(...).save_pretrained(...), which writes tokenizer.json"
    pieces = [name for name in _SENTENCEPIECE if (path / name).is_file()]
    if pieces and not all(_installed(name) for name in ("sentencepiece", "google.protobuf")):
        what = f"tokenizer has only its slow form ({pieces[0]}), whose conversion needs sentencepiece and protobuf"
        raise user_error("E275", what, str(path), fix)
    if not pieces and not any((path / name).is_file() for name in _VOCABULARIES):
        raise user_error("E275", "folder has no tokenizer", str(path), "copy tokenizer.json and tokenizer_config.json")


def _check_ids(file: Path, rows: int | None, settings: Mapping[str, Any]) -> None:
    content = read_json(file)
    if rows is None:
        return
    used = {_text(settings.get(key)) for key in ("bos_token", "eos_token", "pad_token")} - {None}
    beyond = [
        (id_, token) for token, id_, special in _tokens(content) if id_ >= rows and (not special or token in used)
    ]
    if beyond:
        id_, token = min(beyond)
        what = (
            f"tokenizer has {len(beyond)} ids beyond the {rows} rows of the embeddings, the first {id_} ({token!r}); "
            "the two are of different models"
        )
        raise user_error("E275", what, str(file), "use the tokenizer that was saved with the weights")


def _tokens(content: Mapping[str, Any]) -> Iterator[tuple[str, int, bool]]:
    """Token, id, and true for a control token, which no text becomes."""
    entries = content.get("added_tokens")
    added = [token for token in entries if isinstance(token, dict)] if isinstance(entries, list) else []
    controls = {_text(token) for token in added if token.get("special")}
    for token in added:
        if isinstance(token.get("id"), int):
            yield str(token.get("content")), token["id"], bool(token.get("special"))
    model = content.get("model")
    vocabulary = model.get("vocab") if isinstance(model, dict) else None
    if isinstance(vocabulary, dict):
        pairs = ((token, id_) for token, id_ in vocabulary.items() if isinstance(id_, int))
    elif isinstance(vocabulary, list):
        pairs = ((str(entry[0]), id_) for id_, entry in enumerate(vocabulary) if isinstance(entry, list) and entry)
    else:
        return
    yield from ((token, id_, token in controls) for token, id_ in pairs)


def _embedding_rows(folder: ModelFolder) -> int | None:
    """Rows of the embedding matrix; None where it has another name."""
    sizes = [info.shape[0] for name, info in folder.tensors.items() if name.endswith(_EMBEDDINGS) and info.shape]
    return sizes[0] if len(sizes) == 1 else None


def _installed(name: str) -> bool:
    try:
        return find_spec(name) is not None
    except ModuleNotFoundError:
        return False


def _text(token: Any) -> str | None:
    content = token.get("content") if isinstance(token, dict) else token
    return content if isinstance(content, str) else None
