"""How a language model is asked: a prompt's ids, in the checkpoint's own chat template if it has one."""

from __future__ import annotations

from pathlib import Path

from edgers_export.errors import ExportError
from edgers_export.template import plain_tokenizer
from edgers_export.text_model import load_tokenizer

_MARK = "EDGERSPROMPT"
_PROBE = "Is the text harmful?\nAnswer yes or no."


class Chat:
    """A checkpoint's tokenizer and chat template; whatever a prompt spells, it is plain text.

    Args:
        folder: the checkpoint's, checked.

    Raises:
        ExportError: the tokenizer cannot be loaded, or the template fails, has no place for one prompt, or
            gives other token ids than its pieces.
    """

    def __init__(self, folder: Path) -> None:
        self._own = load_tokenizer(folder)
        self._before = self._after = ()
        self._text_before = self._text_after = ""
        if self._own.chat_template is not None:
            self._cut(self._render(_MARK))
        self._plain = plain_tokenizer(self._own, first=not self._before)
        if self._own.chat_template is not None:
            wanted = self._own(self._render(_PROBE), add_special_tokens=False).input_ids
            if (found := self.ids(_PROBE)) != wanted:
                raise ExportError(
                    f"the chat template of {folder} gives {wanted}, but its pieces give {found}"
                )

    def ids(self, prompt: str) -> list[int]:
        """Token ids to go on from."""
        text = self._text_before + prompt + self._text_after
        run = self._plain.encode(text, add_special_tokens=self._own.chat_template is None)
        return [*self._before, *run.ids, *self._after]

    def text(self, tokens: list[int]) -> str:
        """What the model wrote, without special tokens or outer blanks."""
        return str(self._own.decode(tokens, skip_special_tokens=True)).strip()

    def _cut(self, whole: str) -> None:
        """Cut at the special tokens next to the prompt: what stands between is encoded with it in one run."""
        if whole.count(_MARK) != 1:
            raise ExportError("the chat template must have one place for one prompt")
        before, _, after = whole.partition(_MARK)
        special = [name for name in (*self._own.all_special_tokens, *self._own.get_added_vocab()) if name]
        start = max((before.rfind(name) + len(name) for name in special if name in before), default=0)
        end = min((after.find(name) for name in special if name in after), default=len(after))
        self._before, self._after = (
            tuple(self._own(part, add_special_tokens=False).input_ids)
            for part in (before[:start], after[end:])
        )
        self._text_before, self._text_after = before[start:], after[:end]

    def _render(self, prompt: str) -> str:
        turn = [{"role": "user", "content": prompt}]
        try:
            return str(self._own.apply_chat_template(turn, add_generation_prompt=True, tokenize=False))
        except Exception as error:  # noqa: BLE001  a template is a program, and raises whatever it likes
            reason = " ".join(f"{type(error).__name__}: {error}".split())[:300]
            raise ExportError(f"the checkpoint's chat template fails: {reason}") from None
