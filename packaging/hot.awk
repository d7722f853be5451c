# Chooses from the names of functions, one a line, those in the list that is read first: hot.awk hot.txt -
# In that list a name of Rust (v0: RFC 2603) is the identifiers in it, with dots between.

# The identifiers of a mangled name. Between them stand letters that say how they belong together,
# hashes (Cs..._), numbers (s..._, j..._) and references to what was before (B..._).
function identifiers(name,    all, n) {
    all = ""
    while (name != "") {
        if (match(name, /^[0-9]+_?/)) {
            n = substr(name, 1, RLENGTH) + 0
            all = all "." substr(name, RLENGTH + 1, n)
            name = substr(name, RLENGTH + n + 1)
        } else if (match(name, /^(Cs|s|B)[0-9A-Za-z]*_|^[a-z][0-9a-f]*_/)) {
            name = substr(name, RLENGTH + 1)
        } else {
            name = substr(name, 2)
        }
    }
    return substr(all, 2)
}

BEGIN { FS = "\n" }
names { print identifiers($0); next }
FNR == NR {
    listed[++many] = $0
    if (/^#/) { line = many; next }
    # What is of C is in an archive, under that very name.
    found[$0] = $0 ~ /\./ ? "" : $0 "\n"
    next
}
# What several functions have in common, made by the compiler: behind those that are run all the time.
/^OUTLINED/ { shared = shared $0 "\n"; next }
(short = identifiers($0)) in found { found[short] = found[short] $0 "\n" }
END {
    for (i = 1; i <= many; i++) printf "%s", i == line ? shared : found[listed[i]]
}
