FROM python:3.12-slim AS build
WORKDIR /src
COPY pyproject.toml README.md LICENSE ./
COPY schemas schemas
COPY runners runners
COPY consumer consumer
RUN python -m venv /opt/jetrunner \
 && /opt/jetrunner/bin/pip install --no-cache-dir --disable-pip-version-check '.[prometheus]'

FROM python:3.12-slim
COPY --from=build /opt/jetrunner /opt/jetrunner
# A volume that is mounted on the state directory takes over its owner.
RUN useradd --system --uid 10001 --create-home jetrunner \
 && install --directory --owner jetrunner /var/lib/jetrunner
ENV PATH=/opt/jetrunner/bin:$PATH \
    XDG_DATA_HOME=/var/lib/jetrunner
USER jetrunner
WORKDIR /home/jetrunner
HEALTHCHECK --interval=10s --timeout=10s --start-period=30s CMD ["jetrunner", "worker", "health"]
ENTRYPOINT ["jetrunner"]
CMD ["worker"]
