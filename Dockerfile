# syntax=docker/dockerfile:1
# The gateway in a container: deploy/README.md says how to build and run it.
ARG PYTHON=3.11-slim-bookworm

# --- build: a compiler, to make the wheel with the relay compiled ------------------------------------------------------
FROM python:${PYTHON} AS build
RUN apt-get update \
 && apt-get install --yes --no-install-recommends gcc libc6-dev \
 && rm -rf /var/lib/apt/lists/*
WORKDIR /src
COPY pyproject.toml setup.py README.md LICENSE ./
COPY gateway ./gateway
RUN pip wheel --no-cache-dir --no-deps --wheel-dir /wheels .
# The environment as it goes to the next stage: no pip in it, and the build fails if the relay is not compiled.
RUN python -m venv --without-pip /opt/gateway \
 && pip --python /opt/gateway/bin/python install --no-cache-dir /wheels/*.whl \
 && /opt/gateway/bin/python -P -c "from gateway.build import relay_build; assert relay_build() == 'compiled'"

# --- run: no compiler, no root -----------------------------------------------------------------------------------------
FROM python:${PYTHON}
LABEL org.opencontainers.image.title="upgrade-gateway" \
      org.opencontainers.image.licenses="Apache-2.0"
RUN groupadd --system --gid 10001 gateway \
 && useradd --system --uid 10001 --gid gateway --no-create-home --shell /usr/sbin/nologin gateway
COPY --from=build /opt/gateway /opt/gateway
ENV PATH=/opt/gateway/bin:$PATH \
    GATEWAY_CONFIG=/etc/gateway/gateway.yaml \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1
USER 10001:10001
WORKDIR /
# What deploy/gateway.yaml listens on: clients, and the admin address.
EXPOSE 8080 9100
# Not by `gateway status -c …`: a file that was edited and is wrong must not make a gateway that runs unhealthy.
HEALTHCHECK --interval=10s --timeout=5s --start-period=15s --retries=3 \
    CMD ["python", "-I", "-c", "import http.client as h; c = h.HTTPConnection('127.0.0.1', 9100, timeout=3); c.request('GET', '/healthz'); raise SystemExit(c.getresponse().status != 200)"]
# Drains: tunnels are closed over drain.period, and have timeouts.close to answer. Give it the time (docker stop --time 45).
STOPSIGNAL SIGTERM
ENTRYPOINT ["gateway"]
CMD ["run", "-c", "/etc/gateway/gateway.yaml"]
