# Every verb is one program; its own flags go into ARGS, and `python -m <program> --help` lists them.
# Values go to the programs as they are typed, spaces, quotes and `$` included; an empty one is the default below.
C     ?=
V     ?=
F     ?=
DATA  ?=
IMAGES ?=
BLEND ?=
SCHEDULER ?=
OUT    ?=
NAME   ?=
OOF    ?=
TEST   ?=
ARGS  ?=
# in the environment of programs they would be expanded after all
unexport C V F DATA IMAGES BLEND SCHEDULER OUT NAME OOF TEST ARGS
# set by single verbs, not by whoever calls
MEMBERS :=
TRAINING :=
FITTING :=
MEANWHILE :=

default-C      = carvana
default-F      = all
default-DATA   = data/$(call given,C)
default-IMAGES = $(call given,DATA)/test
default-OUT    = runs/$(call given,C)/masks

# what was typed is not expanded: `$` in it is the user's
typed  = $(if $(filter command environment,$(firstword $(origin $1))),$(value $1),$($1))
given  = $(if $(strip $(typed)),$(typed),$(default-$1))
quoted = '$(subst ','\'',$(given))'

PYTHON ?= python3.11
BIN    := .venv/bin
PY     := $(BIN)/python
# no library may look for weights or for newer versions of itself while these run
OFFLINE := HF_HUB_OFFLINE=1 NO_ALBUMENTATIONS_UPDATE=1
WHERE  = --competition $(call quoted,C) --data $(call quoted,DATA)
# words for the shell
MORE   = $(call typed,ARGS)

# not every version of make takes it for itself inside a function
HASH := \#
# what ARGS, as the shell reads them, give for --runs, or the programs' own default; quoted
RUNS_OF_ARGS = $(shell runs=runs; last=; for word in $(MORE); do \
	case "$$last" in (--runs) runs="$$word";; esac; \
	case "$$word" in (--runs=*) runs="$${word$(HASH)*=}";; esac; last="$$word"; done; \
	printf "'%s'" "$$(printf %s "$$runs" | sed "s/'/'\\\\''/g")")
# a verb's ARGS are those of its own program; one that is a step of another verb takes of them where the results are
args-for = $(if $(filter $1,$(MAKECMDGOALS)),$(MORE),$(if $(filter --runs --runs=%,$(MORE)),--runs $(RUNS_OF_ARGS)))

# the embedded competitions
RENDERED_studio     = studio.render --out $(call quoted,DATA)
RENDERED_composites = studio.composites --out $(call quoted,DATA)

.DEFAULT_GOAL := help
.NOTPARALLEL:
VERBS := help setup demo demo-depth test check data fold folds fit ensemble submission submit predict plan explore suspects classify report export ship import-member \
	activations disagreement pseudo verdict scheduler worker notebook-push notebook-pull bench clean
.PHONY: $(VERBS)

# what a misspelt word would otherwise have done: the default competition sent, every fold trained, all tests run first
VARIABLES := C V F DATA IMAGES BLEND SCHEDULER OUT NAME OOF TEST ARGS PY PYTHON BIN SHELL MAKEFLAGS
GIVEN     := $(foreach each-name,$(.VARIABLES),$(if $(findstring command line,$(origin $(each-name))),$(each-name)))
MISSPELT  := $(firstword $(filter-out $(VARIABLES) -%,$(GIVEN)))
# the longest known one that it begins with, in any case, else the one of the fewest edits
NEAREST    = $(shell awk -v word='$(subst ','\'',$(MISSPELT))' -v names='$(VARIABLES)' 'function edits(a, b,  i, j, d, c) { \
	for (i = 0; i <= length(a); i++) for (j = 0; j <= length(b); j++) { \
		if (!i || !j) { d[i, j] = i + j; continue } \
		c = d[i-1, j-1] + (substr(a, i, 1) != substr(b, j, 1)); \
		if (d[i-1, j] + 1 < c) c = d[i-1, j] + 1; if (d[i, j-1] + 1 < c) c = d[i, j-1] + 1; d[i, j] = c } \
	return d[length(a), length(b)] } \
	BEGIN { word = toupper(word); least = 99; split(names, all, " "); for (k = 1; k in all; k++) { n = all[k]; \
		cost = index(word, n) == 1 ? -length(n) : edits(word, n); if (cost < least) { least = cost; best = n } } print best }')
