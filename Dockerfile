# palm-cache: docker build -t palm-cache . && docker run --rm -v "$PWD:/work" palm-cache --help
# Untested: CI does not build it. For CPUs alone, a tenth of the size, put this before the step that installs:
# RUN pip install uv && uv pip install --system --torch-backend cpu torch torchaudio
FROM python:3.11-slim

COPY pyproject.toml constraints.txt README.md LICENSE /palm-cache/
COPY palm_cache /palm-cache/palm_cache
RUN pip install --no-cache-dir --constraint /palm-cache/constraints.txt /palm-cache

RUN useradd --create-home listener
USER listener
WORKDIR /work
ENTRYPOINT ["palm-cache"]
CMD ["--help"]
