# Two stages: one compiles, the other has the binary and the C library, no shell, no package manager, no root.

# The version that the profile of release builds is of (profile/made-of).
FROM rust:1.95.0-bookworm AS build
WORKDIR /src
COPY Cargo.toml Cargo.lock ./
COPY src src
COPY config config
COPY benches benches
COPY .cargo .cargo
COPY profile profile
RUN cargo build --release --locked --bin shardgate
RUN strip --strip-debug target/release/shardgate

FROM gcr.io/distroless/cc-debian12:nonroot
COPY --from=build /src/target/release/shardgate /usr/bin/shardgate
COPY --from=build /src/config/shardgate.toml /etc/shardgate/shardgate.toml
# 65532, `nonroot`: ports below 1024 are not for it; map them outside.
USER 65532:65532
EXPOSE 8080
# SIGTERM drains. The supervisor should wait longer than server.drain_delay + server.drain_timeout.
STOPSIGNAL SIGTERM
ENTRYPOINT ["/usr/bin/shardgate"]
CMD ["run"]
