// Upstream and load of scripts/bench_gateway, with nothing between them and the sockets, so that a gateway under load is
// busy long before they are. Each prints lines of JSON, or "ready". python_load.py beside this folder does the same.
package main

import (
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"strings"
	"time"
)

func main() {
	if len(os.Args) < 2 {
		fail(fmt.Errorf("say upstream, requests or streams"))
	}
	flags := flag.NewFlagSet(os.Args[1], flag.ExitOnError)
	port := flags.Int("port", 0, "of the upstream, or of what is measured")
	pieces := flags.Int("pieces", 60, "of one stream")
	pace := flags.Duration("pace", 50*time.Millisecond, "between two pieces of a stream")
	path := flags.String("path", "/v1/chat/completions", "where requests go")
	key := flags.String("key", "none", "which they bear")
	at := flags.Int("connections", 64, "how many at once")
	seconds := flags.Float64("seconds", 0, "for how long requests are sent")
	count := flags.Int64("count", 0, "how many requests are sent, where it is no time that ends them")
	body := flags.Int("body", 0, "bytes of a request's message")
	rounds := flags.Int("rounds", 1, "streams that each caller reads, one after the other")
	flags.Parse(os.Args[2:])

	switch os.Args[1] {
	case "upstream":
		fail(serve(*port, *pieces, *pace))
	case "requests":
		c := caller{port: *port, request: request(*path, *key, false, *body)}
		tell(c.requests(*at, *seconds, *count))
	case "streams":
		c := caller{port: *port, request: request(*path, *key, true, *body)}
		tell(c.streams(*at, *rounds, *pieces))
	default:
		fail(fmt.Errorf("%q is neither upstream, requests nor streams", os.Args[1]))
	}
}

func request(path, key string, stream bool, size int) []byte {
	content := "hi" + strings.Repeat(" and so on", size/10)
	body := fmt.Sprintf(`{"model":"bench","stream":%t,"messages":[{"role":"user","content":"%s"}]}`, stream, content)
	head := fmt.Sprintf("POST %s HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer %s\r\n"+
		"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n", path, key, len(body))
	return []byte(head + body)
}

func tell(figures any, err error) {
	if err == nil {
		err = json.NewEncoder(os.Stdout).Encode(figures)
	}
	if err != nil {
		fail(err)
	}
}

func fail(err error) {
	fmt.Fprintln(os.Stderr, "error:", err)
	os.Exit(1)
}
