# jotgate in a container: the binary and nothing else, no shell, no root.
#
#   docker build -t jotgate .
#   docker run --read-only -p 8080:8080 -v ./conf:/etc/jotgate:ro -v jotgate:/var/lib/jotgate jotgate
#
# conf/ holds gateway.toml. A folder, because a file that is mounted alone stays the old one when an editor renames a new one into its place.

FROM rust:1-bookworm AS build
WORKDIR /src
COPY . .
# Line tables are three quarters of the file, and serve debuggers alone.
RUN cargo build --release --locked --bin jotgate && strip --strip-debug target/release/jotgate && mkdir /state

# glibc, which resolves names, libgcc, certificate authorities, a user without rights (65532).
FROM gcr.io/distroless/cc-debian12:nonroot
COPY --from=build /src/target/release/jotgate /usr/bin/jotgate
# For denylist.path and jwks_cache: mount a volume here.
COPY --from=build --chown=65532:65532 /state /var/lib/jotgate
ENV JOTGATE_CONFIG=/etc/jotgate/gateway.toml
EXPOSE 8080
STOPSIGNAL SIGTERM
# Needs the [admin] section, at its usual address 127.0.0.1:9901.
HEALTHCHECK --interval=10s --timeout=5s --start-period=10s CMD ["/usr/bin/jotgate", "health"]
ENTRYPOINT ["/usr/bin/jotgate"]
CMD ["run"]
