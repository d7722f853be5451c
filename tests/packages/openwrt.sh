# shellcheck shell=bash
# What stands for OpenWrt in a root of the tests: `openwrt_into ROOT PROCD SOURCES`. Its rc.common, with `enable` and
# `disable`, which make links; /lib/functions.sh; and PROCD (a directory, named as it is seen in that
# root) with the two FIFOs and the program that plays procd: `ash PROCD/procd &`, in that root. The program
# `flock` is the caller's; SOURCES is the repository. To be sourced by bash.

openwrt_into() {
	local at=$1 procd=$2 sources=$3
	mkdir -p "$at/etc/rc.d" "$at/etc/init.d" "$at/lib" "$at/usr/lib/opkg/info" "$at$procd"
	cp "$sources/tests/e2e/procd/rc.common" "$at/etc/rc.common"
	cp "$sources/tests/packages/functions.sh" "$at/lib/functions.sh"
	# A script is run as `/etc/init.d/superd start`: `#!/bin/sh /etc/rc.common` gives it this name.
	# shellcheck disable=SC2016 # for the other shell
	sed -i "s|^initscript=|PROCD=$procd\n"'enable() { ln -sf "../init.d/${initscript##*/}" "/etc/rc.d/S90${initscript##*/}"; }\ndisable() { rm -f "/etc/rc.d/S90${initscript##*/}"; }\n&|; s/ shutdown enabled / shutdown enabled enable disable /' "$at/etc/rc.common"
	chmod +x "$at/etc/rc.common"
	mkfifo "$at$procd/ask" "$at$procd/answer"
	cat >"$at$procd/procd" <<-'PROCD'
		# One instance: start it, send TERM, say whether it runs.
		at=${0%/*}
		running() { [ -n "$pid" ] && kill -0 "$pid" 2>/dev/null && ! grep -qs "State:.Z" "/proc/$pid/status"; }
		pid=
		while read -r line <>"$at/ask"; do
			case "$line" in
			running*) if running; then say=yes; else say=no; fi ;;
			delete*) if running; then kill -TERM "$pid"; say=yes; else say='not found'; fi ;;
			set*)
				say=yes
				if ! running; then
					/usr/sbin/superd --config /etc/superd/superd.toml </dev/null >/dev/null 2>>/tmp/superd.log &
					pid=$!
				fi
				;;
			esac
			echo "$say" >"$at/answer"
		done
	PROCD
}
