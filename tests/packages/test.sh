#!/usr/bin/env bash
# Installs, upgrades and removes the packages in throw-away roots, with a superd that runs in them:
#
#	tests/packages/test.sh BINARY
#
# Services must keep running over an upgrade, and nothing may be left after a removal. Needs
# root, busybox, make, dpkg, unshare. Everything that it starts lives in a pid namespace of its
# own and ends with it.
set -euo pipefail

root=$(cd "$(dirname "$0")/../.." && pwd)
binary=$(realpath "${1:?say which binary}")
here=$root/tests/packages

fail() {
	echo "FAILED: $*" >&2
	exit 1
}

# Once more, in namespaces: mounts and processes end with them.
if [ "${2:-}" != inside ]; then
	work=$(mktemp -d)
	trap 'rm -rf "$work"' EXIT
	unshare --mount --pid --fork --kill-child --mount-proc --propagation private bash "$0" "$binary" inside "$work"
	exit
fi
work=$3
router=$work/router debian=$work/debian

# ---- the feed's Makefile and ipk.sh must install the same ----

mkdir -p "$work/built/bin"
cp "$binary" "$work/built/bin/superd"
make -s -C "$root/packaging/openwrt" -f Makefile stage TOPDIR="$here/sdk" \
	PKG_INSTALL_DIR="$work/built" DEST="$work/feed"
# What is tested here need not be built for a router.
export SUPERD_ANY_LIBC=1
case $(uname -m) in
aarch64) arch=aarch64_generic other=x86_64 ;;
*) arch=$(uname -m) other=aarch64_generic ;;
esac
"$root/packaging/ipk.sh" --binary "$binary" --arch "$arch" --version 1-r1 --output "$work" >/dev/null
"$root/packaging/ipk.sh" --binary "$binary" --arch "$arch" --version 1-r1 --output "$work/again" >/dev/null
ipk=superd_1-r1_$arch.ipk
cmp "$work/$ipk" "$work/again/$ipk" || fail 'an .ipk is not reproducible'

# refused SCRIPT WORDS ARGUMENT...: it must fail, and say that.
refused() {
	local script=$root/packaging/$1 words=$2 said
	shift 2
	! said=$("$script" --output "$work/refused" "$@" 2>&1) || fail "not refused: $script $*"
	[[ $said == *"$words"* ]] || fail "$script $*: $said"
}
refused ipk.sh 'not for' --binary "$binary" --arch "$other"
refused ipk.sh 'not for' --binary "$binary" --arch all
refused ipk.sh 'begins with a digit' --binary "$binary" --arch "$arch" --version r1
refused ipk.sh 'only' --binary "$binary" --arch "$arch" --version 1/2
refused ipk.sh 'not a program' --binary "$root/README.md" --arch "$arch"
refused debian/build.sh 'not for' --binary "$binary" --arch mipsel
refused debian/build.sh 'begins with a digit' --binary "$binary" --version v1
refused debian/build.sh 'only' --binary "$binary" --version '1 2'
refused debian/build.sh 'not a program' --binary "$root/README.md"
refused debian/build.sh 'what?' --binary
if readelf -l "$binary" 2>/dev/null | grep -q 'ld-linux'; then
	SUPERD_ANY_LIBC=0 refused ipk.sh 'OpenWrt has not' --binary "$binary" --arch "$arch"
fi
for script in ipk.sh debian/build.sh; do
	"$root/packaging/$script" --help | grep -q -- '--binary FILE' || fail "$script --help"
