# palm-cache on CPUs: docker build -t palm-cache . && docker run --rm -v "$PWD:/work" palm-cache --help
# Untested: CI does not build it.
FROM python:3.11-slim

COPY pyproject.toml constraints.txt README.md LICENSE /palm-cache/
COPY palm_cache /palm-cache/palm_cache
# torch without CUDA: a tenth of the size.
RUN pip install --no-cache-dir --constraint /palm-cache/constraints.txt \
        --extra-index-url https://download.pytorch.org/whl/cpu /palm-cache

RUN useradd --create-home listener
USER listener
WORKDIR /work
ENTRYPOINT ["palm-cache"]
CMD ["--help"]
