#!/bin/sh
# The linker of packaging/cross.sh: rust-lld, with the functions first that an idle superd runs, behind
# them those that it has run at its start only, and then those that it has not run.
#
# The kernel maps a program by pieces of 64 KB around what is touched. Where both kinds of function
# are mixed every piece is touched; where they are apart half of the program is neither mapped
# nor, from a slow flash, read.
#
# hot.txt has the names of the first two kinds, a name of Rust as the identifiers in it: what else is in
# such a name (hashes, numbers) changes with every compiler. A function that is missing there, or is
# there without reason, costs its place and nothing else. packaging/hot.py makes it anew.
set -eu
here=$(dirname "$(readlink -f "$0")")
order=$(mktemp)
script=$(mktemp)
trap 'rm -f "$order" "$script"' EXIT

# The names of functions in what is linked, one a line. Each is also that of a section, and the
# table in a file has it once, behind the longest of the words that stand before it.
names() {
    for file in "$@"; do
        case $file in
        *.o | *.rlib) tr '\000' '\n' <"$file" ;;
        esac
    done | LC_ALL=C sed -nE 's/^(\.rela)?(\.text)?\.?(unlikely\.)?((_R|OUTLINED_FUNCTION_)[A-Za-z0-9_.$]+)$/\4/p'
}

names "$@" | LC_ALL=C sort -u | LC_ALL=C awk -f "$here/hot.awk" "$here/hot.txt" - >"$order"
# Its names are left in it where they are wanted. A build that left them by itself would be another one.
for arg in "$@"; do
    shift
    case ${SUPERD_NAMES:-}$arg in
    yes--strip-all) ;;
    *) set -- "$@" "$arg" ;;
    esac
done

# What every program runs at its start and its end, 16 bytes each, would stand behind all the rest.
echo 'SECTIONS { .init : { KEEP(*(.init)) } .fini : { KEEP(*(.fini)) } } INSERT BEFORE .text;' >"$script"
rust-lld "$@" --script="$script" --symbol-ordering-file="$order" --no-warn-symbol-ordering
