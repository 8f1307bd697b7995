# syntax=docker/dockerfile:1
# The app and the workers: one image, pinned by constraints.txt. For a GPU, give the index of PyTorch's CUDA
# wheels: --build-arg TORCH_INDEX=https://download.pytorch.org/whl/cu130 (docker-compose.yml does).
ARG PYTHON=3.12-slim-bookworm

FROM python:${PYTHON} AS build
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1
RUN python -m venv /opt/seigh
ENV PATH=/opt/seigh/bin:$PATH
WORKDIR /src
COPY pyproject.toml constraints.txt README.md LICENSE ./
# PyTorch from the index of the wanted variant; then what else is needed, the same for both variants.
RUN pip install --constraint constraints.txt --index-url "$TORCH_INDEX" --no-deps torch torchvision
# The project without its code: its dependencies stay in the cache when only the code has changed.
RUN mkdir app tasks core migrations \
    && pip install --constraint constraints.txt . \
    && pip uninstall --yes seigh-lab
COPY app app
COPY tasks tasks
COPY core core
COPY migrations migrations
RUN rm -rf build && pip install --no-deps .

FROM python:${PYTHON}
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
