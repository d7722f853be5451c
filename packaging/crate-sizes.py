#!/usr/bin/env python3
"""What each crate costs in an unstripped ELF file: crate-sizes.py FILE

Each symbol of code or data counts for the crate that it was made for: the first one in its name that
is not of the standard library, else the standard library. So `Vec<toml::Item>::push` is toml's.
Bytes that several symbols share are counted once. What belongs to no symbol (texts, relocations,
tables) stands below as sections. Sizes on disk of the stripped file are less the symbol table.

Not for: exact sizes by removal; that needs a build without the crate.
"""

import re
import struct
import sys
from collections import Counter

STANDARD = {"core", "alloc", "std", "hashbrown", "compiler_builtins", "panic_abort", "rustc_demangle"}

ALLOC, EXECUTABLE = 2, 4  # section flags
NOBITS, SYMTAB = 8, 2  # section types
OBJECT, FUNCTION = 1, 2  # symbol types


def sections(elf):
    """name, type, flags, offset, size, link of each section."""
    wide = elf[4] == 2
    if wide:
        start, = struct.unpack_from("<Q", elf, 0x28)
        size, count, names = struct.unpack_from("<HHH", elf, 0x3A)
        form = "<IIQQQQI"
    else:
        start, = struct.unpack_from("<I", elf, 0x20)
        size, count, names = struct.unpack_from("<HHH", elf, 0x2E)
        form = "<IIIIIII"
    rows = [struct.unpack_from(form, elf, start + i * size) for i in range(count)]
    table = rows[names][4]
    for name, kind, flags, _, offset, length, link in rows:
        end = elf.index(b"\0", table + name)
        yield elf[table + name : end].decode(), kind, flags, offset, length, link


def symbols(elf, rows):
    """name, address and size of each function and object."""
    wide = elf[4] == 2
    for _, kind, _, offset, length, link in rows:
        if kind != SYMTAB:
            continue
        texts = rows[link][3]
        step = 24 if wide else 16
        for at in range(offset, offset + length, step):
            if wide:
                name, info, _, _, value, size = struct.unpack_from("<IBBHQQ", elf, at)
            else:
                name, value, size, info, _, _ = struct.unpack_from("<IIIBBH", elf, at)
            if info & 15 in (OBJECT, FUNCTION) and size:
                yield elf[texts + name : elf.index(b"\0", texts + name)].decode(), value, size


def crates_of(symbol):
    """The crates in a mangled name, in its order: v0 (`C` disambiguator length name) and legacy."""
    if symbol.startswith("_R"):
        # A crate root: `C`, its disambiguator (`s` base-62 `_`), the length of its name, the name.
        found = re.finditer(r"Cs[0-9a-zA-Z]*_(\d+)_?(?=[a-z_])", symbol)
        for each in found:
            yield symbol[each.end() : each.end() + int(each.group(1))]
    elif symbol.startswith("_ZN"):
        parts, at = [], 3
        while length := re.match(r"\d+", symbol[at:]):
            at += length.end()
            parts.append(symbol[at : at + int(length.group())])
            at += int(length.group())
        for part in parts[:-1]:  # the last is a hash
            text = part.replace("$LT$", "<").replace("$GT$", ">").replace("$u20$", " ").replace("..", "::")
            found = re.findall(r"(?<![\w:])([a-z_][a-z0-9_]*)(?=::)", text)
            yield from found or ([text] if part is parts[0] else [])


def owner(symbol):
    """The crate a symbol was made for."""
    if not symbol.startswith(("_R", "_ZN")):
        return "musl and others"
    named = list(crates_of(symbol))
    return next((c for c in named if c not in STANDARD), "the standard library")


def main():
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    with open(sys.argv[1], "rb") as file:
        elf = file.read()
    rows = list(sections(elf))
    cost, seen = Counter(), set()
    for name, value, size in sorted(symbols(elf, rows), key=lambda s: (s[1], s[0])):
        if value not in seen:  # folded: two names for the same bytes
            seen.add(value)
            cost[owner(name)] += size
    if not cost:
        sys.exit(f"{sys.argv[1]}: no symbols: was it stripped?")
    print(f"{'bytes':>9}  crate")
    for crate, size in cost.most_common(20):
        print(f"{size:9}  {crate}")
    if rest := cost.most_common()[20:]:
        print(f"{sum(size for _, size in rest):9}  {len(rest)} others")
    print(f"{'bytes':>9}  section")
    for name, kind, flags, _, length, _ in rows:
        if flags & ALLOC and kind != NOBITS and length >= 1024:
            print(f"{length:9}  {name}")


if __name__ == "__main__":
    main()
