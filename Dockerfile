# An image of the engine, which runs as nobody in particular, in /data:
#
#   docker build -t corpus-engine .                                     or --build-arg EXTRAS=cpu,stores
#   docker run --rm -v "$PWD:/data" --user "$(id -u):$(id -g)" corpus-engine run BUNDLE CORPUS -o OUT
#
# The engine is process 1: `docker stop` ends a run with exit code 75, and the same command goes on.

ARG PYTHON=3.13

FROM python:${PYTHON}-slim AS build
ARG EXTRAS=cpu
WORKDIR /source
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY engine ./engine
RUN python -m venv --without-pip /opt/engine \
    && python -m pip --python /opt/engine install --no-cache-dir \
    --constraint constraints.txt ".[${EXTRAS}]"

FROM python:${PYTHON}-slim
RUN useradd --uid 1000 --create-home engine && install --directory --mode 1777 /data
COPY --from=build /opt/engine /opt/engine
# What is made again: any user may write it.
ENV PATH=/opt/engine/bin:$PATH CORPUS_ENGINE_CACHE=/tmp/corpus-engine
USER 1000:1000
WORKDIR /data
VOLUME /data
STOPSIGNAL SIGTERM
ENTRYPOINT ["engine"]
CMD ["--help"]
