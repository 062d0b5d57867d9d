# worldclip in a container.  In the repository's root:
#   docker build --target core -t worldclip:core .      # curation on CPUs
#   docker build --target train -t worldclip:train .    # and training, evaluation, export; with torch for CUDA
#   docker run --rm -v "$PWD:/work" worldclip:core run my.toml --out runs/mine --until curate
#   docker run --rm --gpus all --ipc host -v "$PWD:/work" worldclip:train train runs/mine

FROM python:3.12-slim-bookworm AS wheel
RUN apt-get update && apt-get install --yes --no-install-recommends make && rm -rf /var/lib/apt/lists/*
WORKDIR /source
COPY pyproject.toml setup.py MANIFEST.in Makefile README.md LICENSE NOTICE ./
COPY src src
COPY web web
COPY recipes recipes
COPY examples examples
RUN make web && pip wheel --no-cache-dir --no-deps --wheel-dir /wheels .

FROM python:3.12-slim-bookworm AS core
# numba compiles the kernels at the first use: a volume at /cache keeps them for the next container
ENV NUMBA_CACHE_DIR=/cache/numba HF_HOME=/cache/huggingface
COPY --from=wheel /wheels /wheels
RUN pip install --no-cache-dir "$(echo /wheels/*.whl)[metadata,pool,hub]" \
    && mkdir -m 777 /cache
WORKDIR /work
ENTRYPOINT ["worldclip"]
CMD ["--help"]

FROM core AS train
# torch.compile builds with a C++ compiler, its kernels for GPUs (Triton) with a C compiler
RUN apt-get update && apt-get install --yes --no-install-recommends gcc g++ libc6-dev && rm -rf /var/lib/apt/lists/*
RUN pip install --no-cache-dir "$(echo /wheels/*.whl)[train,lora,eval,export,serve]"
