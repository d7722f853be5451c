#!/bin/sh
# Stands for OpenWrt's /lib/functions.sh in the tests of the packages: what its default_postinst
# and default_prerm were seen to do with the init scripts of a package.

scripts_of_package() {
	grep -s '^/etc/init.d/' /usr/lib/opkg/info/superd.list
}

default_postinst() {
	# shellcheck source=/dev/null
	(. /etc/uci-defaults/90-superd) && rm -f /etc/uci-defaults/90-superd
	for script in $(scripts_of_package); do
		[ "$PKG_UPGRADE" = 1 ] || "$script" enable
		"$script" start
	done
}

default_prerm() {
	for script in $(scripts_of_package); do
		[ "$PKG_UPGRADE" = 1 ] || "$script" disable
		"$script" stop
	done
}
