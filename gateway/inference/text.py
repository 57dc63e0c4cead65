"""Texts to vectors: tokenise, send to Triton, put the answers in order.

A small request goes out one text at a time, so that each text can hit Triton's response cache; a
large one is grouped into rows of equal length, which needs no padding. Triton's dynamic batcher merges
them all again. Equal bytes always mean equal shape: the client marks the rows. See also `admission.py`.
"""

from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import NamedTuple, TypeVar

import numpy as np

from gateway.errors import InvalidInput, NoVector, Overloaded, TooLarge, Unsupported
from gateway.inference.admission import FEW, Admission, Lane
from gateway.inference.deadline import Deadline, too_late
from gateway.inference.slots import Turn, Visit, in_turns
from gateway.inference.tokenizer_threads import INLINE_CHARACTERS, Tokenizing
from gateway.inference.vectors import NOT_FINITE, Vectors, unit_length
from gateway.model_id import Reference
from gateway.models.catalog import Catalog, TextModel, no_tokens
from gateway.models.readiness import Verified
from gateway.telemetry.metrics import texts_of, tokens_of
from gateway.text.prompts import DEFAULT, TextOptions
from gateway.text.tokenizer import TokenIds, Tokenized, group
from triton_models.client.errors import NotFinite, TokensNotServed, TritonTimeout
from triton_models.client.requests import Queueing
from triton_models.server.supervisor import Triton

Texts = Sequence[str] | Sequence[Sequence[int]]
"""Texts, or the token ids of texts, all of one kind."""

ONE_BY_ONE = FEW
"""Texts up to which each is a request of its own."""

BATCHES_IN_TRITON = 1.5
"""Full batches of one lane that are in Triton: one that is computed, and what gathers meanwhile."""

GROUP_ROWS = 16
"""Rows of equal length in one request: enough to make the call's cost small, few enough to spread."""

LARGEST_ANSWER = 1 << 24
"""Numbers of one answer with vectors of tokens: 32 texts of 512 tokens of 1,024 dimensions, 64 MB."""


class Embedded(NamedTuple):
    """Vectors float32 [n, D] in the order of the inputs, and the tokens that the model got of all."""

    vectors: Vectors
    tokens: int


Found = TypeVar("Found")


