"""Keep texts from becoming special tokens: break special strings in them, and those that a normaliser makes of them.

No flag of transformers keeps a literal `</s>` in a caption from becoming an end token.  NFKC makes `</s>` of fullwidth
letters too, and open_clip's cleaning makes it of `&lt;/s&gt;`.
"""

from __future__ import annotations

import string
from collections.abc import Callable, Iterable, Sequence
from typing import Any

Stage = Callable[[str], str]
"""A tokenizer's change of a text before splitting: cleaning, or normalisation."""


class SpecialStrings:
    """The special strings of a tokenizer.  Remembers which characters cannot become a part of one."""

    def __init__(
        self,
        strings: Iterable[str],
        stages: Sequence[Stage] = (),
        *,
        is_decoding: bool = False,
        gives_special: Callable[[str], bool] | None = None,
    ) -> None:
        """Take the special strings, and the tokenizer's stages in order.

        is_decoding: the stages also decode sequences of characters, `&lt;` or UTF-8 read as Latin-1.  Otherwise they
        change characters one by one, or remove or join them.  gives_special: whether the tokenizer makes a special
        token of a text; without it, every special string after a stage counts as one.
        """
        # longest first: a special may contain a shorter one
        self.strings = sorted(set(strings), key=lambda text: (-len(text), text))
        self._stages = tuple(stages)
        self._is_decoding = is_decoding
        self._gives_special = gives_special
        # The character of each special string that is rarest in texts: without it there is no special string.
        self._keys = {
            min(special, key=lambda char: (char not in string.punctuation, char.isalnum())) for special in self.strings
        }
        if is_decoding:
            self._keys.add("&")
        self._harmless: set[str] = set()

    def break_in(self, text: str) -> str:
        """Return `text` without special strings; unchanged where it holds none and no stage makes one of it."""
        text = break_specials(text, self.strings)
        if not self._stages or self._is_harmless(text):
            return text
        made = self._made_of(text)
        if made is None:
            return text
        text = break_specials(made, self.strings)
        made = self._made_of(text)
        while made is not None:  # the stages delete the space, or decode once more
            for special in self.strings:
                made = made.replace(special, "")
            text = break_specials(made, self.strings)
            made = self._made_of(text)
        return text

    def _is_harmless(self, text: str) -> bool:
        """Return whether no stage can make a special string of `text`; unclear cases are False."""
        if self._is_decoding:
            return text.isascii() and self._keys.isdisjoint(text)
        if self._harmless.issuperset(text):
            return True
        for char in set(text) - self._harmless:
            changed = char
            for stage in self._stages:
                changed = stage(changed)
            if self._keys.isdisjoint(changed):
                self._harmless.add(char)
        return self._harmless.issuperset(text)

    def _made_of(self, text: str) -> str | None:
        """Return the text after the first stage that makes a special string of it, None if none does."""
        made = text
        for stage in self._stages:
            made = stage(made)
            if any(special in made for special in self.strings):
                if self._gives_special is None or self._gives_special(text):
                    return made
                return None
        return None


def stages_of(hf: Any) -> tuple[Stage, ...]:
    """Return the stages of a tokenizer of transformers: its normaliser, if it has one."""
    normaliser = getattr(getattr(hf, "backend_tokenizer", None), "normalizer", None)
    if normaliser is None:
        return ()
    return (normaliser.normalize_str,)


def break_specials(text: str, specials: Sequence[str]) -> str:
    """Insert a space after the first character of each special string in `text`: `</s>` -> `< /s>`.

    A special string of one character is deleted.  Repeats until none is left, since breaking one may complete another.
    """
    while True:
        for special in specials:
            if special in text:
                break
        else:
            return text
        broken = f"{special[0]} {special[1:]}" if len(special) > 1 else ""
        text = text.replace(special, broken)
