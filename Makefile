# One command for each thing a developer does. `make help` lists them.
VENV   ?= .venv
PYTHON ?= python3
PY     := $(VENV)/bin/python

# Who names a PYTHON gets it: an environment of another one is made anew. VENV=.venv-other keeps both.
ifneq ($(origin PYTHON),file)
ifneq ($(shell $(PYTHON) -VV),$(shell test -x $(PY) && $(PY) -VV))
ANEW := anew
endif
endif

.PHONY: anew help install test vm-test lint demo bench scale wheelhouse proto simulate mutations chaos clean

help:            ## this list
	@grep -hE '^[a-z-]+: .*##|^[a-z-]+:  +##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

# editable_mode=compat: a path, and not a finder that every start of the interpreter has to set up
install: $(VENV)/installed  ## everything a fresh Debian or Ubuntu machine lacks
$(VENV)/installed: $(ANEW) pyproject.toml deploy/packages.txt deploy/packages-test.txt deploy/install-packages.sh
	sh deploy/install-packages.sh deploy/packages.txt deploy/packages-test.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed; name one with make PYTHON=…")'
	$(PYTHON) -m venv $(if $(ANEW),--clear) $(VENV)
	PYTHONWARNINGS=ignore $(PY) -m pip install -qq --disable-pip-version-check --config-settings editable_mode=compat \
		--editable '.[dev]'
	$(PY) -m compileall -q swarmpy        # pip does it for the others; the first command is as fast as the next
	touch $@

# Labs mostly wait: what they show is printed when the rest is through, which computes beside them.
LABS := tests/cluster tests/chaos tests/lab
test: install lint    ## the whole suite, as root
	@mkdir -p build
	$(PY) -m pytest $(LABS) >build/labs.log 2>&1 & labs=$$!; \
	$(PY) -m pytest -m "not vm" $(LABS:%=--ignore=%); rest=$$?; \
	wait $$labs; labs=$$?; cat build/labs.log; exit $$((rest | labs))

vm-test: install ## virtual machines: pure cgroup v2, a swarm of two; as root; many minutes where KVM does not work
	$(PY) -m pytest tests/vm

lint: install    ## ruff and mypy --strict
	$(PY) -m ruff check .
	$(PY) -m mypy

demo: install    ## three managers, three workers and a web service on this machine
	$(PY) -m swarmpy.lab.demo

bench: install   ## ours against the peers on this machine; writes build/bench.json
	sh deploy/install-packages.sh deploy/packages-bench.txt
	$(PY) -m bench

NODES    ?= 5000
TASKS    ?= 1000000
MANAGERS ?= 1
scale: install   ## a swarm of NODES (5000) and TASKS (1000000) that are nothing but sessions; writes build/scale.json
	$(PY) -m bench.scale --nodes $(NODES) --tasks $(TASKS) --managers $(MANAGERS)

wheelhouse: install  ## the wheel and all it needs in build/wheelhouse, for machines without a network
	rm -rf build/lib build/bdist.* build/wheelhouse
	$(PY) -m pip wheel --quiet --disable-pip-version-check --wheel-dir build/wheelhouse .

SEEDS ?= 1000
JOBS  ?= 2
simulate: install  ## Raft clusters under faults, SEEDS of them (1000) in JOBS processes (2)
	$(PY) -m tests.raft.simulation --seeds $(SEEDS) --jobs $(JOBS)

mutations: install  ## plant bugs in the Raft core, one at a time: the simulation must find each
	$(PY) -m tests.raft.simulation --mutations --seeds 1000 --jobs $(JOBS)

MINUTES ?= 10
SEED    ?=
chaos: install   ## a lab of ten hosts, as root, under load while everything fails, for MINUTES (10); SEED repeats a plan
	$(PY) -m tests.chaos.run $(MINUTES) $(SEED)

proto: install   ## generate swarmpy/rpc from proto/
	$(PY) -m grpc_tools.protoc -Iswarmpy/rpc=proto --python_out=. --pyi_out=. --grpc_python_out=. \
		$(patsubst proto/%,swarmpy/rpc/%,$(wildcard proto/*.proto))

clean:           ## what was built here
	rm -rf $(VENV) build .mypy_cache .ruff_cache .pytest_cache .hypothesis