done
name='R & D \\1/2' # what sed makes something of
DEBFULLNAME=$name "$root/packaging/debian/build.sh" --binary "$binary" --version 3 --output "$work/named" >/dev/null
said=$(dpkg-deb --field "$work"/named/*.deb Maintainer)
[ "${said% <*}" = "$name" ] || fail "DEBFULLNAME: $said"
echo 'ok: what a package cannot be made of is refused'
mkdir -p "$work/ipk/data" "$work/ipk/control"
tar -C "$work/ipk" -xzf "$work/$ipk"
tar -C "$work/ipk/data" -xzf "$work/ipk/data.tar.gz"
tar -C "$work/ipk/control" -xzf "$work/ipk/control.tar.gz"
[ "$(cat "$work/ipk/debian-binary")" = 2.0 ] || fail 'debian-binary'
list() {
	(cd "$1" && find . -mindepth 1 -printf '%P %y %m %l\n' | sort)
}
diff <(list "$work/feed") <(list "$work/ipk/data") || fail 'Makefile and ipk.sh install different files'
diff -r "$work/feed" "$work/ipk/data" || fail 'Makefile and ipk.sh install different files'
diff <(make -s -C "$root/packaging/openwrt" -f Makefile conffiles TOPDIR="$here/sdk" 2>/dev/null | grep .) \
	"$work/ipk/control/conffiles" || fail 'conffiles differ'
while read -r file; do
	[ -f "$work/ipk/data$file" ] || fail "conffiles: no $file"
done <"$work/ipk/control/conffiles"
echo 'ok: the feed and ipk.sh install the same files'

# ---- a root with busybox and what the binary needs ----

make_root() {
	local at=$1 file program
	mkdir -p "$at"/{bin,sbin,usr/bin,usr/sbin,etc,lib,proc,dev,tmp,var/run,run,root}
	chmod 755 "$at"
	for program in "$(command -v busybox)" "$(command -v flock)" "$binary"; do
		for file in $(ldd "$program" 2>/dev/null | grep -o '/[^ ]*' || true); do
			mkdir -p "$at$(dirname "$file")"
			cp -L "$file" "$at$file"
		done
	done
	cp "$(command -v busybox)" "$at/bin/busybox"
	for program in $(busybox --list | grep -vx busybox); do
		ln -sf /bin/busybox "$at/bin/$program"
	done
	rm -f "$at/bin/flock"
	cp "$(command -v flock)" "$at/bin/flock"
	mount -t proc proc "$at/proc"
	mount --bind /dev/null "$(touch "$at/dev/null" && echo "$at/dev/null")"
	printf 'root:x:0:0:root:/root:/bin/sh\n' >"$at/etc/passwd"
	printf 'root:x:0:\n' >"$at/etc/group"
}

within() {
	local at=$1
	shift
	env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin ${PKG_UPGRADE:+PKG_UPGRADE=$PKG_UPGRADE} chroot "$at" "$@"
}

pid_of() {
	within "$1" superctl --json status web | sed -n 's/.*"pid":\([0-9]*\).*/\1/p'
}

wait_up() {
	local tries
	for tries in $(seq 300); do
		[ -z "$(pid_of "$1" 2>/dev/null)" ] || return 0
		sleep 0.1
	done
	fail "the service is not up after $tries tries"
}

service() {
	printf '[service.web]\ncommand = ["/bin/sleep", "100000"]\n' >"$1/etc/superd/services.d/web.toml"
}

none_is_left() {
	local left
	# Not those that have ended: here the first process is a bash, which reaps when it comes to it.
	left=$(pgrep -x -l -r D,R,S,T 'sleep|superd' || true)
	[ -z "$left" ] || fail "$1: left: $left"
}

# ---- OpenWrt: our own unpacking, as opkg does it; a shell plays procd ----

make_root "$router"
# shellcheck source=tests/packages/openwrt.sh
. "$here/openwrt.sh"
openwrt_into "$router" /tmp/procd "$root"
within "$router" ash /tmp/procd/procd &

opkg_unpack() {
	tar -C "$router" --no-same-owner --keep-directory-symlink -xzf "$work/ipk/data.tar.gz" "$@"
	(cd "$work/ipk/data" && find . -type f -printf '/%P\n' -o -type l -printf '/%P\n') >"$router/usr/lib/opkg/info/superd.list"
	for script in postinst prerm; do
		cp "$work/ipk/control/$script" "$router/usr/lib/opkg/info/superd.$script"
	done
}

