"""The cleaning of texts is open_clip's."""

import random

import pytest
from open_clip.tokenizer import get_clean_fn

from converters.clip.check_texts import CLIP_EDGE_TEXTS
from converters.verification.check_texts import EDGE_TEXTS
from triton_models.contract.cleaning import CLEANINGS
from triton_models.contract.manifest import TextCleaning


@pytest.mark.parametrize("how", CLEANINGS)
def test_texts_come_out_as_open_clip_s(how: TextCleaning) -> None:
    choice = random.Random(5)
    ranges = ((0x20, 0x7F), (0x09, 0x0E), (0x80, 0x250), (0x2000, 0x2070), (0x1F300, 0x1F700))
    made = ["".join(chr(choice.randrange(*choice.choice(ranges))) for _ in range(30)) for _ in range(2000)]
    clean = get_clean_fn(how)
    for text in (*EDGE_TEXTS, *CLIP_EDGE_TEXTS, *made):
        assert CLEANINGS[how](text) == clean(text), ascii(text)
