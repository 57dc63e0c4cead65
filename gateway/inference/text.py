"""Embeds texts: tokenises them, sends them to Triton, and puts the answers in order.

A small request sends each text alone, so that each can hit Triton's response cache. A large request sends
groups of rows of equal length, which need no padding. Triton's dynamic batcher merges them all again. Equal
bytes always mean equal shape: the client marks the rows. See also `admission.py`.
"""

import sys
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import KW_ONLY, dataclass, field
from typing import NamedTuple, TypeVar

import numpy as np

from gateway.concurrency import Deadline, too_late
from gateway.errors import InvalidInput, NoVector, TooLarge, Unsupported
from gateway.inference.admission import FEW, Admission, Lane
from gateway.inference.slots import Slot, Ticket, run_in_slots
from gateway.inference.tokenizer_threads import INLINE_CHARACTERS, Tokenizing
from gateway.inference.vectors import NOT_FINITE, Vectors, unit_length
from gateway.model_id import ModelId
from gateway.models.catalog import Catalog, TextModel, no_tokens
from gateway.models.readiness import ReadinessGate
from gateway.telemetry.metrics import texts_of, tokens_of
from gateway.text.prompts import DEFAULT, TextOptions
from gateway.text.tokenizer import TokenIds, Tokenized, group
from triton_models.client.errors import NotFinite, TokensNotServed, TritonTimeout
from triton_models.client.requests import QueueOptions
from triton_models.server.triton import Triton

Texts = Sequence[str] | Sequence[Sequence[int]]
"""Texts, or the token ids of texts, all of one kind."""

ONE_BY_ONE = FEW
"""Largest number of texts that are sent to Triton one by one."""

BATCHES_IN_TRITON = 1.5
"""Full batches of one lane that may be in Triton: one being computed, and half of the next."""

CHARACTERS_OF_A_TOKEN = 4
"""Approximate characters per token in English; for languages with fewer the measured rate compensates."""

GROUP_ROWS = 16
"""Rows of equal length in one call: enough to make its fixed cost small, few enough to spread the work."""

LARGEST_ANSWER = 1 << 24
"""Most numbers in one answer with token vectors: 32 texts of 512 tokens of 1,024 dimensions, 64 MB."""


class Embedded(NamedTuple):
    """Vectors float32 [n, D] in the order of the inputs, and the number of tokens of all inputs."""

    vectors: Vectors
    tokens: int


Found = TypeVar("Found")


