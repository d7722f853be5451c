#!/bin/sh
# Builds a .deb of superd from a binary, without debhelper:
#
#	packaging/debian/build.sh --binary FILE [--arch ARCH] [--version VERSION] [--output DIRECTORY]
#
# ARCH is Debian's (arm64, amd64), and else what FILE is for; FILE is static or linked with the GNU C library,
# whose version becomes a dependency. Needs dpkg-deb. DEBFULLNAME and DEBEMAIL name who builds it. Two runs make the same file byte for byte. lintian
# accepts it; what is overridden, and why, is in lintian-overrides.
set -eu

root=$(cd "$(dirname "$0")/../.." && pwd)
here=$root/packaging/debian
binary='' arch='' version='' output=. machine='' loader='' why=''

fail() {
	echo "build.sh: $*" >&2
	exit 1
}

usage() {
	sed -n '2,/^set /{/^set /d;s/^# \{0,1\}//;p;}' "$0"
}

while [ $# -gt 0 ]; do
	case "$1" in
	-h | --help)
		usage
		exit
		;;
	esac
	[ $# -ge 2 ] || fail "$1: what?"
	case "$1" in
	--binary) binary=$2 ;;
	--arch) arch=$2 ;;
	--version) version=$2 ;;
	--output) output=$2 ;;
	*) fail "$1: unknown; say --binary, --arch, --version or --output" ;;
	esac
	shift 2
done
[ -n "$binary" ] || fail 'say --binary FILE'
[ -f "$binary" ] || fail "$binary: no such file"
# shellcheck source=packaging/elf.sh
. "$root/packaging/elf.sh"
elf "$binary" || fail "$why"
case "$machine" in
aarch64) may_be=arm64 ;;
arm) may_be='armel armhf' ;; # a static one may not say how it passes floats
armhf | i386 | mipsel | mips64el | riscv64 | s390x) may_be=$machine ;;
x86_64) may_be=amd64 ;;
powerpc64le) may_be=ppc64el ;;
loongarch64) may_be=loong64 ;;
*) fail "$binary is for $machine, which Debian has not" ;;
esac
if [ -z "$arch" ]; then
	[ "$may_be" = "${may_be% *}" ] || fail "say --arch: $binary is for one of $may_be"
	arch=$may_be
fi
case " $may_be " in
*" $arch "*) ;;
*) fail "$binary is for $may_be, not for $arch" ;;
esac
# A static one needs nothing.
depends=
case "$loader" in
'') ;;
*/ld-linux* | */ld.so.1 | */ld64.so.*)
	glibc=$(grep -ao 'GLIBC_2\.[0-9.]*' "$binary" | sort -Vu | tail -n 1)
	[ -n "$glibc" ] || fail "$binary: no version of the GNU C library in it"
	depends="Depends: libc6 (>= ${glibc#GLIBC_})"
	if grep -aq 'libgcc_s\.so\.1' "$binary"; then
		depends="$depends, libgcc-s1"
	fi
	;;
*) fail "$binary asks for $loader, which Debian has not: link it static, or with the GNU C library" ;;
esac
[ -n "$version" ] || version=$(sed -n 's/^version = "\(.*\)"/\1/p' "$root/Cargo.toml" | head -n 1)-1
case "$version" in
[0-9]*) ;;
*) fail "--version $version: begins with a digit" ;;
esac
case "$version" in
*[!A-Za-z0-9.+~-]*) fail "--version $version: letters, digits and .+~- only" ;;
esac

maintainer="${DEBFULLNAME:-The superd authors} <${DEBEMAIL:-superd@localhost.localdomain}>"
case "$maintainer" in
*'
'*) fail 'DEBFULLNAME and DEBEMAIL: one line each' ;;
esac
# As what takes its place in sed's `s/.../.../`.
maintainer=$(printf '%s\n' "$maintainer" | sed 's/[\\/&]/\\&/g')

# Of the last change, so that the same source makes the same file.
SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-$(git -C "$root" log -1 --format=%ct 2>/dev/null || echo 0)}
export SOURCE_DATE_EPOCH

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
tree=$work/superd
umask 022
mkdir -p "$tree/DEBIAN"

# put MODE FROM TO
put() {
	mkdir -p "$(dirname "$tree/$3")"
	cp "$2" "$tree/$3"
	chmod "$1" "$tree/$3"
}

# packed FROM TO
packed() {
	mkdir -p "$(dirname "$tree/$2")"
	gzip -n -9 <"$1" >"$tree/$2.gz"
	chmod 644 "$tree/$2.gz"
}

put 755 "$binary" usr/sbin/superd
ln -s superd "$tree/usr/sbin/superctl"
put 755 "$root/init.d/superd.lsb" etc/init.d/superd
put 644 "$root/packaging/systemd/superd.service" lib/systemd/system/superd.service
put 644 "$root/etc/superd.toml" etc/superd/superd.toml
put 644 "$root/etc/known-faults.toml" etc/superd/known-faults.toml
mkdir "$tree/etc/superd/services.d"
for page in superd.8 superctl.1 superd.toml.5; do
	packed "$root/packaging/man/$page" "usr/share/man/man${page##*.}/$page"
done
for service in "$root"/etc/services.d/*.toml; do
	put 644 "$service" "usr/share/doc/superd/examples/services.d/$(basename "$service")"
done
put 644 "$root/etc/superd.schema.json" usr/share/superd/superd.schema.json
completions=$root/packaging/completions
for program in superd superctl; do
	put 644 "$completions/$program.bash" "usr/share/bash-completion/completions/$program"
	put 644 "$completions/_$program" "usr/share/zsh/vendor-completions/_$program"
	put 644 "$completions/$program.fish" "usr/share/fish/vendor_completions.d/$program.fish"
done
put 644 "$here/copyright" usr/share/doc/superd/copyright
date=$(date -u -R -d "@$SOURCE_DATE_EPOCH")
sed "s/@VERSION@/$version/; s/@DATE@/$date/; s/@MAINTAINER@/$maintainer/" "$here/changelog" >"$work/changelog"
packed "$work/changelog" usr/share/doc/superd/changelog.Debian
packed "$root/CHANGELOG.md" usr/share/doc/superd/changelog
put 644 "$here/lintian-overrides" usr/share/lintian/overrides/superd

for script in postinst prerm postrm; do
	put 755 "$here/$script" "DEBIAN/$script"
done
(cd "$tree" && find etc -type f -printf '/%p\n' | sort) >"$tree/DEBIAN/conffiles"
(cd "$tree" && find . -path ./DEBIAN -prune -o -type f -printf '%P\0' | sort -z |
	grep -zv '^etc/' | xargs -0 md5sum) >"$tree/DEBIAN/md5sums"
size=$(du -sk --exclude=DEBIAN "$tree" | cut -f 1)
sed "s/@VERSION@/$version/; s/@ARCH@/$arch/; s/@SIZE@/$size/; s/@MAINTAINER@/$maintainer/; s/^@DEPENDS@/$depends/; /^\$/d" "$here/control.in" >"$tree/DEBIAN/control"

mkdir -p "$output"
file=$output/superd_${version}_$arch.deb
dpkg-deb --root-owner-group -Zxz --build "$tree" "$file" >/dev/null
echo "$file"