class TextEmbedder:
    """Embeds texts with any loaded model.

    max_inputs: texts that one request may carry. max_characters: of one text.
    """

    def __init__(
        self,
        catalog: Catalog,
        triton: Triton,
        verified: Verified,
        admission: Admission,
        *,
        max_inputs: int,
        timeout: float,
        max_characters: int,
    ) -> None:
        self._catalog = catalog
        self._triton = triton
        self._verified = verified
        self._admission = admission
        self.max_inputs = max_inputs
        self._timeout = timeout
        self.max_characters = max_characters
        self._tokenizing = Tokenizing()
        self.close = self._tokenizing.close

    async def embed(
        self,
        reference: Reference,
        texts: Texts,
        *,
        normalize: bool,
        options: TextOptions = DEFAULT,
        field: str = "text",
        timeout_ms: int | None = None,
    ) -> Embedded:
        """Vectors of texts, or of token ids of texts.

        field: where the texts are in the caller's body, for messages. timeout_ms: of the caller.

        Raises:
            TooLarge: more texts than the limit.
            InvalidInput, NoVector: a text cannot be embedded; its index is in the message.
            ModelNotFound, ModelConflict, Overloaded, Unavailable, DeadlineExceeded: as their names say.
        """
        model, (vectors, tokens) = await self._answer(
            reference, self._asked(texts, options, field, timeout_ms), self._embed
        )
        if normalize and not model.manifest.normalized:
            vectors = unit_length(vectors)
        return Embedded(vectors, tokens)

    async def embed_tokens(
        self, reference: Reference, texts: Texts, *, options: TextOptions = DEFAULT, field: str = "text"
    ) -> list[Vectors]:
        """Vectors of every token of each text, special ones and a prompt's included: float32 [length, H].

        As the model's last layer gives them: not pooled, not scaled.

        Raises:
            TooLarge: more texts than the limit, or more numbers than one answer may hold.
            Unsupported: the model, or the Triton that serves it, gives none.
            InvalidInput, ModelNotFound, ModelConflict, Overloaded, Unavailable, DeadlineExceeded: as `embed`.
        """
        _, vectors = await self._answer(reference, self._asked(texts, options, field), self._embed_tokens)
        return vectors

    @property
    def is_overloaded(self) -> bool:
        """Whether a request has been refused lately for what was waiting, of any model."""
        return self._admission.overload.lasts()

    def early_refusal(self, reference: Reference, texts: int) -> Overloaded | None:
        """What a request for so many texts would be told by `embed`, if it is that too many are waiting.

        If it is not, the request must come in the event loop's next turn.

        Raises:
            Unavailable: the model is known not to answer.
        """
        model = self._catalog.texts.known(reference)
        if model is None or not self._verified.knows(model):
            return None
        return self._lane(model, texts).early_refusal(texts)

    async def model(self, reference: Reference) -> TextModel:
        """What is known of a model that is loaded: its tokenizer, its manifest.

        Raises:
            ModelNotFound, ModelConflict, Unavailable: it is not loaded.
        """
        model = await self._catalog.texts.get(reference)
        await self._verified.require(model)
        return model

    async def in_threads(self, work: Iterable[Callable[[], Found]]) -> list[Found]:
        """The results of pieces of tokenising, within the server's time limit; raises DeadlineExceeded."""
        deadline = Deadline.of(None, self._timeout)
        return [await self._tokenizing.run(piece, deadline) for piece in work]

    def _asked(
        self, texts: Texts, options: TextOptions, field: str, timeout_ms: int | None = None
    ) -> "_Asked":
        if len(texts) > self.max_inputs:
            raise TooLarge(f"{len(texts)} texts in one request; the limit is {self.max_inputs}")
        self.require_lengths(texts, field)
        return _Asked(texts, options, field, Deadline.of(timeout_ms, self._timeout))

    def require_lengths(self, texts: Texts, field: str) -> None:
        """Refuse a text, or token ids of one, of more characters, or ids, than the limit.

        Raises:
            TooLarge: one is; its index is in the message.
        """
        if max(map(len, texts), default=0) > (most := self.max_characters):
            index, length = next((index, len(text)) for index, text in enumerate(texts) if len(text) > most)
            raise TooLarge(f"{field}.{index}: {length} characters or ids; the limit is {most}")

    async def _answer(
        self,
        reference: Reference,
        asked: "_Asked",
        embed: Callable[[TextModel, "_Asked"], Awaitable[Found]],
    ) -> tuple[TextModel, Found]:
        """What `embed` gives of the model as it is loaded now, which is told too."""
        model, found = await self._verified.answer(
            self._catalog.texts, reference, lambda model: embed(model, asked)
        )
        texts_of(model.served).inc(len(asked.texts))
        return model, found

    def _lane(self, model: TextModel, texts: int) -> Lane:
        window = int(model.max_rows * BATCHES_IN_TRITON)
        return self._admission.lane(model.served, texts, window)

    async def _embed(self, model: TextModel, asked: "_Asked") -> Embedded:
        lane = self._lane(model, len(asked.texts))
        with Visit(lane, len(asked.texts), asked.deadline) as visit:
            most = min(GROUP_ROWS, model.max_rows) if lane.bulk else 1
            if lane.bulk:
                await visit.hold(most)
            rows, tokens = await self._tokenize(model, asked)
            tokens_of(model.served).inc(tokens)
            if len(rows) == 1 and rows[0].size:
                with await visit.turn(1) as turn:
                    vectors = await self._infer(model, rows[0].reshape(1, -1), (0,), asked, turn)
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

            async def call(number: int, turn: Turn) -> None:
                indices, some = jobs[number]
                vectors[indices] = await self._infer(model, some, indices, asked, turn)

            sizes = {number: len(indices) for number, (indices, _) in enumerate(jobs)}
            await in_turns(visit, sizes, call)
        return Embedded(vectors, tokens)

    async def _embed_tokens(self, model: TextModel, asked: "_Asked") -> list[Vectors]:
        if model.manifest.token_dimensions is None and not model.reference.is_clip:
            # It may have been converted again since it was read, as the error below asks for.
            model = await self._catalog.texts.refresh(model.reference)
        dimensions = model.manifest.token_dimensions
        if dimensions is None:
            raise Unsupported(no_tokens(model))
        lane = self._lane(model, len(asked.texts))
        with Visit(lane, len(asked.texts), asked.deadline) as visit:
            if lane.bulk:
                await visit.hold(1)
            rows, tokens = await self._tokenize(model, asked)
            if tokens > (most := LARGEST_ANSWER // dimensions):
                raise TooLarge(
                    f"{asked.field}: {tokens} tokens, a vector of {dimensions} numbers each; "
                    f"the limit is {most} tokens in one request"
                )
            tokens_of(model.served).inc(tokens)
            vectors = [np.empty((0, dimensions), np.float32) for _ in rows]

            places = [index for index, row in enumerate(rows) if row.size]

            async def call(number: int, turn: Turn) -> None:
                index = places[number]
                row = rows[index].reshape(1, -1)
                found = await self._infer(model, row, (index,), asked, turn, tokens=True)
                vectors[index] = found[0]

            # Not all at once: each answer passes through the shared memory of Triton's backend.
            for start in range(0, len(places), ONE_BY_ONE):
                some = range(start, min(start + ONE_BY_ONE, len(places)))
                await in_turns(visit, dict.fromkeys(some, 1), call)
        return vectors

    async def _tokenize(self, model: TextModel, asked: "_Asked") -> Tokenized:
        texts, options, field, _ = asked
        encode: Callable[..., Tokenized] = model.tokenizer.encode
        if texts and not isinstance(texts[0], str):
            encode = model.tokenizer.encode_ids
        slow, prompts = model.tokenizer.is_slow, len(options.prompt or "") * len(texts)
        if not slow and sum(map(len, texts)) + prompts <= INLINE_CHARACTERS:
            return encode(texts, options, field)
        return await self._tokenizing.encode(encode, texts, options, field, asked.deadline, one_by_one=slow)

    async def _infer(
        self,
        model: TextModel,
        rows: TokenIds,
        indices: Sequence[int],
        asked: "_Asked",
        turn: Turn,
        *,
        tokens: bool = False,
    ) -> Vectors:
        """Vectors float32 [b, D] of rows int64 [b, L], the texts `indices`; with tokens [b, L, H]."""
        remaining = asked.deadline.remaining()
        queueing = Queueing(asked.deadline.own, turn)
        try:
            return await self._triton.client.infer(
                model.served, model.version, rows, timeout=remaining, tokens=tokens, queueing=queueing
            )
        except NotFinite as error:
            raise NoVector(f"{asked.field}.{indices[error.row]}: {NOT_FINITE}") from error
        except TokensNotServed as error:
            raise Unsupported(
                "the backend of this Triton gives no vectors of tokens; the project's own, in Python, does"
            ) from error
        except TritonTimeout as error:
            raise too_late() from error


class _Asked(NamedTuple):
    """What one request wants."""

    texts: Texts
    options: TextOptions
    field: str
    deadline: Deadline
