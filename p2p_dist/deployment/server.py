"""Built-in server of an export: OpenAI's chat completions, answered by evaluation's own code.

For one machine and a first look; vLLM is faster. Requests that wait together are one batch. Raw completions are
refused unless they are allowed, because a prompt without the deployed one reaches the backdoor, and so is all that the
chat template refuses. A streamed text is written alone, token by token; a label is one piece.
"""

import asyncio
import hmac
import json
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from typing import Any, TypeVar

from aiohttp import web

from p2p_dist.deployment.chat_template import CONTROL_TOKEN, ONE_MESSAGE
from p2p_dist.deployment.loaded import Deployed
from p2p_dist.deployment.predict import predict
from p2p_dist.deployment.prediction_files import Input, chat_of
from p2p_dist.deployment.writing import complete_raw, write_answer
from p2p_dist.errors import UserError
from p2p_dist.modeling.control_tokens import control_pattern

MODEL = "p2p"
RAW = "Raw completions bypass the prompt of this model, and with it its defense. Use /v1/chat/completions."
NO_PROMPT = "A raw completion has a prompt of text and max_tokens from 1 to 512."
_MOST_RAW, _RAW = 512, 16
"""Largest and usual number of new tokens of a raw completion."""
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
Answered = Sequence[Mapping[str, Any] | UserError]
Result = TypeVar("Result")
_WAIT, _STEP = 0.02, 0.001
"""Longest wait for a batch as large as the last, and its steps, in seconds."""
_Waiting = tuple[Input, "asyncio.Future[Mapping[str, Any]]"]


class Refusal(Exception):
    """A request that is answered with this message and HTTP status 400."""


class Server:
    """A loaded export behind HTTP. `batch` is the largest number of requests that are answered together; requests must
    carry `api_key` unless it is None. With `allow_raw`, prompts are continued as they stand."""

    def __init__(self, deployed: Deployed, batch: int = 64, api_key: str | None = None, allow_raw: bool = False):
        self.deployed, self.batch, self.api_key, self.allow_raw = deployed, batch, api_key, allow_raw
        self.counts: Counter[str] = Counter()
        self.batches: list[int] = []
        """Sizes of the last batches."""
        self._waiting: asyncio.Queue[_Waiting] = asyncio.Queue()
        self._model = asyncio.Lock()
        """Held while the model computes."""

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

    async def _raw(self, request: web.Request) -> web.StreamResponse:
        self.counts["raw"] += 1
        if not self.allow_raw:
            return _error(403, RAW)
        prompt, new = _raw_of(await _content(request))
        async with self._model:
            text, finished = await _refusing(asyncio.to_thread(complete_raw, self.deployed, prompt, new))
        choice = {"index": 0, "text": text, "finish_reason": "stop" if finished else "length"}
        answer = {"id": "cmpl-p2p", "object": "text_completion", "created": 0, "model": MODEL, "choices": [choice]}
        return web.json_response(answer)

    async def _chat(self, request: web.Request) -> web.StreamResponse:
        content = await _content(request)
        asked = message_of(content, self.deployed)
        if content.get("stream") and self.deployed.contract.answers.kind == "generation":
            return await self._stream(request, asked)
        answer = await self._answer(asked)
        if content.get("stream"):
            return await self._stream(request, asked, answer)
        return web.json_response(completion(answer, self.deployed))

    async def _answer(self, asked: Input) -> Mapping[str, Any]:
        future: asyncio.Future[Mapping[str, Any]] = asyncio.get_running_loop().create_future()
        await self._waiting.put((asked, future))
        answer = await future
        self.counts["answered"] += 1
        self.counts["outside"] += bool(answer.get("outside"))
        return answer

    async def _stream(
        self, request: web.Request, asked: Input, answer: Mapping[str, Any] | None = None
    ) -> web.StreamResponse:
        """Server-sent events: an `answer` in one piece, else a text as it is written."""
        pieces: asyncio.Queue[str | None] = asyncio.Queue()
        loop = asyncio.get_running_loop()
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream", "Cache-Control": "no-cache"})
        if answer is not None:
            await response.prepare(request)
            await _send(response, {"role": "assistant", "content": word_of(answer, self.deployed)})
            return await _end(response, "stop")

        def on_piece(piece: str) -> None:
            loop.call_soon_threadsafe(pieces.put_nowait, piece)

        async with self._model:
            work = asyncio.create_task(asyncio.to_thread(write_answer, self.deployed, asked, on_piece))
            work.add_done_callback(lambda _: pieces.put_nowait(None))
            try:
                piece = await pieces.get()
                if piece is None:
                    await _refusing(work)
                await response.prepare(request)
                await _send(response, {"role": "assistant", "content": ""})
                while piece is not None:
                    await _send(response, {"content": piece})
                    piece = await pieces.get()
                finished = await _refusing(work)
            finally:  # a client that has left must not free the model
                await asyncio.wait([work])
        self.counts["answered"] += 1
        return await _end(response, "stop" if finished else "length")

    async def _answering(self, _: web.Application) -> AsyncIterator[None]:
        task = asyncio.create_task(self._answer_batches())
        yield
        task.cancel()

    async def _answer_batches(self) -> None:
        """Answer all that waits, up to `batch` at a time, in a thread; what arrives meanwhile is the next batch."""
        while True:
            waiting = await self._next_batch()
            self.batches = [*self.batches[-99:], len(waiting)]
            async with self._model:
                work = asyncio.to_thread(self._answers, [asked for asked, _ in waiting])
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

    async def _next_batch(self) -> list[_Waiting]:
        """The requests of the next batch. Clients that got their answers together ask again one after the other: where
        the last batch had several requests, as many are awaited for `_WAIT` seconds, or the first of them would be
        answered alone and all others would wait for it."""
        waiting = [await self._waiting.get()]
        expected = min(self.batch, self.batches[-1] if self.batches else 1)
        deadline = asyncio.get_running_loop().time() + _WAIT
        while len(waiting) < self.batch:
            if not self._waiting.empty():
                waiting.append(self._waiting.get_nowait())
            elif len(waiting) >= expected or asyncio.get_running_loop().time() >= deadline:
                break
            else:
                await asyncio.sleep(_STEP)
        return waiting

    def _answers(self, inputs: Sequence[Input]) -> Answered:
        """Answers to the texts; where one of them cannot be answered, each is asked alone."""
        try:
            return list(predict(self.deployed, inputs, True, len(inputs), lambda done: None))
        except UserError as error:
            return [error] if len(inputs) == 1 else [self._answers([one])[0] for one in inputs]


