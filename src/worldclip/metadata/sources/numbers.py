"""The numbers 0 to 99, in every language."""

from __future__ import annotations

from worldclip.metadata.counting import Candidates
from worldclip.metadata.entry_list import EntryList
from worldclip.metadata.source import Inputs, Source

NUM_NUMBERS = 100


class Numbers(Source):
    """Numbers are entries and no words: a language of which there is nothing else has no list."""

    name = "number"
    meaning = "every language has the numbers 0 to 99"

    def read(self, inputs: Inputs) -> Candidates:
        for number in range(NUM_NUMBERS):
            yield str(number), None

    def add_to(self, entries: EntryList, inputs: Inputs) -> None:
        entries.add(self.name, self.read(inputs), inputs.config.max_chars)


NUMBER = Numbers()
