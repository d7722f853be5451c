#!/bin/sh
# Builds a .deb of superd from a binary, without debhelper:
#
#	packaging/debian/build.sh --binary FILE [--arch ARCH] [--version VERSION] [--output DIRECTORY]
#
# Needs dpkg-deb. DEBFULLNAME and DEBEMAIL name who builds it. Two runs make the same file byte for byte. lintian accepts it; what is
# overridden, and why, is in lintian-overrides.
set -eu

root=$(cd "$(dirname "$0")/../.." && pwd)
here=$root/packaging/debian
binary='' arch='' version='' output=.

fail() {
	echo "build.sh: $*" >&2
	exit 1
}

while [ $# -gt 0 ]; do
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
[ -n "$arch" ] || arch=$(dpkg --print-architecture)
[ -n "$version" ] || version=$(sed -n 's/^version = "\(.*\)"/\1/p' "$root/Cargo.toml" | head -n 1)-1

maintainer="${DEBFULLNAME:-The superd authors} <${DEBEMAIL:-superd@localhost.localdomain}>"

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
# completion FILE TO
completion() {
	[ ! -f "$root/packaging/completions/$1" ] || put 644 "$root/packaging/completions/$1" "$2"
}
for program in superd superctl; do
	completion "$program.bash" "usr/share/bash-completion/completions/$program"
	completion "_$program" "usr/share/zsh/vendor-completions/_$program"
	completion "$program.fish" "usr/share/fish/vendor_completions.d/$program.fish"
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
# A static one needs nothing.
depends=
if grep -aq 'ld-linux' "$tree/usr/sbin/superd"; then
	depends='Depends: libc6, libgcc-s1'
fi
sed "s/@VERSION@/$version/; s/@ARCH@/$arch/; s/@SIZE@/$size/; s/@MAINTAINER@/$maintainer/; s/^@DEPENDS@/$depends/; /^\$/d" "$here/control.in" >"$tree/DEBIAN/control"

mkdir -p "$output"
file=$output/superd_${version}_$arch.deb
dpkg-deb --root-owner-group -Zxz --build "$tree" "$file" >/dev/null
echo "$file"
