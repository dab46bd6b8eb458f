# Every target is a thin call into xtask, which is where the work is described.
XTASK = cargo run --quiet --package xtask --

.PHONY: setup build demo test bench kvm
setup build demo test bench kvm:
	@$(XTASK) $@
