FROM golang:1.26 AS build
WORKDIR /src
COPY go.mod go.sum ./
RUN go mod download
COPY api api
COPY cmd cmd
COPY config/database config/database
COPY controllers controllers
RUN CGO_ENABLED=0 go build -trimpath -ldflags '-s -w' -o / ./cmd/...

# Nothing but the manager, the status page's program and the certificate authorities by which it knows far sides.
FROM scratch
COPY --from=build /etc/ssl/certs/ca-certificates.crt /etc/ssl/certs/
COPY --from=build /manager /statuspage /
USER 65532:65532
ENTRYPOINT ["/manager"]
