#!/bin/sh
# Make .clients: the newest releases of other software, which imports the rest from .venv; transformers 4.57, which imports
# nothing from there; transformers.js as web/package.json names it and as it is today.
set -e
.venv/bin/python -m venv --clear .clients/newest
.venv/bin/python -c 'import site; print("import site; site.addsitedir(%r)" % site.getsitepackages()[0])' \
    > "$(echo .clients/newest/lib/python*/site-packages)/venv.pth"
.clients/newest/bin/python -m pip install -q -U datasets mteb open_clip_torch peft sentence-transformers timm transformers

test -d .clients/transformers-4.57 || .venv/bin/python -m venv .clients/transformers-4.57
.clients/transformers-4.57/bin/python -m pip install -q -U 'transformers==4.57.*' 'sentence-transformers>=5.4,<6' torch \
    torchvision pillow sentencepiece protobuf

command -v npm > /dev/null || exit 0
export ONNXRUNTIME_NODE_INSTALL=skip # it ships its library for CPUs and would download another one for GPUs
mkdir -p .clients/node .clients/node-newest
cp web/package.json .clients/node/
(cd .clients/node && npm install --no-package-lock --no-audit axe-core@4.14.1) # it checks pages of plug-ins
(cd .clients/node-newest && npm install --no-package-lock --no-audit @huggingface/transformers@latest)
