"""Scores pairs of texts with cross-encoders, as `text.py` embeds texts.

Each text is tokenised once, however many pairs it is in. Each pair goes to Triton alone, also in bulk, so
that each can hit the response cache; Triton's dynamic batcher merges them again.
"""

import asyncio
import sys
from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass, field
from typing import NamedTuple

import numpy as np

from gateway.concurrency import Deadline, too_late
from gateway.errors import ModelNotFound, NoVector, TooLarge, WrongKind
from gateway.inference.admission import Admission
from gateway.inference.slots import Slot, Ticket, run_in_slots
from gateway.inference.text import BATCHES_IN_TRITON, CHARACTERS_OF_A_TOKEN
from gateway.inference.tokenizer_threads import INLINE_CHARACTERS, Tokenizing
from gateway.inference.vectors import Vectors
from gateway.model_id import ModelId
from gateway.models.catalog import Catalog, PairModel
from gateway.models.readiness import ReadinessGate
from gateway.telemetry.metrics import texts_of, tokens_of
from gateway.text.prompts import DEFAULT, TextOptions
from gateway.text.tokenizer import TokenIds
from triton_models.client.errors import NotFinite, TritonTimeout
from triton_models.client.requests import QueueOptions
from triton_models.contract.config import SCORES
from triton_models.contract.manifest import Activation
from triton_models.server.triton import Triton

NOT_FINITE = "the model's score of this pair is not finite; leave it out, or use another model"


class Pairs(NamedTuple):
    """The pairs of one request.

    Attributes:
        firsts: The first text of each pair, or one for all, such as a query.
        seconds: The second text of each pair, such as documents.
        first_field: The place of the first texts in the caller's body, for messages.
        second_field: The place of the second texts there.
    """

    firsts: Sequence[str]
    seconds: Sequence[str]
    first_field: str
    second_field: str


class Scored(NamedTuple):
    """The model, the logits of its pairs, float32 [n, labels], and the number of tokens of all pairs."""

    model: PairModel
    logits: Vectors
    tokens: int


