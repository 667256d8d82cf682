#!/usr/bin/env bash
# Makes sure that the image golang:1.26, on which the Dockerfile builds, exists.
#
# Where it exists, nothing happens. Where it can be pulled, it is pulled. On a
# machine without an image registry a stand-in is made under the same name, from
# what the machine has: its Go toolchain, its CA certificates and busybox.
#
# usage: deploy/base-image.sh
#   BASE_IMAGE    image to provide           (default golang:1.26)
#   PULL_TIMEOUT  patience with the registry (default 120s)
set -euo pipefail

image=${BASE_IMAGE:-golang:1.26}

say() { printf 'base-image: %s\n' "$*" >&2; }
die() { say "$*"; exit 1; }

docker version >/dev/null 2>&1 || die "no Docker engine answers"

if docker image inspect "$image" >/dev/null 2>&1; then
  say "$image is here"
  exit 0
fi
if timeout "${PULL_TIMEOUT:-120s}" docker pull --quiet "$image" >/dev/null 2>&1; then
  say "$image pulled"
  exit 0
fi
say "$image cannot be pulled; making a stand-in from this machine's Go toolchain"

command -v go >/dev/null || die "the stand-in needs a Go toolchain on this machine"
want=${image##*:}
have=$(go env GOVERSION)
case $have in
  go"$want" | go"$want".*) ;;
  *) die "the stand-in needs Go $want, this machine has $have" ;;
esac

root=$(mktemp -d)
trap 'rm -rf "$root"' EXIT
mkdir -p "$root"/{bin,etc/ssl/certs,go,root,usr/local,var/tmp}
mkdir -m 1777 "$root/tmp"

# A statically linked busybox is the shell, mkdir and so on of the build stage.
find_busybox() {
  local path
  for path in "$(command -v busybox || true)" /bin/busybox /usr/bin/busybox; do
    if [ -x "$path" ] && ! ldd "$path" >/dev/null 2>&1; then
      cp -L "$path" "$root/bin/busybox"
      return
    fi
  done
  command -v apt-get >/dev/null || return 1
  (
    cd "$root/var/tmp"
    apt-get download busybox-static >/dev/null 2>&1 ||
      { apt-get update -qq >/dev/null 2>&1 && apt-get download busybox-static >/dev/null 2>&1; }
    dpkg-deb -x busybox-static_*.deb unpacked
  ) || return 1
  cp "$root"/var/tmp/unpacked/bin/busybox "$root/bin/busybox" 2>/dev/null ||
    cp "$root"/var/tmp/unpacked/usr/bin/busybox "$root/bin/busybox"
  rm -rf "$root"/var/tmp/*
}
find_busybox || die "no static busybox: install busybox-static"
for applet in $("$root/bin/busybox" --list); do
  [ "$applet" = busybox ] || ln -s busybox "$root/bin/$applet"
done

for bundle in "${SSL_CERT_FILE:-}" /etc/ssl/certs/ca-certificates.crt /etc/pki/tls/certs/ca-bundle.crt /etc/ssl/cert.pem; do
  if [ -n "$bundle" ] && [ -r "$bundle" ]; then
    cp -L "$bundle" "$root/etc/ssl/certs/ca-certificates.crt"
    break
  fi
done
echo 'root:x:0:0:root:/root:/bin/sh' >"$root/etc/passwd"
echo 'root:x:0:' >"$root/etc/group"
echo 'hosts: files dns' >"$root/etc/nsswitch.conf"

# The toolchain without its own tests and documents. Settings made with
# `go env -w` would stay behind on this machine, so those about modules go along.
goroot=$(go env GOROOT)
changes=(--change 'ENV PATH=/usr/local/go/bin:/bin' --change 'ENV GOPATH=/go' --change 'ENV GOTOOLCHAIN=local')
changes+=(--change 'WORKDIR /go')
for name in GOPROXY GOSUMDB GONOSUMDB GONOPROXY GOPRIVATE GOINSECURE; do
  value=$(go env "$name")
  [ -z "$value" ] || changes+=(--change "ENV $name=$value")
done
tar -C "$root" --numeric-owner --owner=0 --group=0 -cf - . \
    --transform "s,^${goroot#/},usr/local/go," \
    --exclude="${goroot#/}/test" --exclude="${goroot#/}/api" --exclude="${goroot#/}/doc" --exclude="testdata" \
    -C / "${goroot#/}" |
  docker import "${changes[@]}" --message "stand-in for $image" - "$image" >/dev/null
say "$image made: $have, $("$root/bin/busybox" | sed -n '1s/ (.*//p')"