opkg_unpack
# The configuration that comes with it has no service: nothing is started by surprise.
within "$router" superd check
PKG_UPGRADE=0 within "$router" /usr/lib/opkg/info/superd.postinst configure
[ -L "$router/etc/rc.d/S90superd" ] || fail 'superd is not enabled'
[ ! -e "$router/etc/uci-defaults/90-superd" ] || fail 'uci-defaults has failed'
within "$router" superctl start x 2>/dev/null && fail 'there is no service x'
[ -z "$(within "$router" superctl --json status | grep '"status"' || true)" ] || fail 'a service by surprise'
service "$router"
within "$router" /etc/init.d/superd reload
wait_up "$router"
before=$(pid_of "$router")
list=$(within "$router" /usr/libexec/rpcd/superd list)
[ "${list#\{}" != "$list" ] || fail "rpcd: $list"
# opkg: the old prerm, the new files, the new postinst.
PKG_UPGRADE=1 within "$router" /usr/lib/opkg/info/superd.prerm upgrade 2-r1
rm "$router/usr/sbin/superd"
opkg_unpack --exclude ./etc/superd
said=$(PKG_UPGRADE=1 within "$router" /usr/lib/opkg/info/superd.postinst configure)
case $said in *'upgraded from'*) ;; *) fail "opkg: $said" ;; esac
[ "$(pid_of "$router")" = "$before" ] || fail 'opkg: the service did not run on'
# apk: the new files, then the new postinst, and nothing else.
rm "$router/usr/sbin/superd"
opkg_unpack --exclude ./etc/superd
said=$(PKG_UPGRADE=1 within "$router" /usr/lib/opkg/info/superd.postinst configure)
case $said in *'upgraded from'*) ;; *) fail "apk: $said" ;; esac
[ "$(pid_of "$router")" = "$before" ] || fail 'apk: the service did not run on'
PKG_UPGRADE=0 within "$router" /usr/lib/opkg/info/superd.prerm remove
none_is_left ipk
[ ! -e "$router/etc/rc.d/S90superd" ] || fail 'superd is still enabled'
echo 'ok: ipk: installed, upgraded as by opkg and by apk with its service running on, removed'

# ---- Debian ----

make_root "$debian"
mkdir -p "$debian"/var/lib/dpkg/{info,updates} "$debian/usr/share"
: >"$debian/var/lib/dpkg/status"
: >"$debian/var/lib/dpkg/available"
# What init-system-helpers would do; each call is kept.
for program in deb-systemd-helper update-rc.d; do
	printf '#!/bin/sh\necho "%s $*" >>/tmp/calls\n' "$program" >"$debian/usr/sbin/$program"
done
# shellcheck disable=SC2016 # for the other shell
printf '#!/bin/sh\necho "invoke-rc.d $*" >>/tmp/calls\nexec "/etc/init.d/$1" "$2"\n' >"$debian/usr/sbin/invoke-rc.d"
chmod +x "$debian"/usr/sbin/{deb-systemd-helper,update-rc.d,invoke-rc.d}
ln -sf /bin/busybox "$debian/bin/sh"
mkdir -p "$debian/etc/init.d"
# Small is not the point here.
export DPKG_DEB_COMPRESSOR_LEVEL=0
for version in 1 2; do
	"$root/packaging/debian/build.sh" --binary "$binary" --version "$version" --output "$work" >/dev/null
done
deb() {
	echo "$work/superd_$1_$(dpkg --print-architecture).deb"
}
in_root=(dpkg "--root=$debian" --force-depends --force-not-root)
"${in_root[@]}" --install "$(deb 1)" >"$work/dpkg.log" 2>&1 || { cat "$work/dpkg.log"; fail 'dpkg --install'; }
for file in bash-completion/completions/{superd,superctl} zsh/vendor-completions/_{superd,superctl} \
	fish/vendor_completions.d/{superd,superctl}.fish superd/superd.schema.json man/man1/superctl.1.gz \
	man/man8/superd.8.gz man/man5/superd.toml.5.gz; do
	[ -s "$debian/usr/share/$file" ] || fail "deb: no /usr/share/$file"
