"""Fixed texts that every conversion is checked with.

They are ordinary sentences of all lengths, and texts that have broken tokenizers and graphs before: an empty
text, one letter, other scripts, emoji, control characters, special tokens typed by a user.
"""

import random

_WORDS = (
    "the of and to in a is that for it as was with be by on not he this are or his from at which but "
    "have an had  they you were their one all we can her has there been if more when will would who so "
    "no out up into do any  your what server vector model river mountain embedding language winter "
    "science music bread history garden  engine question answer light paper window ocean market doctor "
    "silver quiet running between against careful"
).split()

EDGE_TEXTS: tuple[str, ...] = (
    "",
    " ",
    "a",
    "Hello",
    "word " * 3,
    "A short sentence.",
    "UPPER lower MiXeD",
    "  leading and trailing  ",
    "tabs\tand\nnew\r\nlines\n\n",
    "nul \x00 bell \x07 escape \x1b delete \x7f",
    "zero\u200bwidth\u200djoiner\ufeffmark",
    "\u202eright to left override\u202c",
    "Die Straße fällt über größere Höhen ab.",
    "L'été, le garçon naïf mangea une crêpe à Noël.",
    "Съешь же ещё этих мягких французских булок.",
    "Ξεσκεπάζω την ψυχοφθόρα βδελυγμία.",
    "素早い茶色の狐がのろまな犬を飛び越える。",
    "敏捷的棕色狐狸跳过了懒狗。",
    "다람쥐 헌 쳇바퀴에 타고파.",
    "نص حكيم له سر قاطع وذو شأن عظيم",
    "דג סקרן שט בים מאוכזב ולפתע מצא חברה",
    "ऋषियों को सताने वाले दुष्ट राक्षसों",
    "เป็นมนุษย์สุดประเสริฐเลิศคุณค่า",
    "Vạn sự khởi đầu nan",
    "e\u0301 combining, \u00e9 composed, \ufb01 ligature, Ⅷ",
    "\U0001f600 \U0001f680 \U0001f1e9\U0001f1ea \u2764\ufe0f",
    "\U0001f469\u200d\U0001f469\u200d\U0001f467\u200d\U0001f466 a family in one sign",
    "\U00020000\U0002a6d6 rare ideographs \U000e0041",
    "[CLS] [SEP] [PAD] [MASK] [UNK]",
    "<s> </s> <pad> <mask> <unk> <|endoftext|> <|im_end|>",
    "<pad>",
    "[PAD] after padding",
    "0123456789 3.14159 -1e10 0xDEADBEEF 1,000,000",
    "!!! ??? ... --- *** ### $$$ %%% &&& @@@",
    "https://example.com/a/b?c=d&e=f#g user@example.com",
    "def f(x):\n    return {k: v ** 2 for k, v in x.items() if v != 0}",
    '{"json": ["a", 1, null, true], "nested": {"x": "y"}}',
    "a" * 300,
    "ab" * 500,
    "\u00e4" * 200,
    "日本語" * 150,
    "\U0001f600" * 100,
    "- " * 200,
)


ALWAYS = len(EDGE_TEXTS) + 41
"""Number of the first `check_texts` that every check has: the edge texts, the longest, and some of others."""


def check_texts() -> list[str]:
    """Return about 300 texts, the same at every call, in the order in which a check that ends early has them.

    The edge texts are the first. Then there is one of a thousand words, and then those of all lengths.
    """
    choice = random.Random(20240917)  # noqa: S311 - the same texts every time, no secret
    lengths = [1, 2, 3, 4, 5, 6, 8] * 12 + [10, 12, 14, 16, 20] * 20 + [25, 30, 40, 50] * 12 + [80, 120] * 8
    lengths += [180, 240, 330, 500]
    texts = [" ".join(choice.choices(_WORDS, k=length)) for length in lengths]
    thousand = " ".join(choice.choices(_WORDS, k=1000))
    choice.shuffle(texts)
    return [*EDGE_TEXTS, thousand, *texts]


def overlong_text() -> str:
    """Return 20,000 words, which are truncated at any usual length; the text is only tokenized."""
    return " ".join(random.Random(7).choices(_WORDS, k=20000))  # noqa: S311 - as above
