# worldclip in a container.  In the repository's root:
#   docker build --target core -t worldclip:core .      # curation on CPUs
#   docker build --target train -t worldclip:train .    # and training, evaluation, export; with torch for CUDA
#   docker build --target serve -t worldclip:serve .    # a search page and an API of an ONNX model, without torch
#   docker run --rm -v "$PWD:/work" worldclip:core run my.toml --out runs/mine --until curate
#   docker run --rm --gpus all --ipc host -v "$PWD:/work" worldclip:train train runs/mine

# one release of Python and Debian for all targets; --build-arg PYTHON=python@sha256:... pins the bytes
ARG PYTHON=python:3.12.12-slim-bookworm

FROM ${PYTHON} AS wheel
RUN apt-get update && apt-get install --yes --no-install-recommends make && rm -rf /var/lib/apt/lists/*
WORKDIR /source
COPY pyproject.toml setup.py MANIFEST.in Makefile README.md LICENSE NOTICE ./
COPY src src
COPY web web
COPY recipes recipes
COPY examples examples
RUN make web && pip wheel --no-cache-dir --no-deps --wheel-dir /wheels .

# docs/production.md
FROM ${PYTHON} AS serve
ENV NUMBA_CACHE_DIR=/cache/numba
COPY --from=wheel /wheels /wheels
RUN pip install --no-cache-dir "$(echo /wheels/*.whl)[onnx,serve]" \
    && install --directory --owner 10001 /cache
USER 10001
# compiles the kernels that the server calls, which takes 10 s
RUN python -c "from worldclip.language.identify import identify_codes; identify_codes(['a text'])"
EXPOSE 8000
HEALTHCHECK --start-period=120s --timeout=10s \
    CMD ["python", "-c", "from urllib.request import urlopen; urlopen('http://127.0.0.1:8000/healthz', timeout=9)"]
ENTRYPOINT ["worldclip", "serve", "--host", "0.0.0.0", "--port", "8000"]
CMD ["--help"]

FROM ${PYTHON} AS core
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
