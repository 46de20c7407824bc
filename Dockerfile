# The service alone in an image: no shell, no package manager, no root.
#
#   docker build -t ably-clerk-auth .
#   docker run --rm -p 8080:8080 --env-file .env ably-clerk-auth

FROM rust:1.95.0-slim-bookworm AS build

# The toolchain of the image is the one that rust-toolchain.toml names; that file stays out, so nothing is downloaded.
ENV RUSTUP_TOOLCHAIN=1.95.0
WORKDIR /build

# Dependencies first, around empty sources: this layer is built anew only when a manifest or the lock file changes.
# The sandbox is a member of the workspace, so its manifest must be there; it is not built.
COPY Cargo.toml Cargo.lock ./
COPY sandbox/Cargo.toml sandbox/
RUN mkdir -p src benches sandbox/src \
    && touch src/lib.rs benches/policy.rs sandbox/src/lib.rs \
    && echo 'fn main() {}' > src/main.rs \
    && cargo build --release --locked -p ably-clerk-auth

# Cargo goes by modification times, and the sources may be older than the empty ones above.
# The example file is compiled in: it holds the defaults.
COPY openapi.yaml ably-clerk-auth.example.toml ./
COPY src src
RUN find src -name '*.rs' -exec touch {} + \
    && cargo build --release --locked -p ably-clerk-auth

# What the service needs to run: itself, the shared libraries that it names, and the certificates that it trusts.
# The last line runs it with nothing else in reach.
RUN install -D target/release/ably-clerk-auth /rootfs/usr/bin/ably-clerk-auth \
    && install -D -m 644 /etc/ssl/certs/ca-certificates.crt /rootfs/etc/ssl/certs/ca-certificates.crt \
    && ldd target/release/ably-clerk-auth | grep -o '/[^ ]*' | xargs -I{} cp -L --parents {} /rootfs \
    && chroot /rootfs /usr/bin/ably-clerk-auth --version

# The licences of all that is in the image: the service's own, and those of the crates, of Rust's standard library, and of
# Debian's files.
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
# Where ably-clerk-auth.toml is looked for: mount a directory here.
WORKDIR /etc/ably-clerk-auth
USER 65532:65532
# The admin listener, 9464, is at the container's own 127.0.0.1 unless ADMIN_HOST says otherwise.
EXPOSE 8080
HEALTHCHECK --interval=10s --timeout=3s --start-period=5s CMD ["/usr/bin/ably-clerk-auth", "healthcheck"]
ENTRYPOINT ["/usr/bin/ably-clerk-auth"]
