# The image of one Parley node: the static binary and nothing else.
#
# It is built from golang:1.26. Where that image cannot be pulled,
# deploy/base-image.sh makes a stand-in from the Go toolchain of this machine.
FROM golang:1.26 AS build
WORKDIR /src

# Module settings of the machine that builds. Empty means Go's own defaults.
ARG GOPROXY
ARG GOSUMDB
ARG GONOSUMDB
ARG GONOPROXY
ARG GOPRIVATE
ARG GOINSECURE

COPY go.mod go.sum ./
RUN go mod download

COPY . .
# What a node writes belongs to its user (65532); volumes that are mounted over
# these directories inherit owner and mode. The program itself belongs to root.
RUN mkdir -p /out/program/bin /out/state/data /out/state/certs \
 && chmod 0700 /out/state/data /out/state/certs \
 && CGO_ENABLED=0 go build -trimpath -ldflags='-s -w' -o /out/program/bin/parley ./cmd/parley

FROM scratch
COPY --from=build /out/program/ /
COPY --from=build --chown=65532:65532 /out/state/ /
USER 65532:65532
WORKDIR /data
VOLUME ["/data"]
EXPOSE 3000 7000 8080
STOPSIGNAL SIGTERM
ENTRYPOINT ["/bin/parley"]
CMD ["serve"]
