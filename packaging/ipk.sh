#!/bin/sh
# Builds an .ipk of superd for opkg (OpenWrt up to 24.10) from a binary, without an SDK:
#
#	packaging/ipk.sh --binary FILE --arch ARCH [--version VERSION] [--output DIRECTORY]
#
# ARCH is the router's, as `opkg print-architecture` says: aarch64_cortex-a53 and so on; FILE must be for such a
# machine, and static or linked with musl (SUPERD_ANY_LIBC=1 takes another C library). The files
# are those that openwrt/Makefile installs. Two runs make the same file byte for byte.
set -eu

root=$(cd "$(dirname "$0")/.." && pwd)
binary='' arch='' version='' output=. machine='' loader='' why=''

fail() {
	echo "ipk.sh: $*" >&2
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
[ -n "$arch" ] || fail 'say --arch ARCH: what opkg print-architecture says on the router'
[ -n "$version" ] || version=$(sed -n 's/^version = "\(.*\)"/\1/p' "$root/Cargo.toml" | head -n 1)-r1
case "$version" in
[0-9]*) ;;
*) fail "--version $version: begins with a digit" ;;
esac
case "$arch$version" in
*[!A-Za-z0-9._~+-]*) fail "$arch $version: letters, digits and ._~+- only" ;;
esac
# shellcheck source=packaging/elf.sh
. "$root/packaging/elf.sh"
elf "$binary" || fail "$why"
# OpenWrt's names: what stands before the first underline.
case "${arch%%_*}.$machine" in
aarch64.aarch64 | arm.arm | arm.armhf | i386.i386 | mips.mips | mipsel.mipsel | mips64.mips64 | mips64el.mips64el) ;;
riscv64.riscv64 | loongarch64.loongarch64 | powerpc.powerpc | powerpc64.powerpc64) ;;
x86.x86_64) [ "$arch" = x86_64 ] || fail "$binary is for $machine, not for $arch" ;;
*) fail "$binary is for $machine, not for $arch" ;;
esac
case "$loader" in
'' | */ld-musl-*) ;;
*) [ "${SUPERD_ANY_LIBC:-0}" = 1 ] || fail "$binary asks for $loader, which OpenWrt has not: link it static, or with musl" ;;
esac

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
data=$work/data control=$work/control
umask 022
mkdir "$data" "$control"

# put MODE FROM TO
put() {
	mkdir -p "$(dirname "$data/$3")"
	cp "$2" "$data/$3"
	chmod "$1" "$data/$3"
}

files=$root/packaging/openwrt/files
put 755 "$binary" usr/sbin/superd
ln -s superd "$data/usr/sbin/superctl"
put 755 "$root/init.d/superd" etc/init.d/superd
for script in superd-service superd-service.procd wrapped; do
	put 755 "$root/init.d/$script" "usr/share/superd/init.d/$script"
done
put 644 "$root/etc/superd.toml" etc/superd/superd.toml
put 644 "$root/etc/known-faults.toml" etc/superd/known-faults.toml
mkdir "$data/etc/superd/services.d"
for service in "$root"/etc/services.d/*.toml; do
	put 644 "$service" "usr/share/superd/services.d/$(basename "$service")"
done
put 755 "$files/superd.rpcd" usr/libexec/rpcd/superd
put 644 "$files/superd.acl.json" usr/share/rpcd/acl.d/superd.json
put 644 "$files/superd.keep" lib/upgrade/keep.d/superd
put 755 "$files/superd.uci-defaults" etc/uci-defaults/90-superd

size=$(du -sk "$data" | cut -f 1)
cat >"$control/control" <<END
Package: superd
Version: $version
Depends: libc
License: MIT
Section: admin
Architecture: $arch
Installed-Size: $((size * 1024))
Description: Process supervisor that stops servers safely
END
cat >"$control/conffiles" <<'END'
/etc/superd/superd.toml
/etc/superd/known-faults.toml
END
# What OpenWrt's own build writes, in substance: enable and start, or stop and disable, the
# init scripts of the package. In an image that is being built, functions.sh only enables.
cat >"$control/postinst" <<'END'
#!/bin/sh
[ "${IPKG_NO_SCRIPT:-0}" != 1 ] || exit 0
[ -s "${IPKG_INSTROOT:-}/lib/functions.sh" ] || exit 0
. "${IPKG_INSTROOT:-}/lib/functions.sh"
default_postinst "$0" "$@"
END
cat >"$control/prerm" <<'END'
#!/bin/sh
[ -s "${IPKG_INSTROOT:-}/lib/functions.sh" ] || exit 0
. "${IPKG_INSTROOT:-}/lib/functions.sh"
default_prerm "$0" "$@"
END
chmod 755 "$control/postinst" "$control/prerm"

# archive TO DIRECTORY NAME...
archive() {
	to=$1 from=$2
	shift 2
	tar --format=gnu --owner=0 --group=0 --numeric-owner --sort=name --mtime=@0 -C "$from" -cf - "$@" |
		gzip -n -9 >"$to"
}

archive "$work/data.tar.gz" "$data" .
archive "$work/control.tar.gz" "$control" .
printf '2.0\n' >"$work/debian-binary"
mkdir -p "$output"
archive "$output/superd_${version}_$arch.ipk" "$work" ./debian-binary ./data.tar.gz ./control.tar.gz
echo "$output/superd_${version}_$arch.ipk"
