"""Tokenizers of every kind, built from the characters and words of a few lines.

Only BPE is trained, since the trainers of the other kinds give a different vocabulary in each run.
"""

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import NllbTokenizer, PreTrainedTokenizerFast

VOCAB = 600
CORPUS = [
    "the quick brown fox jumps over the lazy dog and runs away from the river",
    "a server turns sentences into vectors, and similar sentences lie near each other",
    "Die Straße fällt über größere Höhen ab, und der Wind weht kalt im Winter",
    "numbers 0 1 2 3 4 5 6 7 8 9 and marks . , ! ? : ; - ( ) [ ] ' \" / @ # % & *",
    "Съешь же ещё этих мягких французских булок, да выпей чаю",
    "素早い茶色の狐 敏捷的棕色狐狸 다람쥐 헌 쳇바퀴에",
    "abcdefghijklmnopqrstuvwxyz ABCDEFGHIJKLMNOPQRSTUVWXYZ äöüß éèêàç",
    "question answer light paper window ocean market doctor silver quiet running between careful",
]
WORDS = sorted(
    {word for line in CORPUS for word in line.split()}
    | {word for line in CORPUS for word in line.lower().split()}
)
CHARACTERS = sorted({character for line in CORPUS for character in line + line.lower() if character != " "})


def wordpiece(*, lowercase: bool = True) -> PreTrainedTokenizerFast:
    """Return a WordPiece tokenizer like BERT's; [PAD] is 0."""
    names = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    pieces = dict.fromkeys([*names, *CHARACTERS, *(f"##{character}" for character in CHARACTERS), *WORDS])
    vocabulary = {piece: number for number, piece in enumerate(pieces)}
    assert len(vocabulary) <= VOCAB
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=lowercase)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.add_special_tokens(names)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", 2), ("[SEP]", 3)],
    )
    return PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=tokenizer,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        mask_token="[MASK]",
        model_input_names=["input_ids", "token_type_ids", "attention_mask"],
    )


def byte_level(*, ends: bool = False) -> PreTrainedTokenizerFast:
    """Return a byte-level BPE tokenizer like RoBERTa's: <s> 0, <pad> 1, </s> 2; `ends` leaves out <s>."""
    names = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.train_from_iterator(
        CORPUS,
        trainers.BpeTrainer(
            vocab_size=VOCAB,
            special_tokens=names,
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    tokenizer.post_processor = processors.TemplateProcessing(
        single="$A </s>" if ends else "<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    return _sentencepiece_like(tokenizer)


def unigram(*, ends: bool = False) -> PreTrainedTokenizerFast:
    """Return a Unigram tokenizer like XLM-R's; with `ends` like T5's, with an end token only."""
    names = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    scores = dict.fromkeys(names, 0.0) | dict.fromkeys(["\u2581", *CHARACTERS], -10.0)
    scores |= {f"\u2581{word}": -6.0 - number / 100 for number, word in enumerate(WORDS)}
    assert len(scores) <= VOCAB
    tokenizer = Tokenizer(models.Unigram(list(scores.items()), unk_id=3))
    tokenizer.normalizer = normalizers.NFKC()
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.add_special_tokens(names)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="$A </s>" if ends else "<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    return _sentencepiece_like(tokenizer)


def nllb() -> NllbTokenizer:
    """Return a tokenizer of NLLB, which begins a text with the code of its language."""
    names = ["<s>", "<pad>", "</s>", "<unk>", "\u2581", *CHARACTERS]
    return NllbTokenizer(
        vocab={name: number for number, name in enumerate(names)},
        merges=[],
        extra_special_tokens=["eng_Latn", "deu_Latn"],
    )


def _sentencepiece_like(tokenizer: Tokenizer) -> PreTrainedTokenizerFast:
    return PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        unk_token="<unk>",
        bos_token="<s>",
        eos_token="</s>",
        cls_token="<s>",
        sep_token="</s>",
        mask_token="<mask>",
        model_input_names=["input_ids", "attention_mask"],
    )
