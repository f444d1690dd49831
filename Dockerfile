# The service and what it needs, and nothing else: `docker build -t verbatim .`, or compose.yaml with its PostgreSQL.

FROM python:3.13-slim AS build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 PIP_PYTHON=/opt/venv PIP_ROOT_USER_ACTION=ignore
WORKDIR /opt/verbatim
# Its pip stays here: the service never installs anything.
RUN python -m venv --without-pip /opt/venv
COPY requirements.lock ./
RUN pip install --require-hashes -r requirements.lock
COPY requirements-local.lock pyproject.toml README.md LICENSE ./
COPY app app
# flit_core writes the console script and the version, reaches no network, and goes.
RUN sed -n '/^flit-core==/,/^[^ ]/ { /^flit-core==\|^ /p }' requirements-local.lock >/tmp/flit_core.lock \
 && pip install --require-hashes -r /tmp/flit_core.lock \
 && pip install --no-index --no-deps --no-build-isolation --editable . \
 && pip uninstall --yes flit_core \
 && python -m compileall -q app

FROM python:3.13-slim
LABEL org.opencontainers.image.title="Verbatim" \
      org.opencontainers.image.description="The store of record for conversations between people and language models." \
      org.opencontainers.image.licenses="MIT"
RUN useradd --uid 10001 --user-group --no-create-home --home-dir /nonexistent --shell /usr/sbin/nologin verbatim \
 && pip uninstall --yes --quiet --root-user-action=ignore pip
ENV PATH=/opt/venv/bin:$PATH PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1 VERBATIM_HOST=0.0.0.0
WORKDIR /opt/verbatim
COPY --from=build /opt/venv /opt/venv
COPY --from=build /opt/verbatim/app app
COPY sql sql
COPY migrations migrations
USER 10001:10001
EXPOSE 8000
# The process lives and answers. Whether its database does is /readyz, for those who send traffic.
HEALTHCHECK --interval=5s --timeout=3s --start-period=10s CMD ["python", "-c", "import os, urllib.request as r; r.build_opener(r.ProxyHandler({})).open(f\"http://127.0.0.1:{os.environ.get('VERBATIM_PORT') or 8000}/healthz\", timeout=2)"]
ENTRYPOINT ["verbatim"]
CMD ["serve"]
