#!/usr/bin/env bash
# Builds superd for a router: one static file, for a processor this machine need not have.
#
#   packaging/cross.sh [--target TRIPLE] [--out DIR] STEP...
#
#   fetch       a compiler, the sources of its standard library and musl, by apt, unpacked below target/cross
#   build       the program, stripped, and superctl as a link to it, into target/router/TRIPLE (--out)
#   smoke-user  runs it under qemu-user: version, check, plan
#   smoke-vm    boots it in a virtual router (aarch64 only): tests/vm/run smoke
#   size        the file against its gate, what each crate costs, and whether a build of a copy of
#               the sources, into another target folder, gives the same bytes
#   start       system calls and milliseconds from exec to the first answer, where it runs here (x86_64): start.py
#   names       the same program with the names of its functions: where it is, for hot.py and crate-sizes.py
#
# TRIPLE is aarch64-unknown-linux-musl (the default), armv7-unknown-linux-musleabihf or
# x86_64-unknown-linux-musl. Needs: Rust (rustup's cargo, and the rust-lld that comes with it), and for
# `fetch` Debian's or Ubuntu's apt-get and dpkg; no root, and no C compiler.
#
# Where the standard library of the target is installed (`rustup target add TRIPLE`) it is used, and
# `fetch` has nothing to do. Else the library is built too, by the compiler that its sources belong to:
# that file is smaller, since nothing in it can unwind. Not for: packages (the other files of this directory).
#
# SUPERD_CROSS_DIR      in place of target/cross; may be shared by several checkouts
# SUPERD_CROSS_STD=own  does not look for rustup's library
# SUPERD_MOST_BYTES, SUPERD_MOST_RSS_KB    other gates than those below
set -euo pipefail

# The gates, in one place: what a build may have, and what we aim at. The resident memory is measured
# by tests/vm/run, in a virtual router with a few services.
GATE_FILE_BYTES=${SUPERD_MOST_BYTES:-1310000}
AIM_FILE_BYTES=600000
GATE_RSS_KB=${SUPERD_MOST_RSS_KB:-800}
AIM_RSS_KB=600

root=$(cd "$(dirname "$0")/.." && pwd)
target=aarch64-unknown-linux-musl
out=
self=$(basename "$0")

fail() {
    echo "$self: $*" >&2
    exit 1
}

usage() {
    sed -n '2,/^set /{/^set /d;s/^# \{0,1\}//;p;}' "$0" >&2
    exit 2
}

# ---- what differs between targets ----

# Debian's name of the architecture, its directory of musl, the emulator, further flags of the linker.
choose_target() {
    case $target in
    aarch64-unknown-linux-musl)
        arch=arm64 musl=aarch64-linux-musl qemu=qemu-aarch64-static more=() ;;
    armv7-unknown-linux-musleabihf)
        arch=armhf musl=arm-linux-musleabihf qemu=qemu-arm-static
        more=(-C link-arg=--defsym=_Unwind_VRS_Get=getppid) ;;
    x86_64-unknown-linux-musl)
        arch=amd64 musl=x86_64-linux-musl qemu='' more=() ;;
    *) fail "$target: no such target: see the head of $0" ;;
    esac
    local program
    for program in rustc cargo; do
        command -v "$program" >/dev/null || fail "$program: not in PATH: install Rust (https://rustup.rs)"
    done
    place=${SUPERD_CROSS_DIR:-$root/target/cross}
    mkdir -p "$place"
    place=$(cd "$place" && pwd)
    out=${out:-$root/target/router/$target}
    host=$(rustc -vV | sed -n 's/^host: //p')
    sysroot=$(rustc --print sysroot)
}

# Whether rustup has the library of this target.
rustup_has_it() {
    [ "${SUPERD_CROSS_STD:-}" != own ] && [ -d "$sysroot/lib/rustlib/$target/lib" ]
}

# ---- fetch ----

apt_options() {
    options=(-o APT::Architecture=amd64 -o APT::Architectures::=amd64
        -o Dir::State::Lists="$place/apt/lists" -o Dir::Cache="$place/apt/cache"
        -o Dir::State::status=/dev/null -o APT::Sandbox::User= -o Debug::NoLocking=1
        -o Acquire::Languages=none -o Acquire::Retries=3)
    local each
    for each in "$@"; do
        [ "$each" = amd64 ] || options+=(-o "APT::Architectures::=$each")
    done
    mkdir -p "$place/apt/lists/partial" "$place/apt/cache/archives/partial" "$place/debs" "$place/root"
}

