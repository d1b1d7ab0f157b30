"""Names as nobody would give them, each of which does something where it is not made harmless."""

import os

NAMES = (
    "[/x][red]b[/red] :smile:",
    "\x1b[2J\x1b]0;title\x07\x9b31m\r",
    "\u202egnp.txt\u2066\u200f",
    os.fsdecode(b"bytes \xff\xfe"),
    "=cmd|' /C calc'!A0",
    "<script>alert(1)</script>&lt;b onclick='x'>",
    "![x](javascript:alert(1)) [y]: javascript:z <javascript:w>",
    "a|b\\|c\n| d | e |\n\n# f\u2028g",
    "$x^{$ \\input{/etc/passwd} %&#_~ `` ` **b** __i__ ~~s~~",
    "[0, 1] * ^^M @sum(1) -- é",
)
ACTING = "\x00\x07\x08\x1b\x7f\x9b\r\u2028\u202a\u202e\u2066\u2069\u200e\u200f\udcff\udcfe"
"""Characters that must not come out in any text."""


def acting(text: str) -> set[str]:
    return set(text) & set(ACTING)
