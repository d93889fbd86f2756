# jotgate in a container: the binary and nothing else, no shell, no root.
#
#   docker build -t jotgate .
#   docker run --read-only -p 8080:8080 -v ./gateway.toml:/etc/jotgate/gateway.toml:ro jotgate

FROM rust:1-bookworm AS build
WORKDIR /src
COPY . .
RUN cargo build --release --locked --bin jotgate

# glibc, certificate authorities, a user without rights.
FROM gcr.io/distroless/cc-debian12:nonroot
COPY --from=build /src/target/release/jotgate /usr/bin/jotgate
ENV JOTGATE_CONFIG=/etc/jotgate/gateway.toml
EXPOSE 8080
STOPSIGNAL SIGTERM
# Needs the [admin] section, at its usual address 127.0.0.1:9901.
HEALTHCHECK --interval=10s --timeout=5s --start-period=10s CMD ["/usr/bin/jotgate", "health"]
ENTRYPOINT ["/usr/bin/jotgate"]
CMD ["run"]
