"""The identity of a model: the name that callers use, and its names in Triton.

A sentence-transformers model is one model in Triton. A CLIP model is two, its towers; they are loaded,
unloaded and deleted together.
"""

import functools
from dataclasses import dataclass

from triton_models.contract.manifest import Manifest
from triton_models.contract.names import (
    HUB_PREFIX,
    IMAGE_SUFFIX,
    TEXT_SUFFIX,
    clip_triton_names,
    triton_name_of,
)


@dataclass(frozen=True)
class ModelId:
    """Identifies the model of a request.

    Attributes:
        model_name: the name on the Hub or in a source directory; for CLIP the architecture, or
            `hf-hub:OWNER/NAME`.
        pretrained: None for a sentence-transformers model. For CLIP a tag of open_clip or the name of a
            checkpoint file; empty for a model of `hf-hub:`.
    """

    model_name: str
    pretrained: str | None = None

    @classmethod
    @functools.lru_cache(maxsize=1024)
    def named(cls, model_name: str, pretrained: str | None) -> "ModelId":
        """Build the identity from the fields of a body; a model of `hf-hub:` is CLIP without `pretrained`.

        Raises:
            InvalidModelName: no model can have this name.
        """
        if pretrained is None and model_name.startswith(HUB_PREFIX):
            pretrained = ""
        model_id = cls(model_name, pretrained)
        _ = model_id.triton_names
        return model_id

    @classmethod
    def parse(cls, text: str) -> "ModelId":
        """Parse an identity in one word: `NAME`, `NAME:PRETRAINED` for CLIP, or `hf-hub:OWNER/NAME`.

        Raises:
            InvalidModelName: no model can have this name.
        """
        if text.startswith(HUB_PREFIX) or ":" not in text:
            return cls.named(text, None)
        model_name, _, pretrained = text.partition(":")
        return cls.named(model_name, pretrained)

    @classmethod
    def of(cls, manifest: Manifest) -> "ModelId":
        """Return the identity of the model that a manifest belongs to."""
        return cls(manifest.model_name, manifest.pretrained)

    @property
    def is_clip(self) -> bool:
        """True for a CLIP model, which has an image tower."""
        return self.pretrained is not None

    @property
    def text_triton_name(self) -> str:
        """The name in Triton of the model or tower that embeds text."""
        return self.triton_names[0]

    @property
    def image_triton_name(self) -> str:
        """The name in Triton of the tower that embeds images; only a CLIP model has one."""
        return self.triton_names[1]

    @property
    def triton_names(self) -> tuple[str, ...]:
        """All names of the model in Triton, the text tower's first."""
        if self.pretrained is None:
            return (triton_name_of(self.model_name),)
        names = clip_triton_names(self.model_name, self.pretrained)
        return (names.text, names.image)

    @property
    def id(self) -> str:
        """The name in one word, as `parse` reads it."""
        return f"{self.model_name}:{self.pretrained}" if self.pretrained else self.model_name

    def __str__(self) -> str:
        return f"{self.model_name} ({self.pretrained})" if self.pretrained else self.model_name


def partners(triton_name: str) -> set[str]:
    """Return the other tower's name, as a set, if `triton_name` is named like a tower; else an empty set."""
    for suffix, other in ((TEXT_SUFFIX, IMAGE_SUFFIX), (IMAGE_SUFFIX, TEXT_SUFFIX)):
        if triton_name.endswith(suffix):
            return {triton_name.removesuffix(suffix) + other}
    return set()
