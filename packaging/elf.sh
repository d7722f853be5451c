# shellcheck shell=sh disable=SC2034 # who sources it reads machine, loader and why
# What a program is, read from its ELF header (elf(5)) with od alone. To be sourced; for the scripts that
# build packages. `elf FILE` sets
#
#	machine   aarch64, arm, armhf, x86_64, i386, mips, mipsel, mips64, mips64el, riscv64, ...
#	loader    the dynamic loader that it asks for; empty: it is static
#
# or returns 1 and sets `why`.

# elf_number OFFSET SIZE: sets n, in the byte order of the file
elf_number() {
	n=0
	for byte in $(od -An -v -t u1 -j "$1" -N "$2" "$elf"); do
		case "$order" in
		little) n=$((n + (byte << at))) at=$((at + 8)) ;;
		*) n=$(((n << 8) + byte)) ;;
		esac
	done
	at=0
}

elf() {
	elf=$1 order=little at=0 machine='' loader='' why=
	elf_number 0 4
	[ "$n" -eq 1179403647 ] || {
		why="$1: not a program (no ELF file)"
		return 1
	}
	elf_number 4 1
	class=$n
	elf_number 5 1
	[ "$n" -eq 1 ] || order=big
	elf_number 16 2
	# ET_EXEC, ET_DYN
	case "$n" in
	2 | 3) ;;
	*)
		why="$1: not a program (ELF type $n)"
		return 1
		;;
	esac
	elf_number 18 2
	case "$n.$class.$order" in
	3.*) machine=i386 ;;
	8.1.big) machine=mips ;;
	8.1.little) machine=mipsel ;;
	8.2.big) machine=mips64 ;;
	8.2.little) machine=mips64el ;;
	20.*) machine=powerpc ;;
	21.2.big) machine=powerpc64 ;;
	21.2.little) machine=powerpc64le ;;
	22.2.*) machine=s390x ;;
	40.1.*)
		# EF_ARM_ABI_FLOAT_HARD
		elf_number 36 4
		machine=arm
		[ $((n & 0x400)) -eq 0 ] || machine=armhf
		;;
	62.*) machine=x86_64 ;;
	183.2.*) machine=aarch64 ;;
	243.2.*) machine=riscv64 ;;
	258.2.*) machine=loongarch64 ;;
	*)
		why="$1: for a machine that is not known here (ELF machine $n, class $class)"
		return 1
		;;
	esac

	# The program header PT_INTERP: where the name of the loader is.
	if [ "$class" -eq 2 ]; then
		elf_number 32 8 && first=$n
		elf_number 54 2 && each=$n
		elf_number 56 2 && count=$n
		offset_at=8 length_at=32 word=8
	else
		elf_number 28 4 && first=$n
		elf_number 42 2 && each=$n
		elf_number 44 2 && count=$n
		offset_at=4 length_at=16 word=4
	fi
	[ "$count" -le 64 ] || count=64
	while [ "$count" -gt 0 ]; do
		elf_number "$first" 4
		if [ "$n" -eq 3 ]; then
			elf_number "$((first + length_at))" "$word" && length=$n
			elf_number "$((first + offset_at))" "$word"
			loader=$(tail -c "+$((n + 1))" "$elf" | head -c "$length" | tr -d '\000')
			[ -n "$loader" ] || loader=unknown
		fi
		first=$((first + each)) count=$((count - 1))
	done
}