@dataclass(eq=False)
class TextEmbedder:
    """Embeds texts with any loaded model.

    A request may carry `max_inputs` texts, each of at most `max_characters` characters or token ids.
    """

    catalog: Catalog
    triton: Triton
    readiness: ReadinessGate
    admission: Admission
    _: KW_ONLY
    max_inputs: int
    timeout: float
    max_characters: int
    _tokenizing: Tokenizing = field(default_factory=Tokenizing, init=False)

    def close(self) -> None:
        """End the threads that tokenise, without waiting for their current work."""
        self._tokenizing.close()

    async def embed(
        self,
        model_id: ModelId,
        texts: Texts,
        *,
        normalize: bool,
        options: TextOptions = DEFAULT,
        field: str = "text",
        timeout_ms: int | None = None,
    ) -> Embedded:
        """Embed texts, or token ids of texts.

        `field` is the place of the texts in the caller's body, for messages; `timeout_ms` is the caller's.

        Raises:
            TooLarge: There are more texts than the limit, or a text is too long.
            InvalidInput, NoVector: A text cannot be embedded; its index is in the message.
            ModelNotFound, ModelConflict, Overloaded, Unavailable, DeadlineExceeded: As their names say.
        """
        model, (vectors, tokens) = await self._answer(
            model_id, self._asked(texts, options, field, timeout_ms), self._embed
        )
        if normalize and not model.manifest.normalized:
            vectors = unit_length(vectors)
        return Embedded(vectors, tokens)

    async def embed_tokens(
        self, model_id: ModelId, texts: Texts, *, options: TextOptions = DEFAULT, field: str = "text"
    ) -> list[Vectors]:
        """Return a float32 [length, H] array for each text: the vectors of all its tokens.

        Special tokens and those of a prompt are included. The model's last layer: not pooled, not scaled.

        Raises:
            TooLarge: As `embed`, or the answer would have more than LARGEST_ANSWER numbers.
            Unsupported: The model, or the Triton that serves it, gives no token vectors.
            InvalidInput, ModelNotFound, ModelConflict, Overloaded, Unavailable, DeadlineExceeded: As `embed`.
        """
        _, vectors = await self._answer(model_id, self._asked(texts, options, field), self._embed_tokens)
        return vectors

    @property
    def max_queued_inputs(self) -> int:
        """Largest number of inputs that may wait in one lane; each may be a request of its own."""
        return self.admission.max_inputs

    async def model(self, model_id: ModelId) -> TextModel:
        """Return a loaded model, with its tokenizer and manifest.

        Raises:
            ModelNotFound, ModelConflict, Unavailable: The model is not loaded.
        """
        model = await self.catalog.texts.get(model_id)
        await self.readiness.require_ready(model)
        return model

    async def in_threads(self, work: Iterable[Callable[[], Found]]) -> list[Found]:
        """Run pieces of tokenising in threads; raise DeadlineExceeded after the server's time limit."""
        deadline = Deadline.of(None, self.timeout)
        return [await self._tokenizing.run(piece, deadline) for piece in work]

    def _asked(
        self, texts: Texts, options: TextOptions, field: str, timeout_ms: int | None = None
    ) -> "_Asked":
        if len(texts) > self.max_inputs:
            raise TooLarge(f"{len(texts)} texts in one request; the limit is {self.max_inputs}")
        self.require_lengths(texts, field)
        return _Asked(texts, options, field, Deadline.of(timeout_ms, self.timeout))

    def require_lengths(self, texts: Texts, field: str) -> None:
        """Refuse a text with more characters, or more token ids, than the limit.

        Raises:
            TooLarge: A text is too long; its index is in the message.
        """
        if max(map(len, texts), default=0) > (most := self.max_characters):
            index, length = next((index, len(text)) for index, text in enumerate(texts) if len(text) > most)
            raise TooLarge(f"{field}.{index}: {length} characters or ids; the limit is {most}")

    async def _answer(
        self,
        model_id: ModelId,
        asked: "_Asked",
        embed: Callable[[TextModel, "_Asked"], Awaitable[Found]],
    ) -> tuple[TextModel, Found]:
        """Run `embed` on the model that is loaded now; return the model with the result."""
        model, found = await self.readiness.run_on_ready(
            self.catalog.texts, model_id, lambda model: embed(model, asked)
        )
        texts_of(model.triton_name).inc(len(asked.texts))
        return model, found

    def _lane(self, model: TextModel, texts: int) -> Lane:
        window = int(model.max_rows * BATCHES_IN_TRITON)
        return self.admission.lane(model.triton_name, texts, window)

    async def _embed(self, model: TextModel, asked: "_Asked") -> Embedded:
        lane = self._lane(model, len(asked.texts))
        with Ticket(lane, len(asked.texts), _work(asked.texts, model), asked.deadline) as ticket:
            most = min(GROUP_ROWS, model.max_rows) if lane.bulk else 1
            if lane.bulk:
                await ticket.acquire_first(most)
            rows, tokens = await self._tokenize(model, asked)
            tokens_of(model.triton_name).inc(tokens)
            if len(rows) == 1 and rows[0].size:
                with await ticket.acquire(1) as slot:
                    vectors = await self._infer(model, rows[0].reshape(1, -1), (0,), asked, slot)
                return Embedded(vectors, tokens)
            vectors = np.empty((len(rows), model.manifest.dimensions), dtype=np.float32)
            jobs: list[tuple[list[int], TokenIds]] = []
            for indices in group(rows, most):
                if rows[indices[0]].size:
                    jobs.append((indices, np.stack([rows[index] for index in indices])))
                elif model.empty_embedding is None:
                    raise InvalidInput(
                        f"{asked.field}.{indices[0]}: the model's tokenizer makes no token of it"
                    )
                else:
                    vectors[indices] = model.empty_embedding

            async def call(number: int, slot: Slot) -> None:
                indices, some = jobs[number]
                vectors[indices] = await self._infer(model, some, indices, asked, slot)

            sizes = {number: len(indices) for number, (indices, _) in enumerate(jobs)}
            await run_in_slots(ticket, sizes, call)
        return Embedded(vectors, tokens)

    async def _embed_tokens(self, model: TextModel, asked: "_Asked") -> list[Vectors]:
        if model.manifest.token_dimensions is None and not model.model_id.is_clip:
            # The model may have been converted again since it was read, as the error below asks for.
            model = await self.catalog.texts.refresh(model.model_id)
        dimensions = model.manifest.token_dimensions
        if dimensions is None:
            raise Unsupported(no_tokens(model))
        lane = self._lane(model, len(asked.texts))
        with Ticket(lane, len(asked.texts), _work(asked.texts, model), asked.deadline) as ticket:
            if lane.bulk:
                await ticket.acquire_first(1)
            rows, tokens = await self._tokenize(model, asked)
            if tokens > (most := LARGEST_ANSWER // dimensions):
                raise TooLarge(
                    f"{asked.field}: {tokens} tokens, a vector of {dimensions} numbers each; "
                    f"the limit is {most} tokens in one request"
                )
            tokens_of(model.triton_name).inc(tokens)
            vectors = [np.empty((0, dimensions), np.float32) for _ in rows]

            places = [index for index, row in enumerate(rows) if row.size]

            async def call(number: int, slot: Slot) -> None:
                index = places[number]
                row = rows[index].reshape(1, -1)
                found = await self._infer(model, row, (index,), asked, slot, tokens=True)
                vectors[index] = found[0]

            # A few texts at a time: each answer passes through the shared memory of Triton's backend.
            for start in range(0, len(places), ONE_BY_ONE):
                some = range(start, min(start + ONE_BY_ONE, len(places)))
                await run_in_slots(ticket, dict.fromkeys(some, 1), call)
        return vectors

    async def _tokenize(self, model: TextModel, asked: "_Asked") -> Tokenized:
        texts, options, field, _ = asked
        encode: Callable[..., Tokenized] = model.tokenizer.encode
        size = sum(map(len, texts)) + len(options.prompt or "") * len(texts)
        if texts and not isinstance(texts[0], str):
            encode = model.tokenizer.encode_ids
            # Their text is encoded once more, see `foreign_ids`.
            size *= CHARACTERS_OF_A_TOKEN
        slow = model.tokenizer.is_slow
        if not slow and size <= INLINE_CHARACTERS:
            return encode(texts, options, field)
        return await self._tokenizing.encode(encode, texts, options, field, asked.deadline, one_by_one=slow)

    async def _infer(
        self,
        model: TextModel,
        rows: TokenIds,
        indices: Sequence[int],
        asked: "_Asked",
        slot: Slot,
        *,
        tokens: bool = False,
    ) -> Vectors:
        """Return float32 [b, D] of rows int64 [b, L], the texts `indices`; with `tokens`, [b, L, H]."""
        remaining = asked.deadline.remaining()
        queueing = QueueOptions(asked.deadline.own, slot)
        try:
            return await self.triton.client.infer(
                model.triton_name, model.version, rows, timeout=remaining, tokens=tokens, queueing=queueing
            )
        except NotFinite as error:
            raise NoVector(f"{asked.field}.{indices[error.row]}: {NOT_FINITE}") from error
        except TokensNotServed as error:
            raise Unsupported(
                "the backend of this Triton gives no vectors of tokens; the project's own, in Python, does"
            ) from error
        except TritonTimeout as error:
            raise too_late() from error


def _work(texts: Texts, model: TextModel) -> int:
    """Estimate how many tokens the model will get, before the texts are tokenised."""
    most = model.tokenizer.limit or sys.maxsize
    if texts and not isinstance(texts[0], str):
        return sum(min(len(ids) + 1, most) for ids in texts)
    return sum(min(len(text) // CHARACTERS_OF_A_TOKEN + 2, most) for text in texts)


class _Asked(NamedTuple):
    """The texts of one request, and how to embed them."""

    texts: Texts
    options: TextOptions
    field: str
    deadline: Deadline
