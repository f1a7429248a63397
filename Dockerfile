# One image for Azure ML and for plain docker. `make image` builds it, after the wheel that it holds:
#
#   make image                        CUDA, with flash-attn
#   make image FLASH_ATTN=0           without: torch's own attention serves
#   make image DEVICE=cpu             for a machine without a GPU
#   make image RAY=1                  with Ray, for clusters
#
# Everything is pinned and hashed, in requirements/. The context is the wheel and those files.

FROM python:3.11-slim-bookworm AS install
ARG DEVICE=cuda
ARG FLASH_ATTN=1
ARG RAY=0
SHELL ["/bin/bash", "-o", "pipefail", "-c"]
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PATH=/opt/phi3v/bin:$PATH

# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install -y --no-install-recommends ca-certificates curl g++ \
    && rm -rf /var/lib/apt/lists/* \
    && python -m venv /opt/phi3v

# torch's CPU builds are in an index of their own.
COPY requirements/ /requirements/
RUN if [ "$DEVICE" = cpu ]; then export PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu; fi \
    && pip install --require-hashes --no-deps -r "/requirements/$DEVICE.lock" \
    && if [ "$RAY" = 1 ]; then pip install --require-hashes --no-deps -r /requirements/ray.lock; fi

# flash-attn is compiled for Ampere, Ada and Hopper: an hour on few cores. Others do without. Its
# own installer would rather fetch a wheel, which has no hash here.
# hadolint ignore=DL3008
RUN if [ "$DEVICE" = cuda ] && [ "$FLASH_ATTN" = 1 ]; then \
        curl -fsSLo /tmp/keyring.deb \
            https://developer.download.nvidia.com/compute/cuda/repos/debian12/x86_64/cuda-keyring_1.1-1_all.deb \
        && dpkg -i /tmp/keyring.deb && apt-get update \
        && apt-get install -y --no-install-recommends cuda-nvcc-13-0 cuda-libraries-dev-13-0 \
        && rm -rf /var/lib/apt/lists/* /tmp/keyring.deb \
        && CUDA_HOME=/usr/local/cuda-13.0 FLASH_ATTN_CUDA_ARCHS="80;90" MAX_JOBS=4 \
            FLASH_ATTENTION_FORCE_BUILD=TRUE \
            pip install --require-hashes --no-deps --no-build-isolation -r /requirements/flash.lock; \
    fi

# What else needs a compiler is compiled here, too, as the image that runs has none: a CPU's kernels,
# and what launches a GPU's.
COPY dist/*.whl /dist/
RUN pip install --no-deps /dist/*.whl \
    && if [ "$DEVICE" = cpu ]; then python -m scoring.models.native_kernels; \
    else python -m scoring.models.triton_kernels.launcher; fi


FROM python:3.11-slim-bookworm
ARG RAY=0
ARG VERSION=0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="phi3v-server" \
      org.opencontainers.image.description="Phi-3-vision behind the Azure AI Model Inference API" \
      org.opencontainers.image.licenses="MIT" \
      org.opencontainers.image.version="$VERSION" \
      org.opencontainers.image.revision="$REVISION"

# KubeRay's probes run wget.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install -y --no-install-recommends libgomp1 \
    && if [ "$RAY" = 1 ]; then apt-get install -y --no-install-recommends wget; fi \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --uid 10001 --no-create-home --home-dir /nonexistent phi3v \
    && install -d -o phi3v /var/cache/phi3v

COPY --from=install /opt/phi3v /opt/phi3v

# The one folder that is written to, beside /tmp; mount a volume there to keep it between starts.
ENV PATH=/opt/phi3v/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    HF_HUB_OFFLINE=1 \
    HF_HOME=/var/cache/phi3v/hub \
    XDG_CACHE_HOME=/var/cache/phi3v \
    TORCHINDUCTOR_CACHE_DIR=/var/cache/phi3v/inductor \
    TRITON_CACHE_DIR=/var/cache/phi3v/triton \
    PHI3V_HOST=0.0.0.0 \
    PHI3V_PORT=5001

USER 10001
EXPOSE 5001
# Alive while the weights load, too; readiness is /health/ready.
HEALTHCHECK --interval=30s --timeout=5s --start-period=30s \
    CMD ["python", "-c", "import os, urllib.request as r; r.urlopen(f\"http://127.0.0.1:{os.environ['PHI3V_PORT']}/health/live\", timeout=4)"]
ENTRYPOINT ["phi3v", "serve"]