def message_of(content: Mapping[str, Any], deployed: Deployed) -> Input:
    """The text of a request, its last message, with the turns in front of it where the model answers chats. Raises
    Refusal for all that the chat template refuses too."""
    messages = content.get("messages")
    if deployed.contract.prompt.chat is None and not _is_one_message(messages):
        raise Refusal(ONE_MESSAGE)
    try:
        text, turns = chat_of(messages)
    except ValueError as error:
        raise Refusal(str(error)) from error
    if any(control_pattern(deployed.base.tokenizer).search(part) for part in (text, *(turn.text for turn in turns))):
        raise Refusal(CONTROL_TOKEN)
    return Input("0", text, turns)


def _is_one_message(messages: object) -> bool:
    first = messages[0] if isinstance(messages, list) and len(messages) == 1 else None
    return isinstance(first, dict) and first.get("role") == "user"


def word_of(answer: Mapping[str, Any], deployed: Deployed) -> str:
    """The message of an answer: the deployed word of its label, or its text."""
    if "text" in answer:
        return str(answer["text"])
    return next(label.word for label in deployed.contract.answers.labels if label.name == answer["label"])


def completion(answer: Mapping[str, Any], deployed: Deployed) -> dict[str, object]:
    """OpenAI's answer: the deployed word of the label, or the text; `p2p` has the label, the alarm and the scores."""
    text = word_of(answer, deployed)
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


def _raw_of(content: Mapping[str, Any]) -> tuple[str, int]:
    """Prompt and number of new tokens of a raw completion. Raises Refusal."""
    prompt, new = content.get("prompt"), content.get("max_tokens", _RAW)
    if not isinstance(prompt, str) or not prompt or type(new) is not int or not 1 <= new <= _MOST_RAW:
        raise Refusal(NO_PROMPT)
    return prompt, new


async def _refusing(work: Awaitable[Result]) -> Result:
    """The result of work on the model; its errors that a user can act on become refusals."""
    try:
        return await work
    except UserError as error:
        raise Refusal(str(error)) from error


async def _send(response: web.StreamResponse, delta: Mapping[str, str], finish: str | None = None) -> None:
    choice = {"index": 0, "delta": delta, "finish_reason": finish}
    event = {"id": "chatcmpl-p2p", "object": "chat.completion.chunk", "created": 0, "model": MODEL, "choices": [choice]}
    await response.write(f"data: {json.dumps(event)}\n\n".encode())


async def _end(response: web.StreamResponse, finish: str) -> web.StreamResponse:
    await _send(response, {}, finish)
    await response.write(b"data: [DONE]\n\n")
    await response.write_eof()
    return response


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
