package main

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"net"
	"strconv"
	"time"
)

// An Ollama that answers at once, or piece by piece: just enough of one for gateways to believe it.

const (
	model = `"name":"bench:latest","model":"bench:latest","modified_at":"2026-01-01T00:00:00Z","size":1000000,` +
		`"digest":"aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",` +
		`"details":{"format":"gguf","family":"llama"}`
	begin = `{"id":"c1","object":"chat.completion.chunk","created":1,"model":"bench","choices":[{"index":0,"delta":`
)

var answers = map[string][]byte{
	"/api/tags":    whole(`{"models":[{` + model + `}]}`),
	"/api/version": whole(`{"version":"0.32.15"}`),
	"/api/ps": whole(`{"models":[{` + model + `,"size_vram":1000000,"expires_at":"2099-01-01T00:00:00Z",` +
		`"context_length":8192}]}`),
	"/v1/models": whole(`{"object":"list","data":[{"id":"bench","object":"model","created":1,"owned_by":"library"}]}`),
	"/v1/chat/completions": whole(`{"id":"c1","object":"chat.completion","created":1,"model":"bench","choices":[` +
		`{"index":0,"message":{"role":"assistant","content":"Hello"},"finish_reason":"stop"}],` +
		`"usage":{"prompt_tokens":5,"completion_tokens":1,"total_tokens":6}}`),
}

// loaded is what a load is answered with, and whatever else is asked.
var loaded = whole(`{"model":"bench","created_at":"2026-01-01T00:00:00Z","done":true,"done_reason":"load"}`)

func whole(body string) []byte {
	return fmt.Appendf(nil, "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%s",
		len(body), body)
}

func serve(port, pieces int, pace time.Duration) error {
	listener, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", port))
	if err != nil {
		return err
	}
	fmt.Println("ready")
	for {
		connection, err := listener.Accept()
		if err != nil {
			return err
		}
		go answerAll(connection, pieces, pace)
	}
}

// answerAll ends with the connection, as whoever is on the other side may end it at any time.
func answerAll(connection net.Conn, pieces int, pace time.Duration) {
	defer connection.Close()
	asked := message{in: bufio.NewReaderSize(connection, 16*1024)}
	body := make([]byte, 0, 128*1024)
	for {
		if asked.head() != nil {
			return
		}
		body = body[:0]
		for !asked.isOver {
			if len(body) == cap(body) {
				body = append(body, 0)[:len(body)]
			}
			n, err := asked.Read(body[len(body):cap(body)])
			body = body[:len(body)+n]
			if err == io.EOF {
				break
			} else if err != nil {
				return
			}
		}
		_, path, _ := bytes.Cut(asked.first, []byte(" "))
		path, _, _ = bytes.Cut(path, []byte(" "))
		var err error
		if string(path) == "/v1/chat/completions" && wantsStream(body) {
			err = stream(connection, pieces, pace)
		} else if answer, found := answers[string(path)]; found {
			_, err = connection.Write(answer)
		} else {
			_, err = connection.Write(loaded)
		}
		if err != nil {
			return
		}
	}
}

func wantsStream(body []byte) bool {
	_, after, found := bytes.Cut(body, []byte(`"stream"`))
	return found && bytes.HasPrefix(bytes.TrimLeft(after, ": "), []byte("true"))
}

func stream(out io.Writer, pieces int, pace time.Duration) error {
	start := time.Now()
	text := []byte("HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n")
	for number := 1; number <= pieces; number++ {
		made := strconv.FormatInt(time.Now().UnixNano(), 10)
		text = chunk(text, `data: `+begin+`{"content":"`+made+`"},"finish_reason":null}]}`+"\n\n")
		if _, err := out.Write(text); err != nil {
			return err
		}
		text = text[:0]
		time.Sleep(time.Until(start.Add(time.Duration(number) * pace)))
	}
	text = chunk(text, `data: `+begin+`{},"finish_reason":"stop"}]}`+"\n\ndata: [DONE]\n\n")
	_, err := out.Write(append(text, "0\r\n\r\n"...))
	return err
}

func chunk(text []byte, data string) []byte {
	return fmt.Appendf(text, "%x\r\n%s\r\n", len(data), data)
}