ifneq ($(MISSPELT),)
  $(error $(MISSPELT) is no variable of this Makefile: did you mean $(NEAREST)=...? make help lists them)
endif
NO_VERB := $(firstword $(filter-out $(VERBS) .venv/%,$(MAKECMDGOALS)))
ifneq ($(NO_VERB),)
  $(error $(NO_VERB) is no verb of this Makefile: make help lists them; what a program or the tests take goes into ARGS, \
    as in make $(or $(firstword $(filter $(VERBS),$(MAKECMDGOALS))),test) ARGS='$(NO_VERB)')
endif
# they have competition and networks of their own
ifneq ($(and $(filter demo demo-depth,$(MAKECMDGOALS)),$(filter C V,$(GIVEN))),)
  $(error make $(firstword $(filter demo demo-depth,$(MAKECMDGOALS))) is for the competition that comes along: leave $(filter C V,$(GIVEN)) out, or use make data, folds and ensemble)
endif

help:  ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
	@echo "  variables: C=competition ("$(call quoted,C)")  V=variant[,variant] or all  F=0 or 0,2 or 0..4  BLEND=way (fit, ensemble)  DATA=folder ("$(call quoted,DATA)")  IMAGES, OUT (predict)  ARGS='--flag value'"

setup: .venv/.installed  ## create .venv from requirements.txt, again whenever that changes

# bytecode of what programs import, at once: pip's, of everything, takes as long as the rest of the installation
PIP      = $(PY) -m pip install --quiet --disable-pip-version-check --no-compile
BYTECODE = PYTHONDONTWRITEBYTECODE= $(PY) -c 'import folds.fit, segmentation_models_pytorch, submit.make, report.write, matplotlib.figure, sklearn.linear_model'
INSTALL  = $(PIP) -r requirements.txt && { $(BYTECODE) || true; }

.venv/.installed: requirements.txt
	test -x $(PY) || $(PYTHON) -m venv .venv || python3 -m venv .venv
	$(or $(MEANWHILE),$(INSTALL))
	touch $@

# pip keeps one core busy: the other renders as soon as what that needs is there; the same versions as in the whole
FOR_RENDERING := numpy numba joblib opencv-python-headless pillow tyro tqdm pydantic typing_extensions
RENDER_MEANWHILE = $(PIP) -c requirements.txt $(FOR_RENDERING) && { $(PY) -m $(RENDERED_studio) & rendering=$$!; \
	trap 'kill $$rendering; exit 130' INT TERM; { $(INSTALL); } || { kill $$rendering; exit 1; }; wait $$rendering; }

.venv/.installed-export: .venv/.installed requirements-export.txt
	$(PY) -m pip install --quiet --disable-pip-version-check -r requirements-export.txt
	touch $@

.venv/.installed-dev: .venv/.installed requirements-dev.txt requirements-cpu.txt requirements-export.txt
	$(PY) -m pip install --quiet --disable-pip-version-check -r requirements-dev.txt
	touch $@

# two members that start from two networks of real cars, which come along
COMES_ALONG := trained/fast/carvana/unet-mobilenetv3-320x512
demo: C := studio
demo: V := unet-mobilenetv3
# both, which V does not name
demo: MEMBERS := all
demo: TRAINING := --folds 4 --tag a,b --epochs 3 --init-from $(COMES_ALONG)/fold0,$(COMES_ALONG)/fold1
# the report ends with the same table
demo: FITTING := --no-table
demo: MEANWHILE = $(RENDER_MEANWHILE)
demo: export HF_HUB_OFFLINE = 1
demo: data folds ensemble report  ## the main job, end to end, on the embedded competition
	@echo "next: open runs/studio/blend/report.html; mask photographs of cars: make predict IMAGES=photos ARGS='--runs trained'; Kaggle's own cars: make data"

