# Every verb is one program; its own flags go into ARGS, and `python -m <program> --help` lists them.
C     ?= carvana
V     ?=
F     ?= all
DATA  ?= data/$(C)
IMAGES ?= $(DATA)/test
BLEND ?=
SCHEDULER ?=
OUT    ?= runs/$(C)/masks
ARGS  ?=

PYTHON ?= python3.11
BIN    := .venv/bin
PY     := $(BIN)/python
# no library may look for weights or for newer versions of itself while these run
OFFLINE := HF_HUB_OFFLINE=1 NO_ALBUMENTATIONS_UPDATE=1
WHERE  = --competition $(C) --data $(DATA)

.DEFAULT_GOAL := help
.NOTPARALLEL:
.PHONY: help setup demo test check data fold folds fit ensemble submission submit predict plan report \
	disagreement scheduler worker notebook-push notebook-pull bench clean

help:  ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
	@echo "  variables: C=competition ($(C))  V=variant[,variant] or all  F=0 or 0,2 or 0..4  BLEND=way (fit, ensemble)  DATA=folder ($(DATA))  IMAGES, OUT (predict)  ARGS='--flag value'"

setup: .venv/.installed  ## create .venv from requirements.txt, again whenever that changes

.venv/.installed: requirements.txt
	test -x $(PY) || $(PYTHON) -m venv .venv || python3 -m venv .venv
	$(PY) -m pip install --quiet --disable-pip-version-check -r requirements.txt
	touch $@

.venv/.installed-dev: .venv/.installed requirements-dev.txt
	$(PY) -m pip install --quiet --disable-pip-version-check -r requirements-dev.txt
	touch $@

demo: C := studio
demo: V := average-mask,unet-mobilenetv3,fpn-regnetx
demo: export HF_HUB_OFFLINE = 1
demo: data folds ensemble report  ## the main job, end to end, on the embedded competition

test: .venv/.installed-dev  ## all tests
	$(OFFLINE) $(PY) -m pytest -n 2 $(ARGS)

check: .venv/.installed-dev  ## ruff, mypy and the import contracts
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

data: setup  ## fetch and verify the competition's files from Kaggle; C=studio renders them instead
	$(PY) -m $(if $(filter studio,$(C)),studio.render --out $(DATA),kaggle_client.download $(WHERE)) $(ARGS)

fold: setup  ## train V on the folds F
	$(PY) -m folds.train $(WHERE) --variant "$(V)" --fold $(F) $(ARGS)

folds: setup  ## train V on every fold
	$(PY) -m folds.train $(WHERE) --variant "$(V)" --fold all $(ARGS)

fit: setup  ## choose the blend of the trained variants (or of V) by out-of-fold Dice
	$(PY) -m ensemble.fit $(WHERE) --members "$(or $(V),all)" $(if $(BLEND),--blend "$(BLEND)") $(if $(filter fit,$(MAKECMDGOALS)),$(ARGS))

ensemble: fit submission  ## fit, predict the test set, blend at full size, write and check the submission

submission: setup  ## predict the test set with the chosen blend; write and check the submission
	$(PY) -m submit.make $(WHERE) $(ARGS)

submit: setup  ## send the submission to Kaggle, once; ARGS=--scores lists what was sent
	$(PY) -m kaggle_client.upload $(WHERE) $(ARGS)

predict: setup  ## masks and cut-outs of the photographs in IMAGES, into OUT, with the blend (or V=one variant)
	$(PY) -m ensemble.photographs --images "$(IMAGES)" --out "$(OUT)" --competition $(C) --variant "$(V)" --cutout $(ARGS)

plan: setup  ## what predicting the test set will take (time, disk, memory), from a few of its images
	$(PY) -m submit.plan $(WHERE) --variants "$(V)" $(ARGS)

report: setup  ## table of figures and a contact sheet of predictions
	$(PY) -m report $(WHERE) $(if $(filter report,$(MAKECMDGOALS)),$(ARGS))

disagreement: setup  ## the test images on which the trained variants disagree most; ARGS=--predict predicts what is missing
	$(PY) -m report.disagreement $(WHERE) --members "$(filter-out all,$(V))" $(ARGS)

scheduler: setup  ## bring workers together, at this machine's port 8786; ARGS='--host ADDRESS --port NUMBER'
	$(PY) -m folds.scheduler $(ARGS)

worker: setup  ## give this machine's GPUs (or cores) to SCHEDULER=tcp://host:8786, for --cluster tcp://host:8786
	$(PY) -m folds.offer --scheduler "$(SCHEDULER)" $(ARGS)

notebook-push: setup  ## train V on the folds F on Kaggle's GPUs and fetch the result; ARGS='--blend NAME' predicts there
	$(PY) -m notebooks.push --competition $(C) --variant "$(V)" --fold $(F) $(ARGS)

notebook-pull: setup  ## fetch what was pushed to Kaggle and has finished
	$(PY) -m notebooks.pull --competition $(C) $(ARGS)

bench: .venv/.installed-dev  ## side-by-side measurements against peers
	$(PY) -m benchmarks.render
	$(PY) -m benchmarks.compose
	$(PY) -m benchmarks.rle
	$(PY) -m benchmarks.stream
	$(PY) -m benchmarks.store
	$(PY) -m benchmarks.predict
	$(PY) -m benchmarks.blend

clean:  ## remove caches and what killed runs left behind; data, runs and .venv stay
	rm -rf .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache runs/*/cache
	$(or $(wildcard $(PY)),python3) -m atomic runs data
	find . -name __pycache__ -not -path './.venv/*' -prune -exec rm -rf {} +