@dataclass(eq=False)
class PairScorer:
    """Scores pairs with any loaded cross-encoder.

    A request may carry `max_inputs` pairs, each text of at most `max_characters` characters.
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

    async def score(
        self,
        model_id: ModelId,
        pairs: Pairs,
        *,
        options: TextOptions = DEFAULT,
        timeout_ms: int | None = None,
    ) -> Scored:
        """Return the logits of pairs.

        Raises:
            TooLarge: There are more pairs than the limit, or a text is too long.
            InvalidInput, NoVector: A pair cannot be scored; its index is in the message.
            WrongKind: The model is no cross-encoder.
            ModelNotFound, ModelConflict, Overloaded, Unavailable, DeadlineExceeded: As their names say.
        """
        if len(pairs.seconds) > self.max_inputs:
            raise TooLarge(
                f"{pairs.second_field}: {len(pairs.seconds)} in one request; the limit is {self.max_inputs}"
            )
        for texts, name in ((pairs.firsts, pairs.first_field), (pairs.seconds, pairs.second_field)):
            _require_lengths(texts, name, self.max_characters)
        asked = _Asked(pairs, options, Deadline.of(timeout_ms, self.timeout))
        model, (logits, tokens) = await self.readiness.run_on_ready(
            self.catalog.pairs, model_id, lambda model: self._score(model, asked)
        )
        texts_of(model.triton_name).inc(len(pairs.seconds))
        return Scored(model, logits, tokens)

    async def model(self, model_id: ModelId) -> PairModel:
        """Return a loaded cross-encoder.

        Raises:
            WrongKind, ModelNotFound, ModelConflict, Unavailable: The model is of another kind, or not loaded.
        """
        model = await self.catalog.pairs.get(model_id)
        await self.readiness.require_ready(model)
        return model

    async def only_model(self) -> ModelId:
        """Return the only cross-encoder that is loaded, for a request that names none.

        Raises:
            WrongKind: Several are loaded, which the message lists.
            ModelNotFound: None is loaded.
        """
        loaded = await asyncio.to_thread(self.catalog.names.loaded_of, "cross-encoder")
        if not loaded:
            raise ModelNotFound(
                "no cross-encoder is loaded; load one with POST /load_sentence_transformer_model, and name it"
            )
        if len(loaded) > 1:
            names = ", ".join(model_id.id for model_id in loaded)
            raise WrongKind(f"model: name one of the cross-encoders that are loaded: {names}")
        return loaded[0]

    async def _score(self, model: PairModel, asked: "_Asked") -> tuple[Vectors, int]:
        pairs, _, deadline = asked
        count = len(pairs.seconds)
        window = int(model.max_rows * BATCHES_IN_TRITON)
        lane = self.admission.lane(model.triton_name, count, window)
        with Ticket(lane, count, _work(pairs, model), deadline) as ticket:
            if lane.bulk:
                await ticket.acquire_first(1)
            rows = await self._rows(model, asked)
            tokens = sum(row.size for row in rows)
            tokens_of(model.triton_name).inc(tokens)
            logits = np.empty((count, model.manifest.dimensions), dtype=np.float32)

            async def call(index: int, slot: Slot) -> None:
                logits[index] = await self._infer(model, rows[index], index, asked, slot)

            await run_in_slots(ticket, dict.fromkeys(range(count), 1), call)
        return logits, tokens

    async def _rows(self, model: PairModel, asked: "_Asked") -> list[TokenIds]:
        """Return the row of each pair."""
        pairs, options, _ = asked
        prompt = model.tokenizer.prompt(options)
        places = {text: place for place, text in enumerate(dict.fromkeys(pairs.firsts))}
        prompted = [prompt + text for text in places]
        firsts = await self._encoded(model, prompted, pairs.first_field, asked)
        seconds = await self._encoded(model, pairs.seconds, pairs.second_field, asked)
        texts = pairs.firsts if len(pairs.firsts) == len(seconds) else [pairs.firsts[0]] * len(seconds)
        return [
            model.tokenizer.row(firsts[places[text]], second, options, f"{pairs.second_field}.{index}")
            for index, (text, second) in enumerate(zip(texts, seconds, strict=True))
        ]

    async def _encoded(
        self, model: PairModel, texts: Sequence[str], field: str, asked: "_Asked"
    ) -> list[TokenIds]:
        """Return the ids of texts without special tokens."""
        encode, slow = model.tokenizer.encode, model.tokenizer.is_slow
        if not slow and sum(map(len, texts)) <= INLINE_CHARACTERS:
            return encode(texts, asked.options, field).rows
        found = await self._tokenizing.encode(
            encode, texts, asked.options, field, asked.deadline, one_by_one=slow
        )
        return found.rows

    async def _infer(
        self, model: PairModel, row: TokenIds, index: int, asked: "_Asked", slot: Slot
    ) -> Vectors:
        """Return the logits of one row, float32 [labels]."""
        queueing = QueueOptions(asked.deadline.own, slot)
        try:
            logits = await self.triton.client.infer(
                model.triton_name,
                model.version,
                row.reshape(1, -1),
                timeout=asked.deadline.remaining(),
                output=SCORES,
                queueing=queueing,
            )
        except NotFinite as error:
            raise NoVector(f"{asked.pairs.second_field}.{index}: {NOT_FINITE}") from error
        except TritonTimeout as error:
            raise too_late() from error
        return np.asarray(logits[0])


def activated(logits: Vectors, activation: Activation) -> Vectors:
    """Return the scores of logits, float32 of the same shape."""
    if activation == "identity":
        return logits
    # Both forms are exact where the exponential does not overflow.
    small = np.exp(-np.abs(logits))
    return np.where(logits >= 0, 1 / (1 + small), small / (1 + small)).astype(np.float32)


def _require_lengths(texts: Sequence[str], field: str, most: int) -> None:
    if max(map(len, texts), default=0) > most:
        index, length = next((index, len(text)) for index, text in enumerate(texts) if len(text) > most)
        raise TooLarge(f"{field}.{index}: {length} characters; the limit is {most}")


def _work(pairs: Pairs, model: PairModel) -> int:
    """Estimate how many tokens the model will get, before the texts are tokenised."""
    most = model.tokenizer.limit or sys.maxsize
    firsts = [len(text) for text in pairs.firsts]
    firsts = firsts if len(firsts) == len(pairs.seconds) else firsts * len(pairs.seconds)
    return sum(
        min((first + len(second)) // CHARACTERS_OF_A_TOKEN + 3, most)
        for first, second in zip(firsts, pairs.seconds, strict=True)
    )


class _Asked(NamedTuple):
    """The pairs of one request, and how to score them."""

    pairs: Pairs
    options: TextOptions
    deadline: Deadline
