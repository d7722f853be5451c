# Stands for OpenWrt's build system, as far as a package's files go: `make stage DEST=...` installs
# what the feed's Makefile says.
INCLUDE_DIR:=$(TOPDIR)
INSTALL_DIR:=install -d -m0755
INSTALL_BIN:=install -m0755
INSTALL_DATA:=install -m0644
LN:=ln -sf
CP:=cp -fpR
RUST_ARCH_DEPENDS:=@aarch64
