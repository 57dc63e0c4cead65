"""Texts to vectors: tokenise, send to Triton, put the answers in order.

A small request goes out one text at a time, so that each text can hit Triton's response cache; a
large one is grouped into rows of equal length, which needs no padding. Triton merges them all
again in its dynamic batcher. Equal bytes always mean equal shape: the client marks the rows.
"""

import asyncio
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Sequence
from typing import NamedTuple, TypeVar

import numpy as np

from gateway.catalog import Catalog, TextModel
from gateway.errors import DeadlineExceeded, InvalidInput, TooLarge, Unsupported
from gateway.forms import Vectors, unit_length
from gateway.metrics import texts_of, tokens_of
from gateway.references import Reference
from gateway.text_options import DEFAULT, TextOptions
from gateway.tokenizer import TokenIds, Tokenized
from gateway.verified import Verified
from triton_models.errors import TokensNotServed, TritonTimeout
from triton_models.supervisor import Triton

Texts = Sequence[str] | Sequence[Sequence[int]]
"""Texts, or the token ids of texts, all of one kind."""

ONE_BY_ONE = 16
"""Texts up to which each is a request of its own."""

GROUP_ROWS = 16
"""Rows of equal length in one request: enough to make the call's cost small, few enough to spread."""

LARGEST_ANSWER = 1 << 24
"""Numbers of one answer with vectors of tokens: 32 texts of 512 tokens of 1,024 dimensions, 64 MB."""

INLINE_CHARACTERS = 8192
"""Texts up to this are tokenised on the event loop, in under a millisecond; longer ones in a thread."""


class Embedded(NamedTuple):
    """Vectors float32 [n, D] in the order of the inputs, and the tokens that the model got of all."""

    vectors: Vectors
    tokens: int


Found = TypeVar("Found")


