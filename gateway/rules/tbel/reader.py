"""Goes through the words of a TBEL text, and says what is wrong where."""

from __future__ import annotations

from typing import NoReturn

from gateway.rules.tbel.names import FOREIGN_WORDS
from gateway.rules.tbel.tokens import Source, Word


class Reader:
    """The next word is `self.words[self.at]`; the last of them is an end."""

    def __init__(self, source: Source, words: list[Word]) -> None:
        self.source, self.words = source, words
        self.at = 0

    @property
    def is_done(self) -> bool:
        """Whether there is no word any more."""
        return self.word.kind == "end"

    @property
    def word(self) -> Word:
        """The next word."""
        return self.words[self.at]

    def fail(self, text: str, word: Word | None = None) -> NoReturn:
        """RejectedError at this word."""
        raise self.source.error((word or self.word).at, text)

    def sees(self, *texts: str) -> bool:
        """Whether the next word is one of these marks or names."""
        return self.word.kind in ("mark", "name") and self.word.text in texts

    def take(self, *texts: str) -> bool:
        """The same, and pass it."""
        if self.sees(*texts):
            self.at += 1
            return True
        return False

    def need(self, text: str) -> None:
        """Pass this word. RejectedError: there is another one."""
        if not self.take(text):
            here = repr(self.word.text) if self.word.kind != "end" else "the end"
            self.fail(f"{text!r} is missing before {here}")

    def name(self) -> str:
        """Pass a name. RejectedError: there is none, or TBEL has another use for it."""
        word = self.word
        if word.kind != "name":
            self.fail(f"a name is missing before {word.text!r}" if word.text else "a name is missing at the end")
        self.foreign(word)
        self.at += 1
        return word.text

    def foreign(self, word: Word) -> None:
        """RejectedError: a word of JavaScript that TBEL does not have, with what to write instead."""
        hint = FOREIGN_WORDS.get(word.text)
        if hint:
            self.fail(f"{word.text!r} is not in TBEL: {hint}", word)

    def mark(self, word: Word) -> str:
        """Stands before code that may fail."""
        return f"\x01{word.at}\x02"
