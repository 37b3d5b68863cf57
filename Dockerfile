# One image for everything of ours: the program `surge` runs each service, the batch job and the load generator.
#   docker build -t surge .
# The dependencies have a layer of their own: Docker compiles them again when Cargo.lock changes, not when a
# source changes. The build needs no BuildKit. No layer contains a secret: passwords and keys come from the
# environment at the start.

ARG RUST=1.95

# --- the outline: manifests with empty sources, enough for cargo to compile the dependencies -------------------------
FROM rust:${RUST}-slim-bookworm AS outline
WORKDIR /project
COPY . .
# An empty source compiles to nothing. Nothing needs the deleted files here: migrations, protos, tests.
# The crate `protoc` keeps its source: the build script of a dependency runs it.
RUN find . -type f ! -name Cargo.toml ! -name Cargo.lock ! -name release.toml ! -path '*/src/lib.rs' ! -path '*/src/main.rs' \
      ! -name build.rs ! -path './.cargo/*' -delete \
 && find . -name lib.rs -exec sh -c ': >"$0"' {} \; \
 && find . -name main.rs ! -path './crates/protoc/*' -o -name build.rs | while read -r program; do echo 'fn main() {}' >"$program"; done

# --- the build ----------------------------------------------------------------------------------------------------
FROM rust:${RUST}-slim-bookworm AS build
WORKDIR /project
ENV CARGO_PROFILE_RELEASE_STRIP=debuginfo CARGO_TARGET_DIR=/project/target
COPY --from=outline /project .
RUN cargo build --release --config release.toml --locked --package surge
COPY . .
# Cargo compares file times, and the outline was compiled after the last change of the sources; so `touch`
# makes the sources newer. Files in target/ keep their time. Otherwise cargo would compile again the
# dependencies that generate sources, and everything that depends on them.
RUN find . -path ./target -prune -o -name '*.rs' -exec touch {} + \
 && cargo build --release --config release.toml --locked --package surge
RUN mkdir -p /image/usr/local/bin /image/surge/data \
 && cp target/release/surge /image/usr/local/bin/ \
 && cp data/demand-profile.json data/uber-pickups-2014-04.csv.gz /image/surge/data/

# --- the image: glibc, certificates, and no shell -------------------------------------------------------------------
FROM gcr.io/distroless/cc-debian12:nonroot
LABEL org.opencontainers.image.title="surge" \
      org.opencontainers.image.licenses="Apache-2.0"
COPY --from=build /image /
# As in the project folder: `compare` finds its data here and writes to report/.
WORKDIR /surge
ENV DEMAND_PROFILE=/surge/data/demand-profile.json
USER 65532:65532
ENTRYPOINT ["/usr/local/bin/surge"]
CMD ["--help"]
