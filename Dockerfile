# syntax=docker/dockerfile:1
# The service with its default model, for a host with an NVIDIA GPU:
#     docker build --tag glow-editor .
# and for one without, at a fraction of the size:
#     docker build --tag glow-editor:cpu --build-arg VARIANT=cpu .
# For a Ray cluster it takes --build-arg EXTRA=ray.
ARG PYTHON=3.11.14-slim-bookworm

FROM python:${PYTHON} AS build
ARG VARIANT=cuda
ARG EXTRA
RUN python -m venv /opt/glow
ENV PATH=/opt/glow/bin:$PATH PIP_DISABLE_PIP_VERSION_CHECK=1
WORKDIR /src
# what changes seldom comes first: these layers outlive most changes of the source
COPY deploy/requirements.txt deploy/requirements-ray.txt deploy/
# torch as the package index has it brings CUDA along; without CUDA it is at PyTorch's own index
RUN --mount=type=cache,target=/root/.cache/pip \
    case "$VARIANT" in \
        cuda) ;; \
        cpu) pip install --no-deps --constraint deploy/requirements.txt \
                 --index-url https://download.pytorch.org/whl/cpu torch ;; \
        *) echo "VARIANT must be cuda or cpu, not $VARIANT" >&2; exit 1 ;; \
    esac \
    && pip install --requirement "deploy/requirements${EXTRA:+-$EXTRA}.txt"
COPY pyproject.toml README.md LICENSE ./
COPY app app
COPY model model
COPY static static
RUN --mount=type=cache,target=/root/.cache/pip \
    pip install --no-deps --no-build-isolation .

FROM python:${PYTHON}
ARG VERSION=unversioned
ARG REVISION=unknown
LABEL org.opencontainers.image.title="Glow Editor" \
      org.opencontainers.image.description="Edits photographs of faces in the latent space of a Glow normalizing flow" \
      org.opencontainers.image.licenses="MIT" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
# the profile is for login shells, in which KubeRay starts Ray
RUN useradd --system --uid 10001 --user-group --no-create-home --shell /usr/sbin/nologin glow \
    && echo "PATH=/opt/glow/bin:\$PATH" > /etc/profile.d/glow.sh
COPY --from=build /opt/glow /opt/glow
ENV PATH=/opt/glow/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    HOST=0.0.0.0 \
    PORT=8000 \
    NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility
WORKDIR /
USER 10001:10001
EXPOSE 8000
# as /healthz says: whether a restart would help
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s --retries=3 \
    CMD ["python", "-c", "import os, urllib.request as r; r.urlopen('http://127.0.0.1:' + os.environ['PORT'] + '/healthz', timeout=4)"]
CMD ["glow-editor", "serve"]
