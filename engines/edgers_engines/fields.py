"""Types of single fields of stored records: what bounds a name, a digest, a count, a size, a token id."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

NAME = r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}"
Name = Annotated[str, Meta(pattern=rf"^{NAME}\Z")]
Sha256 = Annotated[str, Meta(pattern=r"^[0-9a-f]{64}\Z")]
Count = Annotated[int, Meta(ge=1, le=1 << 40)]
Size = Annotated[int, Meta(ge=1, le=1 << 20)]  # of one dimension that memory is allocated by
Token = Annotated[int, Meta(ge=0, lt=1 << 31)]
NonNegative = Annotated[float, Meta(ge=0)]
