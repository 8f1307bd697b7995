# syntax=docker/dockerfile:1
# The app and the workers: one image, pinned by constraints.txt. For a GPU, give the index of PyTorch's CUDA
# wheels: --build-arg TORCH_INDEX=https://download.pytorch.org/whl/cu130 (docker-compose.yml does).
# `make digests` prints the base image with its digest, for the variable SEIGH_PYTHON_IMAGE.
ARG PYTHON_IMAGE=python:3.12-slim-bookworm

FROM ${PYTHON_IMAGE} AS build
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1
RUN python -m venv /opt/seigh
ENV PATH=/opt/seigh/bin:$PATH
WORKDIR /src
COPY pyproject.toml setup.py constraints.txt requirements.lock README.md LICENSE ./
# PyTorch from the index of the wanted variant; then what else is needed, the same for both variants.
# All else comes with the hashes of the lock; what is left then is what PyTorch itself brings along.
RUN pip install --constraint constraints.txt --index-url "$TORCH_INDEX" --no-deps torch torchvision \
    && pip install --require-hashes --no-deps --requirement requirements.lock
# The project without its code: its dependencies stay in the cache when only the code has changed.
RUN mkdir seigh \
    && pip install --constraint constraints.txt '.[lab,hf]' \
    && pip uninstall --yes seigh-lab
COPY seigh seigh
COPY app app
COPY tasks tasks
COPY core core
COPY migrations migrations
# Which commit this is, which every record says: `SEIGH_COMMIT=$(git rev-parse HEAD) docker compose build`.
ARG SEIGH_COMMIT=
RUN rm -rf build && SEIGH_COMMIT="$SEIGH_COMMIT" pip install --no-deps .

FROM ${PYTHON_IMAGE}
RUN useradd --uid 10001 --user-group --no-create-home --home-dir /tmp seigh \
    && install -d -o seigh -g seigh /var/lib/seigh \
        /var/lib/seigh/artifacts /var/lib/seigh/data /var/lib/seigh/scratch /var/lib/seigh/uploads
COPY --from=build /opt/seigh /opt/seigh
ENV PATH=/opt/seigh/bin:$PATH \
    HOME=/tmp \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    SEIGH_HOME=/var/lib/seigh
WORKDIR /var/lib/seigh
USER 10001:10001
ENTRYPOINT ["seigh"]
CMD ["app", "--host", "0.0.0.0"]
EXPOSE 8501
