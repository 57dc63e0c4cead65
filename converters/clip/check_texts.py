"""Texts that a CLIP model's text tower is checked with, in addition to those of every model.

They are captions as people write them, and texts that need open_clip's cleaning and its tokenizer.
"""

import random

from converters.verification.check_texts import EDGE_TEXTS, check_texts

CLIP_EDGE_TEXTS: tuple[str, ...] = (
    "a photo of a cat",
    "A Photo of TWO Dogs, running!",
    "it's a dog's life; they're here, I've seen 'em, we'll go, he'd say I'm late",
    "Ã¼ber schÃ¶ne StraÃŸen, lâ€™Ã©tÃ© and âœ” done",
    "&lt;b&gt;bold&lt;/b&gt; &amp;amp; &eacute;t&eacute; &#x1F600; &nbsp; end",
    "many   spaces\t\ttabs\n\nlines \u00a0\u3000 wide",
    "\U0001f436 dog \U0001f431 cat \U0001f469\u200d\U0001f680 astronaut \u2764\ufe0f",
    "snake_case and kebab-case, (brackets) [more] {all}; 100% of $5.00 @ noon #1",
    "<start_of_text> a <end_of_text> b <end_of_text>",
    "!<end_of_text>! <END_OF_TEXT> <|startoftext|>",
    "!!! !? ?! ... \u2026 \u2014 \u201cquoted\u201d \u2018single\u2019",
    "\u0345 iota \u017fhort \u0130stanbul \u1e9e \u01c5 \ufb01sh",
    "1 22 333 4444 \u00bd \u2167 \u0663 \uff15",
)
_SUBJECTS = (
    "a cat|two dogs|an old man|a red car|the bridge|a bowl of soup|children|a diver|a train|mountains".split(
        "|"
    )
)
_VERBS = "sitting|running|shown|painted|seen|standing|lost|waiting|resting|lit".split("|")
_PLACES = "on a sofa|in the rain|at night|near the sea|under a bridge|in a kitchen|on snow|from above".split(
    "|"
)
_ENDS = "in black and white|with a shallow depth of field|as a watercolor|at sunset|close up|in fog".split(
    "|"
)
CLIP_ALWAYS = len(CLIP_EDGE_TEXTS) + len(EDGE_TEXTS) + 23
"""Number of the first `clip_texts` that every check has: the edge texts, and some of the others."""


def clip_texts() -> list[str]:
    """Return the same texts at every call, in the order in which a check that ends early has them."""
    choice = random.Random(4)  # noqa: S311 - the same texts every time, no secret
    captions = [_caption(choice) for _ in range(120)]
    captions.append(" ".join(_caption(choice) for _ in range(20)))
    others = [*captions, *check_texts()[len(EDGE_TEXTS) :]]
    choice.shuffle(others)
    return [*CLIP_EDGE_TEXTS, *EDGE_TEXTS, *others]


def _caption(choice: random.Random) -> str:
    """Return a caption of 4 to 17 words."""
    parts = [choice.choice(words) for words in (_SUBJECTS, _VERBS, _PLACES)]
    parts += [choice.choice(words) for words in (_ENDS, _PLACES) if choice.random() < 0.5]
    return " ".join(parts)
