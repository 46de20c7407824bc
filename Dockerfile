# The service alone in an image: no shell, no package manager, no root.
#
#   docker build -t ably-clerk-auth .
#   docker run --rm -p 8080:8080 --env-file .env ably-clerk-auth

FROM rust:1.95.0-slim-bookworm AS build

# The image has the toolchain that rust-toolchain.toml names. Without that file, rustup downloads nothing.
ENV RUSTUP_TOOLCHAIN=1.95.0
WORKDIR /build

# The dependencies, with empty sources: this layer is rebuilt only when a manifest or the lock file changes.
# Cargo needs the manifests of all workspace members. Only the service is built.
COPY Cargo.toml Cargo.lock ./
COPY benches/instructions/Cargo.toml benches/instructions/
COPY sandbox/Cargo.toml sandbox/
RUN mkdir -p src benches/micro benches/instructions/src sandbox/src \
    && touch src/lib.rs benches/micro/main.rs benches/instructions/src/main.rs sandbox/src/lib.rs \
    && echo 'fn main() {}' > src/main.rs \
    && cargo build --release --locked -p ably-clerk-auth

# The binary includes openapi.yaml, and the example file for its defaults.
# Cargo compares modification times, and the sources may be older than the empty ones above.
COPY openapi.yaml ably-clerk-auth.example.toml ./
COPY src src
RUN find src -name '*.rs' -exec touch {} + \
    && cargo build --release --locked -p ably-clerk-auth

# The binary, its shared libraries, and the CA certificates. The last line checks that it runs with these alone.
RUN install -D target/release/ably-clerk-auth /rootfs/usr/bin/ably-clerk-auth \
    && install -D -m 644 /etc/ssl/certs/ca-certificates.crt /rootfs/etc/ssl/certs/ca-certificates.crt \
    && ldd target/release/ably-clerk-auth | grep -o '/[^ ]*' | xargs -I{} cp -L --parents {} /rootfs \
    && chroot /rootfs /usr/bin/ably-clerk-auth --version

# The licences of the service, of its crates, of Rust's standard library, and of Debian's files.
COPY LICENSE ./
COPY deploy/third-party-licenses deploy/
RUN install -D -m 644 LICENSE /rootfs/usr/share/doc/ably-clerk-auth/LICENSE \
    && deploy/third-party-licenses > /rootfs/usr/share/doc/ably-clerk-auth/THIRD-PARTY-LICENSES.txt \
    && install -m 644 "$(rustc --print sysroot)/share/doc/rust/COPYRIGHT-library.html" /rootfs/usr/share/doc/ably-clerk-auth/
RUN cp -a /usr/share/common-licenses /rootfs/usr/share/ \
    && cd /usr/share/doc \
    && cp -L --parents libc6/copyright libgcc-s1/copyright ca-certificates/copyright /rootfs/usr/share/doc/

FROM scratch
COPY --from=build /rootfs /
ENV SERVER_HOST=0.0.0.0
# The directory of ably-clerk-auth.toml. Mount the directory, not the file.
WORKDIR /etc/ably-clerk-auth
USER 65532:65532
# The admin listener, port 9464, is reachable in the container only, unless ADMIN_HOST is set.
EXPOSE 8080
HEALTHCHECK --interval=10s --timeout=3s --start-period=5s CMD ["/usr/bin/ably-clerk-auth", "healthcheck"]
ENTRYPOINT ["/usr/bin/ably-clerk-auth"]
