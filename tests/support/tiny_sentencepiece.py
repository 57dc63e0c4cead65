"""Tiny models of sentencepiece, trained on the corpus of the other tokenizers."""

from pathlib import Path

import sentencepiece

from tests.support.tiny_tokenizers import CORPUS

WORDS = 400


T5_IDS = {"pad_id": 0, "eos_id": 1, "unk_id": 2, "bos_id": -1}


def train(path: Path, kind: str = "unigram", ids: dict[str, int] = T5_IDS) -> Path:
    """Write a model of `kind` (unigram or bpe) to `path`, and return the path.

    `ids` are those of the special tokens, -1 for none.
    """
    with path.open("wb") as file:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(CORPUS * 20),
            model_writer=file,
            model_type=kind,
            vocab_size=WORDS,
            hard_vocab_limit=False,
            num_threads=1,
            minloglevel=2,
            # ALBERT's and DeBERTa's, which others leave alone.
            control_symbols=["[CLS]", "[SEP]", "[MASK]"],
            **ids,
        )
    return path
