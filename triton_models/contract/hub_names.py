"""The spellings that the libraries accept for one model.

sentence-transformers reads a bare `NAME` as `sentence-transformers/NAME`, except for the checkpoints of
transformers that had no owner when the Hub began. open_clip ignores the case of a tag, and reads `-` as `_`.
"""

from triton_models.contract.names import CHECKPOINT_SUFFIXES, HUB_PREFIX

OWNER = "sentence-transformers"

WITHOUT_OWNER = frozenset(
    """
    albert-base-v1 albert-base-v2 albert-large-v1 albert-large-v2 albert-xlarge-v1 albert-xlarge-v2
    albert-xxlarge-v1 albert-xxlarge-v2 bert-base-cased bert-base-cased-finetuned-mrpc bert-base-chinese
    bert-base-german-cased bert-base-german-dbmdz-cased bert-base-german-dbmdz-uncased
    bert-base-multilingual-cased bert-base-multilingual-uncased bert-base-uncased bert-large-cased
    bert-large-cased-whole-word-masking bert-large-cased-whole-word-masking-finetuned-squad bert-large-uncased
    bert-large-uncased-whole-word-masking bert-large-uncased-whole-word-masking-finetuned-squad camembert-base
    ctrl distilbert-base-cased distilbert-base-cased-distilled-squad distilbert-base-german-cased
    distilbert-base-multilingual-cased distilbert-base-uncased distilbert-base-uncased-distilled-squad
    distilbert-base-uncased-finetuned-sst-2-english distilgpt2 distilroberta-base gpt2 gpt2-large gpt2-medium
    gpt2-xl openai-gpt roberta-base roberta-base-openai-detector roberta-large roberta-large-mnli
    roberta-large-openai-detector t5-11b t5-3b t5-base t5-large t5-small transfo-xl-wt103 xlm-clm-ende-1024
    xlm-clm-enfr-1024 xlm-mlm-100-1280 xlm-mlm-17-1280 xlm-mlm-en-2048 xlm-mlm-ende-1024 xlm-mlm-enfr-1024
    xlm-mlm-enro-1024 xlm-mlm-tlm-xnli15-1024 xlm-mlm-xnli15-1024 xlm-roberta-base xlm-roberta-large
    xlm-roberta-large-finetuned-conll02-dutch xlm-roberta-large-finetuned-conll02-spanish
    xlm-roberta-large-finetuned-conll03-english xlm-roberta-large-finetuned-conll03-german xlnet-base-cased
    xlnet-large-cased
    """.split()
)
"""`ORIGINAL_TRANSFORMER_MODELS` of sentence-transformers, which only the converters may import."""

PUBLISHED = frozenset(
    """
    LaBSE all-MiniLM-L12-v1 all-MiniLM-L12-v2 all-MiniLM-L6-v1 all-MiniLM-L6-v2 all-distilroberta-v1
    all-mpnet-base-v1 all-mpnet-base-v2 all-roberta-large-v1 distiluse-base-multilingual-cased-v1
    distiluse-base-multilingual-cased-v2 gtr-t5-base gtr-t5-large multi-qa-MiniLM-L6-cos-v1
    multi-qa-MiniLM-L6-dot-v1 multi-qa-distilbert-cos-v1 multi-qa-distilbert-dot-v1 multi-qa-mpnet-base-cos-v1
    multi-qa-mpnet-base-dot-v1 paraphrase-MiniLM-L12-v2 paraphrase-MiniLM-L3-v2 paraphrase-MiniLM-L6-v2
    paraphrase-TinyBERT-L6-v2 paraphrase-albert-small-v2 paraphrase-distilroberta-base-v2
    paraphrase-mpnet-base-v2 paraphrase-multilingual-MiniLM-L12-v2 paraphrase-multilingual-mpnet-base-v2
    sentence-t5-base sentence-t5-large
    """.split()
)
"""Models of sentence-transformers' documentation. Any other bare name is read in the same way."""


def text_spellings(model_name: str) -> tuple[str, ...]:
    """Return the names of one sentence-transformers model, the full one first."""
    owner, _, bare = model_name.rpartition("/")
    if owner not in ("", OWNER) or bare.lower() in WITHOUT_OWNER:
        return (model_name,)
    return f"{OWNER}/{bare}", bare


def clip_spellings(model_name: str, pretrained: str) -> tuple[str, ...]:
    """Return the spellings of a CLIP model's tag, open_clip's first; a file has only its own name."""
    if model_name.startswith(HUB_PREFIX) or pretrained.endswith(CHECKPOINT_SUFFIXES):
        return (pretrained,)
    return tuple(dict.fromkeys((pretrained.lower().replace("-", "_"), pretrained)))