# What a package depends on, by a pattern of its name.
depends() {
    apt-cache "${options[@]}" depends "$1" | sed -n "s/^ *Depends: \($2\)\$/\1/p" | head -n 1
}

unpack() {
    rm -rf "$place/fresh" && mkdir "$place/fresh"
    (cd "$place/fresh" && apt-get "${options[@]}" -qq download "$@") || fail "apt-get download: see above"
    local deb
    for deb in "$place/fresh"/*.deb; do
        dpkg -x "$deb" "$place/root"
    done
    rm -rf "$place/fresh"
}

step_fetch() {
    if rustup_has_it; then
        echo "$self: $target: rustup has its library: nothing to fetch"
        return
    fi
    [ "$(uname -m)" = x86_64 ] || fail "fetch knows an x86_64 machine only; \`rustup target add $target\` does without it"
    if [ -x "$place/rustc" ] && [ -e "$place/sys/$target/libc.a" ]; then
        echo "$self: $target: fetched already ($("$place/rustc" --version))"
        return
    fi
    command -v apt-get >/dev/null || fail "fetch needs apt-get; \`rustup target add $target\` does without it"
    apt_options "$arch"
    # An index may be in the middle of an update on its server.
    apt-get "${options[@]}" -qq update || { sleep 20; apt-get "${options[@]}" -qq update; } ||
        echo "$self: apt-get update: see above; going on with the lists that are there" >&2
    [ -x "$place/rustc" ] || fetch_compiler
    fetch_musl
    "$place/rustc" --version
}

# Unpacked and not installed: no root, no package database, and no quarrel with rustup's package.
fetch_compiler() {
    local library llvm
    library=$(depends libstd-rust-web-dev 'libstd-rust-web-[0-9.]*')
    [ -n "$library" ] || fail 'rustc-web: not among the packages of apt'
    llvm=$(depends "$library" 'libllvm[0-9]*')
    [ -n "$llvm" ] || fail "$library: depends on no libllvm"
    unpack rustc-web "$library" libstd-rust-web-dev "$llvm" rust-web-src
    # What the compiler was linked with, where this machine has not got it.
    if libraries_missing; then
        local more
        more=$(apt-cache "${options[@]}" depends --recurse --no-recommends --no-suggests --no-conflicts \
            --no-breaks --no-replaces --no-enhances "$llvm" |
            grep -E '^lib' | grep -vE ':|^(libc6|libgcc-s1|libcrypt1|libstdc\+\+6)$|^libllvm' | sort -u)
        # shellcheck disable=SC2086 # words
        unpack $more
        ! libraries_missing || fail "the compiler misses libraries"
    fi
    local lld=$sysroot/lib/rustlib/$host/bin/rust-lld
    [ -x "$lld" ] || lld=$(command -v ld.lld) || fail "no rust-lld in $sysroot, and no ld.lld"
    mkdir -p "$place/bin"
    ln -sf "$lld" "$place/bin/rust-lld"
    wrap_compiler
}

wrap_compiler() {
    # What names a folder of this machine stands here and not in RUSTFLAGS: cargo makes names of
    # symbols from those, and the bytes of the program would depend on where it was built.
    cat >"$place/rustc.fresh" <<'END'
#!/bin/sh
place=$(dirname "$(readlink -f "$0")")
export LD_LIBRARY_PATH=$place/root/usr/lib/x86_64-linux-gnu
for arg in "$@"; do
    case $arg in
    *-linux-musl*)
        [ ! -d "$place/sys/$arg" ] ||
            set -- "$@" -L native="$place/sys/$arg" -C linker="${SUPERD_LINKER:-$place/bin/rust-lld}" \
                --remap-path-prefix="$place/root/usr/src"=/rust --remap-path-prefix="$place/root/usr"=/rust
            # Cargo names sources below its own folder relative to that.
            [ "$place" = "${place#"$PWD"/}" ] ||
                set -- "$@" --remap-path-prefix="${place#"$PWD"/}/root/usr"=/rust ;;
    esac
done
exec "$place/root/usr/bin/rustc" "$@"
END
    chmod +x "$place/rustc.fresh"
    mv "$place/rustc.fresh" "$place/rustc"
}

libraries_missing() {
    LD_LIBRARY_PATH=$place/root/usr/lib/x86_64-linux-gnu ldd "$place/root/usr/bin/rustc" |
        grep 'not found'
}

# musl's five files. The others that rustc asks for belong to C and to unwinding: there is none.
fetch_musl() {
    unpack "musl-dev:$arch"
    local sys=$place/sys/$target file
    mkdir -p "$sys"
    for file in crt1.o rcrt1.o crti.o crtn.o libc.a; do
        cp "$place/root/usr/lib/$musl/$file" "$sys/"
    done
    for file in crtbegin.o crtend.o crtbeginS.o crtendS.o libunwind.a; do
        printf '!<arch>\n' >"$sys/$file"
    done
}

# ---- build ----

# cargo for the target, with the flags of the program; from the folder $1.
cargo_for_target() {
    local from=$1
    shift
    local flags=("--remap-path-prefix=$from=/superd"
        "--remap-path-prefix=${CARGO_HOME:-$HOME/.cargo}=/cargo"
        -C force-unwind-tables=no -C linker-flavor=ld.lld -C link-arg=--icf=all
        -C symbol-mangling-version=v0
        # What repeats is made a function; of what is left then, something repeats again.
        -C llvm-args=-machine-outliner-reruns=3)
    local unstable=()
    if rustup_has_it; then
        [ -n "${SUPERD_LINKER:-}" ] || flags+=(-C linker=rust-lld)
    else
        [ -x "$place/rustc" ] || fail "$target: nothing fetched: run \`$0 --target $target fetch\`, or \`rustup target add $target\`"
        grep -q SUPERD_LINKER "$place/rustc" || wrap_compiler # an older one
        export RUSTC=$place/rustc RUSTC_BOOTSTRAP=1 PATH=$place/bin:$PATH
        # std refers to two functions of an unwinder, for backtraces that it does not print.
        flags+=(-C link-arg=--defsym=_Unwind_Backtrace=getppid
            -C link-arg=--defsym=_Unwind_GetIP=getppid "${more[@]}")
        unstable=(-Zbuild-std="std,panic_abort${STD_TOO:+,$STD_TOO}" -Zbuild-std-features=optimize_for_size)
    fi
    # Separated by a character that no path has.
    CARGO_ENCODED_RUSTFLAGS=$(IFS=$'\x1f' && echo "${flags[*]}${MORE_FLAGS:+$'\x1f'$MORE_FLAGS}")
    export CARGO_ENCODED_RUSTFLAGS
    (cd "$from" && cargo "$@" --target "$target" "${unstable[@]}")
}

# Builds the sources in $1 below the folder $2.
build_in() {
    # For cargo by cargo's name, for the compiler that `fetch` unpacked by ours.
    local name
    name=CARGO_TARGET_$(tr a-z- A-Z_ <<<"$target")_LINKER
    local -x "$name=$1/packaging/link.sh" SUPERD_LINKER="$1/packaging/link.sh"
    # cargo does not know what else is linked by.
    find "$2/$target/release" -name 'superd*' ! -newer "$1/packaging/hot.txt" -delete 2>/dev/null || true
    CARGO_TARGET_DIR=$2 cargo_for_target "$1" build --release --locked --bin superd
}

step_build() {
    local built=${CARGO_TARGET_DIR:-$root/target}/cross-build
    build_in "$root" "$built"
    mkdir -p "$out"
    cp "$built/$target/release/superd" "$out/.superd.fresh"
    mv "$out/.superd.fresh" "$out/superd"
    ln -sf superd "$out/superctl"
    stat -c '%s bytes  %n' "$out/superd"
}

# ---- smoke ----

# Runs a program of the target here.
emulated() {
    if [ -z "$qemu" ]; then
        "$@"
    else
        command -v "$qemu" >/dev/null || fail "$qemu: not installed (qemu-user-static)"
        "$qemu" "$@"
    fi
}

step_smoke-user() {
    [ -x "$out/superd" ] || fail "$out/superd: not built"
    emulated "$out/superd" --version
    local config
    config=$(mktemp -d)
    # shellcheck disable=SC2064 # the name is wanted as it is now
    trap "rm -rf '$config'" RETURN
    printf '[service.a]\ncommand = ["/bin/sleep", "9"]\n' >"$config/superd.toml"
    chmod 644 "$config/superd.toml"
    emulated "$out/superd" check --config "$config/superd.toml"
    emulated "$out/superd" plan --config "$config/superd.toml"
    printf '[service.a]\ncomand = "x"\n' >"$config/superd.toml"
    ! emulated "$out/superd" check --config "$config/superd.toml" 2>"$config/said" ||
        fail 'a wrong configuration was passed'
    grep -q 'unknown key' "$config/said" || fail "check said: $(cat "$config/said")"
    echo "$self: smoke-user: ok"
}

step_smoke-vm() {
    [ "$target" = aarch64-unknown-linux-musl ] || fail 'smoke-vm: aarch64 only'
    "$root/tests/vm/run" smoke
}

# ---- size ----

# Two more builds, at once: each spends most of its time in one thread of the linker.
step_size() {
    [ -x "$out/superd" ] || fail "$out/superd: not built"
    local bytes elsewhere names failed=
    bytes=$(stat -c %s "$out/superd")
    echo "$target: $bytes bytes; gate $GATE_FILE_BYTES, aim $AIM_FILE_BYTES; $(gzip -9c "$out/superd" | wc -c) as gzip -9"
    same_bytes_elsewhere &
    elsewhere=$!
    what_crates_cost &
    names=$!
    wait "$names" || failed=yes
    wait "$elsewhere" || failed=yes
    [ -z "$failed" ] || fail 'size: see above'
    [ "$bytes" -le "$GATE_FILE_BYTES" ] || fail "$bytes bytes: more than $GATE_FILE_BYTES"
}

what_crates_cost() {
    "$root/packaging/crate-sizes.py" "$(step_names)"
}

# Builds once more, from a copy of the sources and into another folder; the bytes must not know.
same_bytes_elsewhere() {
    local other
    other=$(mktemp -d)
    # shellcheck disable=SC2064 # the name is wanted as it is now
    trap "rm -rf '$other'" EXIT
    mkdir "$other/sources"
    tar -C "$root" --exclude=./target --exclude=./.git -cf - . | tar -C "$other/sources" -xf -
    build_in "$other/sources" "$other/built"
    cmp "$other/built/$target/release/superd" "$out/superd" ||
        fail 'another folder gives another file'
    echo "$self: the same bytes from other folders: $(sha256sum "$out/superd" | cut -c 1-16)"
}

# ---- start ----

step_start() {
    [ -x "$out/superd" ] || fail "$out/superd: not built"
    [ -z "$qemu" ] || fail 'start: what is emulated has no times'
    "$root/packaging/start.py" "$out/superd"
}

# ---- for other scripts ----

# The program with its names: where it is.
step_names() {
    local built=${CARGO_TARGET_DIR:-$root/target}/cross-build/names
    SUPERD_NAMES=yes build_in "$root" "$built"
    echo "$built/$target/release/superd"
}

# The gates as shell variables.
step_gates() {
    echo "GATE_FILE_BYTES=$GATE_FILE_BYTES AIM_FILE_BYTES=$AIM_FILE_BYTES GATE_RSS_KB=$GATE_RSS_KB AIM_RSS_KB=$AIM_RSS_KB"
}

# The end-to-end tests, the programs they run and the twins, for tests/vm; quick to build, not small.
step_tests() {
    local built=${CARGO_TARGET_DIR:-$root/target}/cross-build
    export CARGO_TARGET_DIR=$built
    export CARGO_PROFILE_DEV_DEBUG=false CARGO_PROFILE_DEV_STRIP=true \
        CARGO_INCREMENTAL=0
    mkdir -p "$out/tests"
    # Without an unwinder a panic ends the program: each test is a program of its own then.
    STD_TOO=test MORE_FLAGS=$'-C\x1fpanic=abort\x1f-Zpanic_abort_tests' \
        cargo_for_target "$root" test --locked --test e2e --no-run -Zpanic-abort-tests \
        --message-format=json-render-diagnostics >"$out/tests/built.json"
    STD_TOO=test MORE_FLAGS=$'-C\x1fpanic=abort\x1f-Zpanic_abort_tests' \
        cargo_for_target "$root" build --locked --example twin
    cp "$(python3 - "$out/tests/built.json" <<'PY'
import json, sys
for line in open(sys.argv[1], encoding="utf-8"):
    built = json.loads(line)
    if built.get("executable") and built["profile"]["test"]:
        print(built["executable"])
PY
    )" "$out/tests/e2e"
    cp "$built/$target/debug/examples/twin" "$out/tests/twin"
    rm "$out/tests/built.json"
    # Where they look for the programs: where cargo put them.
    echo "$built/$target/debug" >"$out/tests/bins"
    ls -l "$out/tests"
}

# ---- all of them ----

steps=()
while [ $# -gt 0 ]; do
    case $1 in
    --target | --out)
        [ $# -ge 2 ] || usage
        if [ "$1" = --target ]; then target=$2; else out=$2; fi
        shift ;;
    fetch | build | smoke-user | smoke-vm | size | start | names | tests | gates) steps+=("$1") ;;
    *) usage ;;
    esac
    shift
done
[ ${#steps[@]} -gt 0 ] || usage
choose_target
for step in "${steps[@]}"; do
    "step_$step"
done
