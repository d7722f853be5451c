define BuildPackage
stage:
	$(call Package/$(1)/install,$(DEST))
conffiles:
	$(info $(Package/$(1)/conffiles))
endef
