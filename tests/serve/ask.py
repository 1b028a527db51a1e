"""Ask a server with the `openai` client: `ask.py URL SETTINGS`, messages of a request in JSON a line in, one answer in
JSON a line out. An error of the server is its status."""

import json
import sys

from openai import APIStatusError, OpenAI


def main(url: str, settings: str) -> None:
    """Answer every line of standard input."""
    client = OpenAI(base_url=url, api_key="none", max_retries=1, timeout=120)
    for line in sys.stdin:
        messages = json.loads(line)
        try:
            completion = client.chat.completions.create(messages=messages, **json.loads(settings))
            print(json.dumps(completion.choices[0].message.content))
        except APIStatusError as error:
            print(json.dumps(error.status_code))


if __name__ == "__main__":
    main(*sys.argv[1:])
