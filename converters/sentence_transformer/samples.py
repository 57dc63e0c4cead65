"""Inputs of the check, tokenised, with the reference's vectors."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from converters.errors import InvalidModel, shorten
from converters.sentence_transformer import reference_calls
from converters.sentence_transformer.reference import ReferenceModel
from converters.sentence_transformer.tokenizer import ReferenceTokenizer
from converters.verification.check import _TOKEN_TEXTS, KEPT_TOKENS, Samples, TokenSample
from converters.verification.check_texts import overlong_text


def prepare(
    reference: ReferenceModel, tokenizer: ReferenceTokenizer, report: Callable[[float, str], None]
) -> Samples:
    """Tokenize the check texts, and embed them with the reference.

    Raises:
        InvalidModel: The saved tokenizer differs from the reference's, or the reference's vectors are not
            finite or not repeatable.
    """
    jobs = reference_calls.jobs(reference, tokenizer)
    for job in jobs:
        tokenizer.check_same(reference, [*job.texts, overlong_text()], job.prompt, job.input_type)
    vectors = np.concatenate(reference_calls.vectors(reference, jobs, report))
    shown = [job.prompt + text for job in jobs for text in job.texts]
    kinds = [job.input_type for job in jobs for _ in job.texts]
    ids = [tokenizer.ids(text, job.prompt, job.input_type) for job in jobs for text in job.texts]
    bad = ~np.isfinite(vectors).all(axis=1)
    if bad.any():
        raise InvalidModel(f"sentence-transformers gives no finite vector for {shorten(shown[bad.argmax()])}")
    reference_calls.require_same_for_same_ids(shown, ids, vectors)
    rows = [row for row, row_ids in enumerate(ids) if row_ids.size]
    empty = next((vectors[row] for row, row_ids in enumerate(ids) if not row_ids.size), None)
    samples = Samples([shown[row] for row in rows], [ids[row] for row in rows], vectors[rows], empty)
    tokens = [
        TokenSample(row, reference.encode_tokens(samples.texts[row], samples.ids[row], kinds[rows[row]]))
        for row in samples.spread(_TOKEN_TEXTS, KEPT_TOKENS)
    ]
    return replace(samples, tokens=tokens)