# each network as long as two cores have minutes for it: of the big ones that is one or two epochs
demo-depth: C := composites
demo-depth: export HF_HUB_OFFLINE = 1
demo-depth: data  ## masks and depth of composites, end to end, on rendered scenes
	$(PY) -m folds.train $(WHERE) --variant compact-96 --fold 0 --epochs 6
	$(PY) -m folds.train $(WHERE) --variant d-resunet-64 --fold 0 --recipe composites --epochs 2
	$(PY) -m folds.train $(WHERE) --variant e-unet-64 --fold 0 --recipe composites --epochs 1
	$(PY) -m report.composites $(WHERE)

test: .venv/.installed-dev  ## all tests
	$(OFFLINE) $(PY) -m pytest -n 2 $(MORE)

check: .venv/.installed-dev  ## ruff, mypy and the import contracts
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

data: setup  ## fetch and verify the competition's files from Kaggle; C=studio and C=composites render theirs
	$(PY) -m $(or $(RENDERED_$(call given,C)),kaggle_client.download $(WHERE)) $(MORE)

fold: setup  ## train V on the folds F
	$(PY) -m folds.train $(WHERE) --variant $(call quoted,V) --fold $(call quoted,F) $(MORE)

folds: setup  ## train V on every fold
	$(PY) -m folds.train $(WHERE) --variant $(call quoted,V) --fold all $(TRAINING) $(MORE)
	$(if $(filter --pseudo --pseudo=%,$(MORE)),$(PY) -m ensemble.rounds $(WHERE) --runs $(RUNS_OF_ARGS))

verdict: setup  ## hold rounds of self-training (make folds ARGS='--pseudo ...') against the runs before them, and keep what gains
	$(PY) -m ensemble.rounds $(WHERE) --variant $(call quoted,V) $(MORE)

fit: setup  ## choose the blend of the trained variants (or of V) by out-of-fold Dice
	$(PY) -m ensemble.fit $(WHERE) $(FITTING) --members $(or $(MEMBERS),$(if $(call given,V),$(call quoted,V),all)) $(if $(call given,BLEND),--blend $(call quoted,BLEND)) $(call args-for,fit)

ensemble: fit submission  ## fit, predict the test set, blend at full size, write and check the submission

submission: setup  ## predict the test set with the chosen blend; write and check the submission
	$(PY) -m submit.make $(WHERE) $(MORE)

submit: setup  ## send the submission to Kaggle, once; ARGS=--scores lists what was sent
	$(PY) -m kaggle_client.upload $(WHERE) $(MORE)

predict: setup  ## masks and cut-outs of the photographs in IMAGES, into OUT, with the blend (or V=one variant)
	failed=; $(PY) -m ensemble.photographs --images $(call quoted,IMAGES) --out $(call quoted,OUT) --competition $(call quoted,C) --variant $(call quoted,V) --cutout $(MORE)$(if $(filter -h --help,$(MORE)),, \
	|| failed=$$?; if [ -z "$$failed" ] || { [ $$failed = 1 ] && [ -f $(call quoted,OUT)/agreement.csv ]; }; then \
	$(PY) -m report.photographs --images $(call quoted,IMAGES) --out $(call quoted,OUT) || failed=$$?; fi; exit $${failed:-0})

plan: setup  ## what predicting the test set will take (time, disk, memory), from a few of its images
	$(PY) -m submit.plan $(WHERE) --variants $(call quoted,V) $(MORE)

