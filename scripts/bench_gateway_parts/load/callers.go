package main

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"math"
	"net"
	"sort"
	"strconv"
	"sync"
	"sync/atomic"
	"time"
)

// caller sends one request again and again, each time the one before is answered.
type caller struct {
	port    int
	request []byte
}

type exchange struct {
	connection net.Conn
	answer     message
}

func (c caller) connect() (*exchange, error) {
	connection, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", c.port))
	if err != nil {
		return nil, err
	}
	return &exchange{connection, message{in: bufio.NewReaderSize(connection, 16*1024)}}, nil
}

func (e *exchange) ask(request []byte) error {
	if _, err := e.connection.Write(request); err != nil {
		return err
	}
	if err := e.answer.head(); err != nil {
		return err
	}
	if !bytes.Contains(e.answer.first, []byte(" 200")) {
		text, _ := io.ReadAll(io.LimitReader(&e.answer, 500))
		return fmt.Errorf("answered %q %q", e.answer.first, text)
	}
	return nil
}

// all runs one function for each caller side by side, and ends with the first error.
func (c caller) all(connections int, work func(number int, e *exchange) error) error {
	var group sync.WaitGroup
	errs := make(chan error, connections)
	for number := range connections {
		group.Add(1)
		go func() {
			defer group.Done()
			e, err := c.connect()
			if err == nil {
				err = work(number, e)
				e.connection.Close()
			}
			if err != nil {
				errs <- err
			}
		}()
	}
	group.Wait()
	close(errs)
	return <-errs
}

type rate struct {
	Requests int64   `json:"requests"`
	Seconds  float64 `json:"seconds"`
}

func (c caller) requests(connections int, seconds float64, count int64) (rate, error) {
	var done atomic.Int64
	began := time.Now()
	until := began.Add(time.Duration(seconds * float64(time.Second)))
	isOver := func(sent int) bool {
		if count > 0 {
			return done.Add(1) > count
		}
		return sent > 0 && time.Now().After(until)
	}
	err := c.all(connections, func(_ int, e *exchange) error {
		for sent := 0; !isOver(sent); sent++ {
			if err := e.ask(c.request); err != nil {
				return err
			}
			if _, err := io.Copy(io.Discard, &e.answer); err != nil {
				return err
			}
			if count == 0 {
				done.Add(1)
			}
		}
		return nil
	})
	if count == 0 {
		count = done.Load()
	}
	return rate{count, time.Since(began).Seconds()}, err
}

type lateness struct {
	FirstP50 float64 `json:"first_p50_ms"`
	FirstP95 float64 `json:"first_p95_ms"`
	LateP50  float64 `json:"late_p50_ms"`
	LateP95  float64 `json:"late_p95_ms"`
	Rate     float64 `json:"pieces_per_second"`
	Pieces   int     `json:"pieces"`
	Cut      int     `json:"cut"`
}

// seen is what callers see: the time from asking to the first piece, and from a piece's making to its coming.
type seen struct {
	first, late []time.Duration
	cut         int
}

func (c caller) streams(connections, rounds, pieces int) (lateness, error) {
	each := make([]seen, connections)
	began := time.Now()
	err := c.all(connections, func(number int, e *exchange) error {
		// Beginnings are spread evenly over a second, and over the time between two pieces.
		_, share := math.Modf(float64(number) * math.Phi)
		time.Sleep(time.Duration(share * float64(time.Second)))
		for range rounds {
			if err := c.stream(e, pieces, &each[number]); err != nil {
				return err
			}
		}
		return nil
	})
	took := time.Since(began).Seconds()
	var all seen
	for _, one := range each {
		all.first, all.late, all.cut = append(all.first, one.first...), append(all.late, one.late...), all.cut+one.cut
	}
	return lateness{
		percentile(all.first, 50), percentile(all.first, 95), percentile(all.late, 50), percentile(all.late, 95),
		float64(len(all.late)) / took, len(all.late), all.cut,
	}, err
}

// stream reads one. Where the connection ends before the answer does, it is counted as cut, and the caller connects anew.
func (c caller) stream(e *exchange, pieces int, into *seen) error {
	began := time.Now()
	if err := e.ask(c.request); err != nil {
		return err
	}
	lines := bufio.NewReader(&e.answer)
	made, isDone := 0, false
	for {
		line, err := lines.ReadSlice('\n')
		if err == io.EOF {
			break
		} else if err != nil {
			into.cut++
			e.connection.Close()
			fresh, err := c.connect()
			if err == nil {
				*e = *fresh
			}
			return err
		}
		now := time.Now()
		isDone = isDone || bytes.HasPrefix(line, []byte("data: [DONE]"))
		if at, found := making(line); found {
			if made++; made == 1 {
				into.first = append(into.first, now.Sub(began))
			}
			into.late = append(into.late, time.Duration(now.UnixNano()-at))
		}
	}
	if made < pieces || !isDone {
		into.cut++
	}
	return nil
}

// making is the nanosecond that the upstream wrote into a piece.
func making(line []byte) (int64, bool) {
	_, after, found := bytes.Cut(line, []byte(`"content":`))
	if !found {
		return 0, false
	}
	digits, _, _ := bytes.Cut(bytes.TrimLeft(after, ` "`), []byte(`"`))
	at, err := strconv.ParseInt(string(digits), 10, 64)
	return at, err == nil
}

func percentile(values []time.Duration, share int) float64 {
	if len(values) == 0 {
		return 0
	}
	sort.Slice(values, func(a, b int) bool { return values[a] < values[b] })
	return float64(values[(len(values)-1)*share/100]) / float64(time.Millisecond)
}
