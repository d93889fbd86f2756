# jotgate in a container: the binary and nothing else, no shell, no root.
#
#   docker build -t jotgate .
#   docker run --read-only -p 8080:8080 -v ./conf:/etc/jotgate:ro -v jotgate:/var/lib/jotgate jotgate
#
# conf/ holds gateway.toml. A folder, because a file that is mounted alone stays the old one when an editor renames a new one into its place.

FROM rust:1-bookworm AS build
WORKDIR /src
COPY . .
# Addresses that the loader fills in take a twentieth of the file, unless they are packed (glibc 2.36 and later).
ENV RUSTFLAGS="-C link-arg=-Wl,-z,pack-relative-relocs"
# Built twice, the second time by a profile of its own work: docs/adr/0016.
RUN rustup component add llvm-tools \
 && apt-get update && apt-get install -y --no-install-recommends curl openssl python3
RUN scripts/pgo
# The program without symbols (a panic says its place all the same), the few libraries that it asks for, and the authorities whose
# certificates are believed. Names are resolved by glibc and by the program itself, so that nothing else is needed.
RUN mkdir -p /state /image/usr/bin /image/etc/ssl/certs \
 && strip -o /image/usr/bin/jotgate target/pgo/jotgate \
 && cp -L --parents $(ldd target/pgo/jotgate | grep -o '/[^ ]*') /image \
 && cp /etc/ssl/certs/ca-certificates.crt /image/etc/ssl/certs/

FROM scratch
COPY --from=build /image /
# For denylist.path and jwks_cache: mount a volume here.
COPY --from=build --chown=65532:65532 /state /var/lib/jotgate
# Nobody, without rights.
USER 65532:65532
ENV JOTGATE_CONFIG=/etc/jotgate/gateway.toml
EXPOSE 8080
STOPSIGNAL SIGTERM
# Needs the [admin] section, at its usual address 127.0.0.1:9901.
HEALTHCHECK --interval=10s --timeout=5s --start-period=10s CMD ["/usr/bin/jotgate", "health"]
ENTRYPOINT ["/usr/bin/jotgate"]
CMD ["run"]
