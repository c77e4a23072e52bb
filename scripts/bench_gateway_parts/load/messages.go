package main

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"strconv"
)

// message reads one HTTP/1.1 message after the other from a connection.
type message struct {
	in    *bufio.Reader
	first []byte // the request line or the status line, as long as nothing else is read
	kept  [512]byte
	// How much of the body is left: of it all, or of one chunk.
	left      int64
	isChunked bool
	isOver    bool
}

// head reads up to the body, whose length or chunks Read then follows.
func (m *message) head() error {
	line, err := m.in.ReadSlice('\n')
	if err != nil {
		return err
	}
	m.first = m.kept[:copy(m.kept[:], bytes.TrimRight(line, "\r\n"))]
	m.left, m.isChunked, m.isOver = 0, false, false
	for {
		if line, err = m.in.ReadSlice('\n'); err != nil {
			return err
		}
		name, value, found := bytes.Cut(bytes.TrimRight(line, "\r\n"), []byte(":"))
		if !found {
			m.isOver = !m.isChunked && m.left == 0
			return nil
		}
		switch len(name) {
		case len("content-length"):
			if bytes.EqualFold(name, []byte("content-length")) {
				if m.left, err = strconv.ParseInt(string(bytes.TrimSpace(value)), 10, 64); err != nil {
					return err
				}
			}
		case len("transfer-encoding"):
			if bytes.EqualFold(name, []byte("transfer-encoding")) {
				m.isChunked = true
			}
		}
	}
}

// Read takes the body only, io.EOF at its end.
func (m *message) Read(into []byte) (int, error) {
	if m.isOver {
		return 0, io.EOF
	}
	if m.isChunked && m.left == 0 {
		if err := m.chunk(); err != nil || m.isOver {
			return 0, eof(err)
		}
	}
	n, err := m.in.Read(into[:min(int64(len(into)), m.left)])
	m.left -= int64(n)
	if m.left == 0 && err == nil {
		if m.isChunked {
			_, err = m.in.Discard(2)
		} else {
			m.isOver = true
		}
	}
	if err == io.EOF {
		err = io.ErrUnexpectedEOF
	}
	return n, err
}

func (m *message) chunk() error {
	line, err := m.in.ReadSlice('\n')
	if err != nil {
		return err
	}
	size, _, _ := bytes.Cut(bytes.TrimSpace(line), []byte(";"))
	if m.left, err = strconv.ParseInt(string(size), 16, 64); err != nil {
		return fmt.Errorf("no size of a chunk: %q", line)
	}
	if m.left == 0 {
		m.isOver = true
		_, err = m.in.Discard(2) // none of these sends trailers
	}
	return err
}

func eof(err error) error {
	if err == nil || err == io.EOF {
		return io.EOF
	}
	return err
}