class TextEmbedder:
    """Embeds texts with any loaded model."""

    def __init__(
        self, catalog: Catalog, triton: Triton, verified: Verified, *, max_inputs: int, timeout: float
    ) -> None:
        self._catalog = catalog
        self._triton = triton
        self._verified = verified
        self._max_inputs = max_inputs
        self._timeout = timeout

    @property
    def max_inputs(self) -> int:
        """Texts that one request may carry."""
        return self._max_inputs

    async def embed(
        self,
        reference: Reference,
        texts: Texts,
        *,
        normalize: bool,
        options: TextOptions = DEFAULT,
        field: str = "text",
    ) -> Embedded:
        """Vectors of texts, or of token ids of texts.

        field: where the texts are in the caller's body, for messages.

        Raises:
            TooLarge: more texts than the limit.
            InvalidInput: a text cannot be embedded; its index is in the message.
            ModelNotFound, ModelConflict, Unavailable, DeadlineExceeded: as their names say.
        """
        model, (vectors, tokens) = await self._answer(
            reference, self._asked(texts, options, field), self._embed
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
            InvalidInput, ModelNotFound, ModelConflict, Unavailable, DeadlineExceeded: as `embed`.
        """
        _, vectors = await self._answer(reference, self._asked(texts, options, field), self._embed_tokens)
        return vectors

    async def model(self, reference: Reference) -> TextModel:
        """What is known of a model that is loaded: its tokenizer, its manifest.

        Raises:
            ModelNotFound, ModelConflict, Unavailable: it is not loaded.
        """
        model = await self._catalog.texts.get(reference)
        await self._verified.require(model)
        return model

    def _asked(self, texts: Texts, options: TextOptions, field: str) -> "_Asked":
        if len(texts) > self._max_inputs:
            raise TooLarge(f"{len(texts)} texts in one request; the limit is {self._max_inputs}")
        return _Asked(texts, options, field, time.monotonic() + self._timeout)

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

    async def _embed(self, model: TextModel, asked: "_Asked") -> Embedded:
        rows, tokens = await self._tokenize(model, asked)
        tokens_of(model.served).inc(tokens)
        if len(rows) == 1 and rows[0].size:
            return Embedded(await self._infer(model, rows[0].reshape(1, -1), asked.deadline), tokens)
        vectors = np.empty((len(rows), model.manifest.dimensions), dtype=np.float32)
        jobs: list[tuple[list[int], TokenIds]] = []
        for indices in group(rows, 1 if len(rows) <= ONE_BY_ONE else min(GROUP_ROWS, model.max_rows)):
            if rows[indices[0]].size:
                jobs.append((indices, np.stack([rows[index] for index in indices])))
            elif model.empty_embedding is None:
                raise InvalidInput(f"{asked.field}.{indices[0]}: the model's tokenizer makes no token of it")
            else:
                vectors[indices] = model.empty_embedding
        answers = await gather(self._infer(model, rows, asked.deadline) for _, rows in jobs)
        for (indices, _), answer in zip(jobs, answers, strict=True):
            vectors[indices] = answer
        return Embedded(vectors, tokens)

    async def _embed_tokens(self, model: TextModel, asked: "_Asked") -> list[Vectors]:
        if model.manifest.token_dimensions is None and not model.reference.is_clip:
            # It may have been converted again since it was read, as the error below asks for.
            model = await self._catalog.texts.refresh(model.reference)
        dimensions = model.manifest.token_dimensions
        if dimensions is None:
            raise Unsupported(_no_tokens(model))
        rows, tokens = await self._tokenize(model, asked)
        if tokens > (most := LARGEST_ANSWER // dimensions):
            raise TooLarge(
                f"{asked.field}: {tokens} tokens, a vector of {dimensions} numbers each; "
                f"the limit is {most} tokens in one request"
            )
        tokens_of(model.served).inc(tokens)
        vectors = [np.empty((0, dimensions), np.float32) for _ in rows]
        places = [index for index, row in enumerate(rows) if row.size]
        # Not all at once: each answer passes through the shared memory of Triton's backend.
        for start in range(0, len(places), ONE_BY_ONE):
            some = places[start : start + ONE_BY_ONE]
            answers = await gather(
                self._infer(model, rows[index].reshape(1, -1), asked.deadline, tokens=True) for index in some
            )
            for index, answer in zip(some, answers, strict=True):
                vectors[index] = answer[0]
        return vectors

    async def _tokenize(self, model: TextModel, asked: "_Asked") -> Tokenized:
        texts, options, field, _ = asked
        encode: Callable[..., Tokenized] = model.tokenizer.encode
        if texts and not isinstance(texts[0], str):
            encode = model.tokenizer.encode_ids
        if sum(map(len, texts)) + len(options.prompt or "") * len(texts) <= INLINE_CHARACTERS:
            return encode(texts, options, field)
        return await asyncio.to_thread(encode, texts, options, field)

    async def _infer(
        self, model: TextModel, rows: TokenIds, deadline: float, *, tokens: bool = False
    ) -> Vectors:
        """Vectors float32 [b, D] of rows int64 [b, L]; with tokens those of each token, [b, L, H]."""
        remaining = deadline - time.monotonic()
        if remaining <= 0:
            raise DeadlineExceeded("the request outlived its time limit; send less, or retry")
        try:
            return await self._triton.client.infer(
                model.served, model.version, rows, timeout=remaining, tokens=tokens
            )
        except TokensNotServed as error:
            raise Unsupported(
                "the backend of this Triton gives no vectors of tokens; the project's own, in Python, does"
            ) from error
        except TritonTimeout as error:
            raise DeadlineExceeded("the request outlived its time limit; send less, or retry") from error


class _Asked(NamedTuple):
    """What one request wants; deadline: of `time.monotonic`."""

    texts: Texts
    options: TextOptions
    field: str
    deadline: float


def group(rows: Sequence[TokenIds], most: int) -> list[list[int]]:
    """Indices of rows of equal length, at most `most` in a group."""
    by_length: dict[int, list[int]] = defaultdict(list)
    for index, row in enumerate(rows):
        by_length[row.size].append(index)
    return [
        indices[start : start + most]
        for indices in by_length.values()
        for start in range(0, len(indices), most)
    ]


def _no_tokens(model: TextModel) -> str:
    """Why a model gives no vectors of tokens, and what to do."""
    if model.reference.is_clip:
        return (
            f"model {model.reference} is a CLIP model, which gives one vector a text and none of its tokens"
        )
    return (
        f"model {model.reference} was converted by a version that kept no vectors of tokens; "
        "convert it again: POST /delete_model, then POST /load_sentence_transformer_model"
    )


async def gather(coroutines: Iterable[Coroutine[None, None, Vectors]]) -> list[Vectors]:
    """Run all at once; the first failure is raised as it was, when all have ended.

    The others are not cancelled: Triton can crash when a call is cancelled under it.
    """
    answers = await asyncio.gather(*coroutines, return_exceptions=True)
    embeddings = []
    for answer in answers:
        if isinstance(answer, BaseException):
            raise answer
        embeddings.append(answer)
    return embeddings
