define RustBinPackage
endef