explore: setup  ## a page about the data before any training: counts, metadata, masks, near-duplicates, ceilings by size
	$(PY) -m report.explore $(WHERE) $(MORE)

suspects: setup  ## training labels that the networks' out-of-fold logits contradict, worst first; for make folds ARGS='--leave-out FILE'
	$(PY) -m report.suspects $(WHERE) --members $(if $(filter all,$(call given,V)),'',$(call quoted,V)) $(MORE)

classify: setup  ## can the label of a group (the make) be told from its images? by features of V's encoder (or the blend's heaviest)
	$(PY) -m report.group_labels $(WHERE) --variant $(call quoted,V) $(MORE)

report: setup  ## table of figures and a contact sheet of predictions
	$(PY) -m report $(WHERE) $(call args-for,report)

disagreement: setup  ## the test images on which the trained variants disagree most; ARGS=--predict predicts what is missing
	$(PY) -m report.disagreement $(WHERE) --members $(if $(filter all,$(call given,V)),'',$(call quoted,V)) $(MORE)

pseudo: setup  ## choose test images whose labels by the blend can be trusted, to train on; ARGS=--distil takes the training images
	$(PY) -m report.pseudo $(WHERE) $(MORE)

activations: setup  ## what each stage of a network (V, or the blend's heaviest) answers to the photographs in IMAGES, and where its evidence lies
	$(PY) -m report.activations --images $(call quoted,IMAGES) --competition $(call quoted,C) --variant $(call quoted,V) $(if $(call typed,OUT),--out $(call quoted,OUT)) $(MORE)

ship: setup  ## the blend and its networks as a folder to hand on, with a card; ARGS="--bits 16 --out FOLDER"
	$(PY) -m ensemble.ship $(WHERE) $(MORE)

export: .venv/.installed-export  ## the blend (or V=one variant) as one ONNX and one torch.export file, from image to mask
	$(PY) -m ensemble.export $(WHERE) --variant $(call quoted,V) $(MORE)

import-member: setup  ## take predictions made elsewhere as member NAME: OOF=folder and TEST=folder of NPZ, NPY or PNG files
	$(PY) -m predict.import_member $(WHERE) --name $(call quoted,NAME) $(if $(call typed,OOF),--oof $(call quoted,OOF)) $(if $(call typed,TEST),--test $(call quoted,TEST)) $(MORE)

scheduler: setup  ## bring workers together, at this machine's port 8786; ARGS='--host ADDRESS --port NUMBER'
	$(PY) -m folds.scheduler $(MORE)

worker: setup  ## give this machine's GPUs (or cores) to SCHEDULER=tcp://host:8786, for --cluster tcp://host:8786
	$(PY) -m folds.offer --scheduler $(call quoted,SCHEDULER) $(MORE)

notebook-push: setup  ## train V on the folds F on Kaggle's GPUs and fetch the result; ARGS='--blend NAME' predicts there
	$(PY) -m notebooks.push --competition $(call quoted,C) --variant $(call quoted,V) --fold $(call quoted,F) $(MORE)

notebook-pull: setup  ## fetch what was pushed to Kaggle and has finished
	$(PY) -m notebooks.pull --competition $(call quoted,C) $(MORE)

bench: .venv/.installed-dev  ## side-by-side measurements against peers
	$(PY) -m benchmarks.render
	$(PY) -m benchmarks.compose
	$(PY) -m benchmarks.rle
	$(PY) -m benchmarks.stream
	$(PY) -m benchmarks.store
	$(PY) -m benchmarks.predict
	$(PY) -m benchmarks.many_small
	$(PY) -m benchmarks.blend

clean:  ## remove caches, those in runs too, and what killed runs left behind; data, other runs and .venv stay
	rm -rf .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache runs/*/cache
	$(or $(wildcard $(PY)),python3) -m atomic runs data
	find . -name __pycache__ -not -path './.venv/*' -prune -exec rm -rf {} +
