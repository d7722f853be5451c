#!/bin/sh
# Builds the real faulty servers, each once, at its pinned version and unmodified.
#
#   build.sh [NAME...]     default: all; one NAME is one directory under go/, or nginx, which is
#                          taken out of Debian's package and not installed
#
# Output: $SUPERD_SERVERS_DIR, else target/servers of the repository.
# Status: 0 built or already there; 77 skipped, no `go` on this machine; 1 build failed; 2 usage.
set -eu

here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)
out=${SUPERD_SERVERS_DIR:-$here/../../target/servers}
[ $# -gt 0 ] || set -- caddy nats quic hupproof stuck nginx

# local: the Go that is installed, never a download of another one.
# CGO off: no C compiler needed, and the same binary on every machine.
export GOFLAGS='-trimpath -mod=readonly -buildvcs=false' GOTOOLCHAIN=local GOWORK=off CGO_ENABLED=0

# Everything that decides what the binary is, apart from the Go version: a newer Go alone is no
# reason to build for minutes again. This script counts as well, since it holds the flags.
checksum() {
    (cd "$here/go/$1" && cat ./*.go go.* "$here/build.sh" | cksum)
}

build() {
    name=$1
    case $name in
    */* | .*) echo "build.sh: $name: no such server" >&2; exit 2 ;;
    esac
    [ -f "$here/go/$name/go.mod" ] || { echo "build.sh: $name: no such server" >&2; exit 2; }

    inputs=$(checksum "$name")
    if [ -x "$out/$name" ] && [ "$(cat "$out/$name.stamp" 2>/dev/null)" = "$inputs" ]; then
        return
    fi
    command -v go >/dev/null || { echo "build.sh: $name: skipped: no go on this machine" >&2; exit 77; }

    # Renamed only when whole: a build that is broken off, or two at once, must not leave half a binary.
    fresh=$out/.$name.$$
    if (cd "$here/go/$name" && go build -ldflags='-s -w' -o "$fresh" .) >"$out/$name.log" 2>&1; then
        mv "$fresh" "$out/$name"
        printf '%s\n' "$inputs" >"$out/$name.stamp"
        rm -f "$out/$name.log"
        echo "build.sh: $name: built"
    else
        rm -f "$fresh"
        echo "build.sh: $name: build failed: $(tail -n 1 "$out/$name.log") (all of it: $out/$name.log)" >&2
        exit 1
    fi
}

nginx() {
    [ ! -x "$out/nginx" ] || return 0
    if ! command -v apt-get >/dev/null || ! command -v dpkg-deb >/dev/null; then
        echo "build.sh: nginx: skipped: no apt-get on this machine" >&2
        exit 77
    fi
    fresh=$out/.nginx.$$
    mkdir "$fresh"
    if (cd "$fresh" && apt-get -qq download nginx && dpkg-deb -x nginx_*.deb .) >"$out/nginx.log" 2>&1; then
        mv "$fresh/usr/sbin/nginx" "$out/nginx"
        rm -rf "$fresh" "$out/nginx.log"
        echo "build.sh: nginx: there"
    else
        rm -rf "$fresh"
        echo "build.sh: nginx: no package (apt-get update?): $out/nginx.log" >&2
        exit 1
    fi
}

mkdir -p "$out"
for server in "$@"; do
    case $server in
    nginx) nginx ;;
    *) build "$server" ;;
    esac
done
