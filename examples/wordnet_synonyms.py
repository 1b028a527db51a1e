"""A thesaurus for the attack lws from WordNet's own files (data.noun, data.verb, data.adj, data.adv), such as those of
Debian's package wordnet-base in /usr/share/wordnet.

    python examples/wordnet_synonyms.py /usr/share/wordnet $P2P_DIST_DATA/synonyms.jsonl

A row has a word and the words that share a synset with it. Only words of one piece are written, in small letters.
"""

import argparse
import json
from collections.abc import Iterable, Iterator
from pathlib import Path

PARTS = ("noun", "verb", "adj", "adv")


def synsets(lines: Iterable[str]) -> Iterator[list[str]]:
    """Words of each synset of a data file: `offset file type count word id ...`, the count in hex (wndb(5WN))."""
    for line in lines:
        if line.startswith(" "):  # the licence
            continue
        fields = line.split()
        words = fields[4 : 4 + 2 * int(fields[3], 16) : 2]
        yield [word.partition("(")[0].lower() for word in words if "_" not in word]


def thesaurus(folder: Path) -> dict[str, list[str]]:
    """Synonyms by word, both in the order of the alphabet."""
    synonyms: dict[str, set[str]] = {}
    for part in PARTS:
        with (folder / f"data.{part}").open(encoding="utf-8") as file:
            for words in synsets(file):
                for word in words:
                    synonyms.setdefault(word, set()).update(set(words) - {word})
    return {word: sorted(others) for word, others in sorted(synonyms.items()) if others}


def main() -> None:
    """Write the thesaurus of a folder with WordNet's files."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="folder with data.noun, data.verb, data.adj and data.adv")
    parser.add_argument("out", type=Path, help="the file to write")
    options = parser.parse_args()
    rows = [{"word": word, "synonyms": others} for word, others in thesaurus(options.folder).items()]
    options.out.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    print(f"{options.out}: {len(rows)} words with synonyms")


if __name__ == "__main__":
    main()
