"""Inputs of the check, tokenised, with the reference's vectors."""

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from sentence_transformers.sentence_transformer.modules import StaticEmbedding

from converters.errors import InvalidModel, shorten
from converters.sentence_transformer import reference_calls
from converters.sentence_transformer.reference import ReferenceModel
from converters.sentence_transformer.reference_calls import Job
from converters.sentence_transformer.tokenizer import ReferenceTokenizer
from converters.verification.budget import Budget
from converters.verification.check_texts import ALWAYS, check_texts, overlong_text
from converters.verification.samples import KEPT_TOKENS, Samples, TokenSample
from triton_models.contract.tokens import token_ids

_TOKEN_TEXTS = 8
_LEAST_SHARE = 0.5
"""Share of the check texts that must have a vector; in a model with fewer, something is broken."""


def prepare(
    reference: ReferenceModel,
    tokenizer: ReferenceTokenizer,
    vocab_size: int,
    budget: Budget,
    report: Callable[[float, str], None],
) -> Samples:
    """Tokenize the check texts, and embed as many of them with the reference as the budget allows.

    Some texts have no vector, which callers are told when they send one: the tokenizer fails on a text or
    makes no token of it, a token is not below `vocab_size`, or a vector is not finite. They are left out as
    long as they are few.

    Raises:
        InvalidModel: The saved tokenizer differs from the reference's, or the reference's vectors are missing
            for most texts, or not repeatable.
    """
    every = reference_calls.jobs(reference, tokenizer)
    jobs, without_tokens = _with_tokens(reference, tokenizer, every, vocab_size)
    jobs, vectors = reference_calls.vectors(reference, tokenizer, jobs, budget, report)
    shown = [job.prompt + text for job in jobs for text in job.texts]
    kinds = [job.input_type for job in jobs for _ in job.texts]
    ids = [tokenizer.ids(text, job.prompt, job.input_type) for job in jobs for text in job.texts]
    finite = np.isfinite(vectors).all(axis=1)
    if finite.mean() < _LEAST_SHARE:
        raise InvalidModel(
            f"sentence-transformers gives no finite vector for {shorten(shown[int(finite.argmin())])} and "
            f"most other texts ({int((~finite).sum())} of {len(finite)}); the weights are broken"
        )
    rest = frozenset(check_texts()[ALWAYS:])
    optional = np.array([job is jobs[0] and text in rest for job in jobs for text in job.texts])
    rows = np.concatenate([np.flatnonzero(finite & ~optional), np.flatnonzero(finite & optional)])
    samples = Samples(
        [shown[row] for row in rows],
        [ids[row] for row in rows],
        vectors[rows],
        _empty(reference, without_tokens),
        not_finite=[ids[row] for row in np.flatnonzero(~finite)],
        always=int((finite & ~optional).sum()),
    )
    reference_calls.require_same_for_same_ids(samples.texts, samples.ids, samples.vectors)
    if not reference.has_tokens and not isinstance(reference.first, StaticEmbedding):
        # Counts of words and texts of CLIP have no vectors of tokens.
        return samples
    tokens = [
        TokenSample(row, reference.encode_tokens(samples.texts[row], samples.ids[row], kinds[rows[row]]))
        for row in samples.spread(_TOKEN_TEXTS, KEPT_TOKENS)
    ]
    return replace(samples, tokens=tokens)


def _with_tokens(
    reference: ReferenceModel, tokenizer: ReferenceTokenizer, jobs: Sequence[Job], vocab_size: int
) -> tuple[list[Job], Job | None]:
    """Return the jobs with the texts that have tokens, all in the table, and a job of texts without tokens.

    Raises:
        InvalidModel: See `ReferenceTokenizer.check_same`, or too few texts are left.
    """
    kept: list[Job] = []
    without_tokens = None
    for job in jobs:
        if job.prompt and not tokenizer.ids(job.prompt).size:
            raise InvalidModel(
                f"the model's tokenizer makes no token of the prompt {shorten(job.prompt)}, on which "
                "sentence-transformers fails; remove it from config_sentence_transformers.json"
            )
        overlong = overlong_text()
        texts = tokenizer.check_same(reference, [*job.texts, overlong], job.prompt, job.input_type)
        whole: list[str] = []
        for text in (text for text in texts if text is not overlong):
            ids = token_ids(tokenizer.ids(text, job.prompt, job.input_type))
            if not ids.size:
                without_tokens = without_tokens or replace(job, texts=[text])
            elif int(ids.max()) < vocab_size:
                whole.append(text)
        if whole:
            kept.append(replace(job, texts=whole))
    if not kept or len(kept[0].texts) < _LEAST_SHARE * len(jobs[0].texts):
        raise InvalidModel(
            "the model's tokenizer makes of most texts no token, or one that the model has no vector for "
            f"(it has {vocab_size}); tokenizer and weights do not belong together"
        )
    return kept, without_tokens


def _empty(reference: ReferenceModel, job: Job | None) -> NDArray[np.float32] | None:
    """Return the reference's vector of a text without tokens; None if it fails on such a text.

    With two routes there are two such vectors, and none is kept.
    """
    if job is None or reference.routed:
        return None
    try:
        (vector,) = reference.encode(job.texts, job.prompt, job.input_type)
    except InvalidModel:
        return None
    return np.asarray(vector) if np.isfinite(vector).all() else None
