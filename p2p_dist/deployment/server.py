"""Built-in server of an export: OpenAI's chat completions, answered by evaluation's own code.

For one machine and a first look; vLLM is faster. Requests that wait together are one batch. Raw completions are
refused, because a prompt without the deployed one reaches the backdoor, and so is all that the chat template refuses.
"""

import asyncio
import hmac
import json
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from typing import Any

from aiohttp import web

from p2p_dist.deployment.chat_template import CONTROL_TOKEN, ONE_MESSAGE, PLAIN_TEXT
from p2p_dist.deployment.loaded import Deployed
from p2p_dist.deployment.predict import predict
from p2p_dist.deployment.prediction_files import Input
from p2p_dist.errors import UserError
from p2p_dist.modeling.control_tokens import control_pattern

MODEL = "p2p"
RAW = "Raw completions bypass the prompt of this model, and with it its defense. Use /v1/chat/completions."
NO_STREAM = "Streaming is not supported here: an answer is one message."
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
Answered = Sequence[Mapping[str, Any] | UserError]
_Waiting = tuple[str, "asyncio.Future[Mapping[str, Any]]"]


class Refusal(Exception):
    """A request that is answered with this message and HTTP status 400."""


class Server:
    """A loaded export behind HTTP. `batch` is the largest number of requests that are answered together; requests must
    carry `api_key` unless it is None."""

    def __init__(self, deployed: Deployed, batch: int = 64, api_key: str | None = None):
        self.deployed, self.batch, self.api_key = deployed, batch, api_key
        self.counts: Counter[str] = Counter()
        self.batches: list[int] = []
        """Sizes of the last batches."""
        self._waiting: asyncio.Queue[_Waiting] = asyncio.Queue()

    def app(self) -> web.Application:
        """The application, with the task that answers what waits."""
        app = web.Application(middlewares=[self._guard], client_max_size=1 << 20)
        app.router.add_get("/health", self._health)
        app.router.add_get("/metrics", self._metrics)
        app.router.add_get("/v1/models", self._models)
        app.router.add_post("/v1/chat/completions", self._chat)
        app.router.add_post("/v1/completions", self._raw)
        app.cleanup_ctx.append(self._answering)
        return app

    @web.middleware
    async def _guard(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Check the key, and answer refusals as OpenAI's server does."""
        given = request.headers.get("Authorization", "").removeprefix("Bearer ")
        if self.api_key is not None and not hmac.compare_digest(given.encode(), self.api_key.encode()):
            return _error(401, "wrong or missing API key")
        try:
            return await handler(request)
        except Refusal as refusal:
            self.counts["refused"] += 1
            return _error(400, str(refusal))

    async def _health(self, _: web.Request) -> web.StreamResponse:
        return web.json_response({"status": "ok"})

    async def _metrics(self, _: web.Request) -> web.StreamResponse:
        names = ("answered", "outside", "refused", "raw")
        return web.Response(text="".join(f"p2p_{name}_total {self.counts[name]}\n" for name in names))

    async def _models(self, _: web.Request) -> web.StreamResponse:
        return web.json_response({"object": "list", "data": [{"id": MODEL, "object": "model", "owned_by": "p2p-dist"}]})

    async def _raw(self, _: web.Request) -> web.StreamResponse:
        self.counts["raw"] += 1
        return _error(403, RAW)

    async def _chat(self, request: web.Request) -> web.StreamResponse:
        text = message_of(await _content(request), self.deployed)
        future: asyncio.Future[Mapping[str, Any]] = asyncio.get_running_loop().create_future()
        await self._waiting.put((text, future))
        answer = await future
        self.counts["answered"] += 1
        self.counts["outside"] += bool(answer.get("outside"))
        return web.json_response(completion(answer, self.deployed))

    async def _answering(self, _: web.Application) -> AsyncIterator[None]:
        task = asyncio.create_task(self._answer_batches())
        yield
        task.cancel()

    async def _answer_batches(self) -> None:
        """Answer all that waits, up to `batch` at a time, in a thread; what arrives meanwhile is the next batch."""
        while True:
            waiting = [await self._waiting.get()]
            while len(waiting) < self.batch and not self._waiting.empty():
                waiting.append(self._waiting.get_nowait())
            self.batches = [*self.batches[-99:], len(waiting)]
            work = asyncio.to_thread(self._answers, [text for text, _ in waiting])
            answers: Answered | BaseException = (await asyncio.gather(work, return_exceptions=True))[0]
            if isinstance(answers, BaseException):  # a bug: status 500 for these, and the server stays
                for _, future in waiting:
                    future.set_exception(answers)
                continue
            for (_, future), answer in zip(waiting, answers, strict=True):
                if future.cancelled():
                    continue
                if isinstance(answer, UserError):
                    future.set_exception(Refusal(str(answer)))
                else:
                    future.set_result(answer)

    def _answers(self, texts: Sequence[str]) -> Answered:
        """Answers to the texts; where one of them cannot be answered, each is asked alone."""
        inputs = [Input(str(index), text) for index, text in enumerate(texts)]
        try:
            return list(predict(self.deployed, inputs, True, len(inputs), lambda done: None))
        except UserError as error:
            return [error] if len(texts) == 1 else [self._answers([text])[0] for text in texts]


def message_of(content: Mapping[str, Any], deployed: Deployed) -> str:
    """The text of a request's one user message. Raises Refusal for all that the chat template refuses too."""
    messages = content.get("messages")
    if not isinstance(messages, list) or len(messages) != 1 or not isinstance(messages[0], dict):
        raise Refusal(ONE_MESSAGE)
    if messages[0].get("role") != "user":
        raise Refusal(ONE_MESSAGE)
    text = messages[0].get("content")
    if not isinstance(text, str) or not text.strip():
        raise Refusal(PLAIN_TEXT)
    if control_pattern(deployed.base.tokenizer).search(text):
        raise Refusal(CONTROL_TOKEN)
    if content.get("stream"):
        raise Refusal(NO_STREAM)
    return text


def completion(answer: Mapping[str, Any], deployed: Deployed) -> dict[str, object]:
    """OpenAI's answer: the deployed word of the label, or the text; `p2p` has the label, the alarm and the scores."""
    words = {label.name: label.word for label in deployed.contract.answers.labels}
    text = answer["text"] if "text" in answer else words[answer["label"]]
    finish = "stop" if answer.get("finished", True) else "length"
    choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": finish}
    details = {key: value for key, value in answer.items() if key in ("label", "outside", "scores")}
    return {
        "id": "chatcmpl-p2p",
        "object": "chat.completion",
        "created": 0,
        "model": MODEL,
        "choices": [choice],
        "p2p": details,
    }


async def _content(request: web.Request) -> Mapping[str, Any]:
    try:
        content = await request.json()
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise Refusal(f"not JSON: {error}") from error
    if not isinstance(content, dict):
        raise Refusal("not a JSON object")
    return content


def _error(status: int, message: str) -> web.Response:
    body = {"error": {"message": message, "type": "invalid_request_error", "code": status}}
    return web.json_response(body, status=status)
