# palm-cache: docker build -t palm-cache . && docker run --rm -v "$PWD:/work" palm-cache --help
# Untested: CI does not build it. For CPUs alone, a tenth of the size, add to "docker build":
#     --build-arg TORCH_INDEX=URL, with the URL that torch's own install page gives for its CPU build
FROM python:3.11-slim

COPY pyproject.toml constraints.txt README.md LICENSE /palm-cache/
COPY palm_cache /palm-cache/palm_cache
ARG TORCH_INDEX=""
RUN pip install --no-cache-dir --constraint /palm-cache/constraints.txt \
        ${TORCH_INDEX:+--extra-index-url "$TORCH_INDEX"} /palm-cache

RUN useradd --create-home listener
USER listener
WORKDIR /work
ENTRYPOINT ["palm-cache"]
CMD ["--help"]