done
grep -q 'invoke-rc.d superd start' "$debian/tmp/calls" || fail 'superd is not started'
field() {
	dpkg-deb --field "$(deb 1)" "$1"
}
if [ -n "$(ldd "$binary" 2>/dev/null | grep -o 'libc\.so\.6' || true)" ]; then
	field Depends | grep -q 'libc6 (>= 2\.[0-9.]*)' || fail "deb: depends on: $(field Depends)"
fi
service "$debian"
within "$debian" superctl reload
wait_up "$debian"
before=$(pid_of "$debian")
superd=$(pgrep -x superd)
"${in_root[@]}" --install "$(deb 2)" >"$work/dpkg.log" 2>&1 || { cat "$work/dpkg.log"; fail 'dpkg: upgrade'; }
[ "$(pid_of "$debian")" = "$before" ] || fail 'deb: the service did not run on'
[ "$(pgrep -x superd)" = "$superd" ] || fail 'deb: superd is another process'
[ "$(readlink "/proc/$superd/exe")" = /usr/sbin/superd ] || [ "$(readlink "/proc/$superd/exe")" = "$debian/usr/sbin/superd" ] ||
	fail "deb: superd is still the old program: $(readlink "/proc/$superd/exe")"
! grep -q 'superd stop' "$debian/tmp/calls" || fail 'deb: stopped by an upgrade'
"${in_root[@]}" --remove superd >"$work/dpkg.log" 2>&1 || { cat "$work/dpkg.log"; fail 'dpkg --remove'; }
none_is_left deb
[ -f "$debian/etc/superd/superd.toml" ] || fail 'deb: a removal takes the configuration'
# The script stays until a purge.
for action in start stop restart reload; do
	said=$(within "$debian" /etc/init.d/superd "$action" 2>&1) || fail "deb: removed: $action: $?: $said"
	[ -z "$said" ] || fail "deb: removed: $action: $said"
done
rc=0
within "$debian" /etc/init.d/superd status >/dev/null || rc=$?
[ "$rc" -eq 3 ] || fail "deb: removed: status: $rc"
: >"$debian/tmp/calls"
"${in_root[@]}" --install "$(deb 2)" >"$work/dpkg.log" 2>&1 || { cat "$work/dpkg.log"; fail 'dpkg --install again'; }
grep -q 'invoke-rc.d superd start' "$debian/tmp/calls" || fail 'deb: removed and installed again: superd is not started'
wait_up "$debian"
# Stopped on purpose it stays so when it is upgraded.
within "$debian" /etc/init.d/superd stop >/dev/null
: >"$debian/tmp/calls"
"${in_root[@]}" --install "$(deb 1)" >"$work/dpkg.log" 2>&1 || { cat "$work/dpkg.log"; fail 'dpkg: upgrade of a stopped one'; }
! grep -q 'superd start' "$debian/tmp/calls" || fail 'deb: an upgrade starts what was stopped'
"${in_root[@]}" --remove superd >"$work/dpkg.log" 2>&1 || { cat "$work/dpkg.log"; fail 'dpkg --remove again'; }
none_is_left deb
rm "$debian/etc/superd/services.d/web.toml"
"${in_root[@]}" --purge superd >"$work/dpkg.log" 2>&1 || { cat "$work/dpkg.log"; fail 'dpkg --purge'; }
[ ! -e "$debian/etc/superd" ] || fail "deb: left: $(find "$debian/etc/superd")"
[ ! -e "$debian/var/lib/superd" ] || fail 'deb: left: /var/lib/superd'
echo 'ok: deb: installed, upgraded with its service running on, removed, installed again, purged'
