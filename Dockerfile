# One image for everything of ours: the program `surge`, which plays each service, the batch job and the load generator.
#   docker build -t surge .
# The dependencies are a layer of their own: they are compiled again when Cargo.lock changes, not when a source does.
# No BuildKit is needed, and nothing secret is in any layer: passwords and keys come from the environment at the start.

ARG RUST=1.95

# --- the outline: manifests with empty sources, all that cargo needs to compile the dependencies ---------------------
FROM rust:${RUST}-slim-bookworm AS outline
WORKDIR /project
COPY . .
# What is empty compiles to nothing, and what is not there is not missed: migrations, protos, tests.
RUN find . -type f ! -name Cargo.toml ! -name Cargo.lock ! -name release.toml ! -path '*/src/lib.rs' ! -path '*/src/main.rs' \
      ! -name build.rs -delete \
 && find . -name lib.rs -exec sh -c ': >"$0"' {} \; \
 && find . -name main.rs -o -name build.rs | while read -r program; do echo 'fn main() {}' >"$program"; done

# --- the build ----------------------------------------------------------------------------------------------------
FROM rust:${RUST}-slim-bookworm AS build
WORKDIR /project
ENV CARGO_PROFILE_RELEASE_STRIP=debuginfo
COPY --from=outline /project .
RUN cargo build --release --config release.toml --locked --package surge
COPY . .
# Cargo goes by time, and the outline was compiled after the sources were last changed. What is in target/ keeps its time, or
# the dependencies that generate sources would be compiled again, and all that stand on them.
RUN find . -path ./target -prune -o -name '*.rs' -exec touch {} + \
 && cargo build --release --config release.toml --locked --package surge
RUN mkdir -p /image/usr/local/bin /image/surge/data \
 && cp target/release/surge /image/usr/local/bin/ \
 && cp data/demand-profile.json data/uber-pickups-2014-04.csv.gz /image/surge/data/

# --- what runs: glibc, certificates, and no shell -------------------------------------------------------------------
FROM gcr.io/distroless/cc-debian12:nonroot
LABEL org.opencontainers.image.title="surge" \
      org.opencontainers.image.licenses="Apache-2.0"
COPY --from=build /image /
# As in the project folder: `compare` finds its data here, and writes to report/.
WORKDIR /surge
ENV DEMAND_PROFILE=/surge/data/demand-profile.json
USER 65532:65532
ENTRYPOINT ["/usr/local/bin/surge"]
CMD ["--help"]
