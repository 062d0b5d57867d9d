# Each target does all its own set-up in .venv, by the newest Python of those that worldclip allows.  Each is run: a command
# of pyenv may stand for a Python that is not there, and Debian's has no venv without python3-venv.
PYTHONS := $(shell for minor in 13 12 11; do python3.$$minor -c 'import ensurepip' 2>/dev/null && echo python3.$$minor; done)
PYTHON ?= $(or $(firstword $(PYTHONS)),python3)
BIN = .venv/bin

.PHONY: demo world test lint slow second clients web docs clean FORCE

demo: .venv/demo.stamp
	$(BIN)/worldclip run recipes/emoji.toml --out runs/emoji
	$(BIN)/worldclip explore runs/emoji --out runs/emoji_explorer
	$(BIN)/worldclip embed runs/emoji runs/emoji --of images texts --out runs/emoji_embedded
	@echo 'explorer: runs/emoji_explorer/index.html'
	@echo 'search page: $(BIN)/worldclip serve runs/emoji runs/emoji_embedded'

# the world pool, with the parts that are in data/world (examples/world)
WORLD_PARTS = $(notdir $(wildcard data/world/cldr data/world/fluent data/world/flags data/world/appstream data/world/stamps data/world/gcompris))
comma = ,
WORLD_SETS = "world_tone","world_base","world_flags","world_flags_held"$(if $(filter stamps,$(WORLD_PARTS)),$(comma)"world_stamps")$(if $(filter gcompris,$(WORLD_PARTS)),$(comma)"world_photos")
world: .venv/world.stamp
	$(BIN)/worldclip run recipes/world.toml --out runs/world --set 'evaluate.datasets=[$(WORLD_SETS)]' \
		$(foreach part,$(WORLD_PARTS),--set pool.parts.$(part)=data/world/$(part))

# one process of tests per core, each with files of its own; threads that compute would wait for each other
PYTEST = OMP_NUM_THREADS=1 $(BIN)/python -m pytest
test: .venv/dev.stamp
	$(PYTEST) -n auto --dist loadfile

slow: .venv/dev.stamp $(if $(shell command -v npm),web)
	$(PYTEST) -m slow --timeout 0

lint: .venv/dev.stamp
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache
	$(BIN)/codespell src docs tests README.md CONTRIBUTING.md CHANGELOG.md

# the tests of curation under the oldest Python of this machine; without torch, which takes 5 GB
OLDEST_PYTHON = $(filter-out $(PYTHON),$(lastword $(PYTHONS)))
SECOND_TESTS = core kernels contracts language metadata match balance curate
second: $(if $(OLDEST_PYTHON),.second/stamp)
	$(if $(OLDEST_PYTHON),OMP_NUM_THREADS=1 .second/bin/python -m pytest -n auto --dist loadfile $(SECOND_TESTS:%=tests/%),\
		@echo 'this machine has no older Python than $(PYTHON) that worldclip allows')

.second/stamp: pyproject.toml
	test -d .second || $(OLDEST_PYTHON) -m venv .second
	.second/bin/python -m pip install -q -e '.[metadata,pool]' pytest pytest-xdist pytest-timeout hypothesis
	touch $@

# tests/clients: other software on what worldclip writes, in the newest release of each.  A part is one client:
# `make clients-mteb`.  Nothing is installed in .venv: each client has an environment that holds the packages of NEWEST_*
# and imports all others from .venv; some have a second one that imports nothing from there.
NEWEST_datasets = datasets
NEWEST_mteb = mteb sentence-transformers
NEWEST_open_clip = open_clip_torch
NEWEST_sentence_transformers = sentence-transformers transformers
NEWEST_transformers = transformers
OVER_VENV = .clients/over-$*
clients: $(patsubst tests/clients/test_client_%.py,clients-%,$(wildcard tests/clients/test_client_*.py))
clients-img2dataset: .clients/img2dataset
clients-sentence_transformers clients-transformers: .clients/transformers-4.57
clients-transformers_js: .clients/node .clients/node-newest
clients-%: .venv/dev.stamp FORCE
	$(BIN)/python -m venv --clear $(OVER_VENV)
	$(BIN)/python -c 'import site; print("import site; site.addsitedir(%r)" % site.getsitepackages()[0])' \
		> $$(echo $(OVER_VENV)/lib/python*/site-packages)/venv.pth
	$(if $(NEWEST_$*),$(OVER_VENV)/bin/python -m pip install -q -U $(NEWEST_$*))
	OMP_NUM_THREADS=1 $(OVER_VENV)/bin/python -m pytest -m "slow or not slow" --session-timeout 1200 tests/clients/test_client_$*.py

.clients/%: tests/clients/requirements-%.txt FORCE
	test -d $@ || $(PYTHON) -m venv $@
	$@/bin/python -m pip install -q -U -r $<

# transformers.js as web/package.json names it, and as it is today; onnxruntime-node ships its CPU library and would
# download another one for GPUs; axe-core checks the pages of tests/plugins
NPM_INSTALL = command -v npm || exit 0; cd $@ && ONNXRUNTIME_NODE_INSTALL=skip npm install --no-package-lock --no-audit
.clients/node .clients/node-newest: web/package.json FORCE
	mkdir -p $@
	$(if $(filter %-newest,$@),,cp $< $@/)
	$(NPM_INSTALL) $(if $(filter %-newest,$@),@huggingface/transformers@latest,axe-core@4.14.1)

# transformers.js and its runtime, for `worldclip export --formats web`; a wheel that is built afterwards holds them
JS = src/worldclip/plugins/browser/js
web: $(JS)/LICENSE.onnxruntime
$(JS)/LICENSE.onnxruntime: web/package-lock.json
	@command -v npm >/dev/null || { echo "make web needs npm, which comes with Node.js"; exit 1; }
	cd web && npm ci --ignore-scripts --no-audit --no-fund
	mkdir -p $(JS)
	cp web/node_modules/@huggingface/transformers/dist/transformers.web.min.js $(JS)/
	cp web/node_modules/onnxruntime-web/dist/ort.wasm.bundle.min.mjs $(JS)/
	cp web/node_modules/onnxruntime-web/dist/ort-wasm-simd-threaded.wasm $(JS)/
	cp web/node_modules/@huggingface/transformers/LICENSE $(JS)/LICENSE.transformers.js
	cp web/LICENSE.onnxruntime $(JS)/

# the pages as a site with a search, commands and Python API, in build/docs/site; fails on dead links
docs: .venv/docs.stamp
	$(BIN)/python docs/build_site.py

.venv/bin/python:
	$(PYTHON) -m venv .venv

# extras of each environment
demo_EXTRAS = demo,train,serve
world_EXTRAS = world,train
docs_EXTRAS = serve,docs
dev_EXTRAS = metadata,pool,ray,demo,world,train,eval,export,serve,docs,dev
.venv/%.stamp: .venv/bin/python pyproject.toml
	$(BIN)/python -m pip install -q -e '.[$($*_EXTRAS)]'
	touch $@

FORCE:

clean:
	rm -rf .venv .second .clients runs build dist *.egg-info src/*.egg-info
