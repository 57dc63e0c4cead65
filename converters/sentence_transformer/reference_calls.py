"""Calls of the reference for the vectors that a conversion is checked with.

The reference is called in every way that callers can use: `encode` with each prompt, `encode_query` and
`encode_document`. It is also called twice for some texts: if its vectors depend on what it embedded before,
they cannot be compared with.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from converters.errors import InvalidModel, shorten
from converters.sentence_transformer.reference import ReferenceModel
from converters.sentence_transformer.tokenizer import ReferenceTokenizer
from converters.verification.budget import Budget
from converters.verification.check_texts import ALWAYS, EDGE_TEXTS, check_texts
from triton_models.contract.accuracy import LEAST_ALONE, cosines
from triton_models.contract.prompts import INPUT_TYPES, InputType, prompt_name_of

_OTHER_PROMPT_TEXTS = 12
_AT_A_TIME, _TOKENS_AT_A_TIME = 32, 4096
_WORDS_ASKED_TWICE = (1000, 80, 1)


@dataclass(frozen=True)
class Job:
    """Texts that are embedded in one way.

    Attributes:
        texts: Texts without their prompt.
        prompt: The resolved prompt; for an input type, the library resolves it itself.
        input_type: `encode_query` or `encode_document` is called for it; `encode` for None.
    """

    texts: Sequence[str]
    prompt: str
    input_type: InputType | None = None


def jobs(reference: ReferenceModel, tokenizer: ReferenceTokenizer) -> list[Job]:
    """Return jobs for all texts with the default prompt, and for some texts in each other way.

    An input type for which no difference is expected gets only two texts.
    """
    texts = check_texts()
    default = reference.prompts.get(reference.default_prompt_name or "", "")
    found = [Job(texts, default)]
    others = sorted({prompt for prompt in reference.prompts.values() if prompt} - {default})
    found += [Job(texts[:_OTHER_PROMPT_TEXTS], prompt) for prompt in others]
    seen = {(job.prompt, tokenizer.length(None), False) for job in found}
    for kind in INPUT_TYPES:
        name = prompt_name_of(kind, reference.prompts)
        prompt = default if name is None else reference.prompts[name]
        longest = texts[len(EDGE_TEXTS)]
        few = [texts[1], longest]
        if (prompt, tokenizer.length(kind), kind in tokenizer.routed) not in seen:
            few = [
                *texts[: _OTHER_PROMPT_TEXTS // 2],
                *texts[ALWAYS - _OTHER_PROMPT_TEXTS // 2 : ALWAYS],
                longest,
            ]
        found.append(Job(few, prompt, kind))
    return found


def vectors(
    reference: ReferenceModel,
    tokenizer: ReferenceTokenizer,
    asked: Sequence[Job],
    budget: Budget,
    report: Callable[[float, str], None],
) -> tuple[list[Job], NDArray[np.float32]]:
    """Embed the jobs' texts: those that every check has, and as many more as the budget allows.

    Texts of one length are embedded together, which adds no padding to any. The first job's texts are those
    that are asked twice.

    Returns:
        The jobs with the texts that were embedded, and the vectors of these, float32 [n, D].

    Raises:
        InvalidModel: The reference fails on a text, or gives other vectors when it is called again.
    """
    again = _Again(reference, asked[0].texts)
    always = frozenset(check_texts()[:ALWAYS])
    first = [place for place, text in enumerate(asked[0].texts) if text in always]
    rest = [place for place, text in enumerate(asked[0].texts) if text not in always]
    groups = [(0, group) for group in _of_one_length(asked[0], first, tokenizer)]
    for number, job in enumerate(asked[1:], start=1):
        groups += [(number, group) for group in _of_one_length(job, range(len(job.texts)), tokenizer)]
    least = len(groups)
    groups += [(0, group) for group in _of_one_length(asked[0], rest, tokenizer)]
    found: list[dict[int, NDArray[np.float32]]] = [{} for _ in asked]
    for done, (number, group) in enumerate(groups, start=1):
        if done > least and budget.is_over:
            break
        job = asked[number]
        texts = [job.texts[place] for place in group]
        found[number] |= zip(group, reference.encode(texts, job.prompt, job.input_type), strict=True)
        report(done / len(groups), "Embedding the check texts with the reference")
    again.require_same()
    jobs = [
        replace(job, texts=[text for place, text in enumerate(job.texts) if place in rows])
        for job, rows in zip(asked, found, strict=True)
    ]
    return jobs, np.stack([rows[place] for rows in found for place in sorted(rows)])


def _of_one_length(job: Job, places: Iterable[int], tokenizer: ReferenceTokenizer) -> list[list[int]]:
    """Return groups of the texts at these places with equally many tokens, small enough for one batch."""
    by_length = defaultdict(list)
    for place in places:
        by_length[len(tokenizer.ids(job.texts[place], job.prompt, job.input_type))].append(place)
    groups = []
    for length, group in by_length.items():
        size = max(1, min(_AT_A_TIME, _TOKENS_AT_A_TIME // max(1, length)))
        groups += [group[start : start + size] for start in range(0, len(group), size)]
    return groups


def require_same_for_same_ids(
    shown: Sequence[str], ids: Sequence[NDArray[np.int64]], found: NDArray[np.float32]
) -> None:
    """Refuse a reference that gives different vectors for the same tokens.

    Args:
        shown: The texts, for the message.
        ids: Tokens of each text, int64 [L].
        found: Vectors of the texts, float32 [n, D].

    Raises:
        InvalidModel: Two vectors differ; the message names the text.
    """
    first: dict[bytes, int] = {}
    for row, row_ids in enumerate(ids):
        other = first.setdefault(row_ids.tobytes(), row)
        if cosines(found[[row]], found[[other]])[0] < LEAST_ALONE:
            raise InvalidModel(
                "sentence-transformers makes another vector of the same tokens when it is asked by "
                f"encode_query or encode_document, which is not supported: {shorten(shown[row])}"
            )


class _Again:
    """A few texts, embedded by two copies of a reference that has embedded nothing yet.

    One copy embeds the longest text first, the other the shortest. This reveals attention that turns from
    sparse to full for good at the first short text, and positions stretched by the longest text so far.
    """

    def __init__(self, reference: ReferenceModel, texts: Sequence[str]) -> None:
        self._reference = reference
        by_words = {len(text.split()): text for text in texts}
        self._texts = [by_words[words] for words in _WORDS_ASKED_TWICE if words in by_words]
        order = range(len(self._texts))
        other = self._ask(reference.fresh(), reversed(order))
        self._expected = self._ask(reference.fresh(), order)
        self._compare(other)

    def require_same(self) -> None:
        """Embed the texts with the reference itself, after everything that it has embedded.

        Raises:
            InvalidModel: A vector differs.
        """
        self._compare(self._ask(self._reference, range(len(self._texts))))

    def _ask(self, reference: ReferenceModel, order: Iterable[int]) -> NDArray[np.float32]:
        """Embed the texts in the given order; returns float32 [n, D], in the texts' own order."""
        found = {number: reference.encode([self._texts[number]]) for number in order}
        return np.concatenate([found[number] for number in range(len(self._texts))])

    def _compare(self, found: NDArray[np.float32]) -> None:
        if not np.isfinite(self._expected).all():
            # A vector that is not finite is another fault, which `samples.prepare` reports.
            return
        same = cosines(found, self._expected)
        worst = int(same.argmin())
        if same[worst] < LEAST_ALONE:
            raise InvalidModel(
                "sentence-transformers' vectors of this model depend on what it embedded before: a text of "
                f"{len(self._texts[worst].split())} words has another one after others (cosine "
                f"{same[worst]:.6f}){self._advice()}"
            )

    def _advice(self) -> str:
        backbone = self._reference.backbone
        if getattr(getattr(backbone, "config", None), "attention_type", None) == "block_sparse":
            return "; set attention_type to original_full in its config.json, or a smaller max_seq_length"
        return ""
