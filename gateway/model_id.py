"""A model as callers name it, and the names in Triton that stand behind it.

A model of sentence-transformers is one model in Triton; a CLIP model is two, its towers, which are loaded,
unloaded and deleted as one.
"""

import functools
from dataclasses import dataclass

from triton_models.contract.manifest import Manifest
from triton_models.contract.names import HUB_PREFIX, IMAGE_SUFFIX, TEXT_SUFFIX, clip_served_names, served_name


@dataclass(frozen=True)
class Reference:
    """What a request names.

    pretrained: None for a model of sentence-transformers; for CLIP a tag of open_clip or a checkpoint
    file's name, empty for a model of `hf-hub:`.
    """

    model_name: str
    pretrained: str | None = None

    @classmethod
    @functools.lru_cache(maxsize=1024)
    def named(cls, model_name: str, pretrained: str | None) -> "Reference":
        """From the fields of a body: `hf-hub:` says CLIP without `pretrained`.

        Raises:
            InvalidModelName: no model can have this name.
        """
        if pretrained is None and model_name.startswith(HUB_PREFIX):
            pretrained = ""
        reference = cls(model_name, pretrained)
        _ = reference.served
        return reference

    @classmethod
    def parse(cls, text: str) -> "Reference":
        """From one word: `NAME`, `NAME:PRETRAINED` for CLIP, or `hf-hub:OWNER/NAME`.

        Raises:
            InvalidModelName: no model can have this name.
        """
        if text.startswith(HUB_PREFIX) or ":" not in text:
            return cls.named(text, None)
        model_name, _, pretrained = text.partition(":")
        return cls.named(model_name, pretrained)

    @classmethod
    def of(cls, manifest: Manifest) -> "Reference":
        """The model that a manifest belongs to."""
        return cls(manifest.model_name, manifest.pretrained)

    @property
    def is_clip(self) -> bool:
        """Whether it has an image tower."""
        return self.pretrained is not None

    @property
    def text_served(self) -> str:
        """The name in Triton of what embeds text."""
        return self.served[0]

    @property
    def image_served(self) -> str:
        """The name in Triton of what embeds images; only of a CLIP model."""
        return self.served[1]

    @property
    def served(self) -> tuple[str, ...]:
        """All its names in Triton, the text tower's first."""
        if self.pretrained is None:
            return (served_name(self.model_name),)
        names = clip_served_names(self.model_name, self.pretrained)
        return (names.text, names.image)

    @property
    def id(self) -> str:
        """Its name in one word, as `parse` reads it."""
        return f"{self.model_name}:{self.pretrained}" if self.pretrained else self.model_name

    def __str__(self) -> str:
        return f"{self.model_name} ({self.pretrained})" if self.pretrained else self.model_name


def partners(served: str) -> set[str]:
    """What a served name would stand beside, were it that of a tower."""
    for suffix, other in ((TEXT_SUFFIX, IMAGE_SUFFIX), (IMAGE_SUFFIX, TEXT_SUFFIX)):
        if served.endswith(suffix):
            return {served.removesuffix(suffix) + other}
    return set()
