// Reads request bodies as Ollama's server does, with Go's own encoding/json and mime/multipart, and tells what it made of
// them: a JSON line in, {"type","content_type","body" in base64}; a JSON line out. The fields are those of Ollama's api,
// openai, anthropic and middleware packages that decide where a request goes.
package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"mime"
	"mime/multipart"
	"os"
	"time"
)

type duration struct{ time.Duration }

func (d *duration) UnmarshalJSON(b []byte) (err error) {
	var v any
	if err := json.Unmarshal(b, &v); err != nil {
		return err
	}
	switch t := v.(type) {
	case float64:
		if t < 0 {
			d.Duration = time.Duration(math.MaxInt64)
		} else {
			d.Duration = time.Duration(t * float64(time.Second))
		}
	case string:
		d.Duration, err = time.ParseDuration(t)
		if err != nil {
			return err
		}
		if d.Duration < 0 {
			d.Duration = time.Duration(math.MaxInt64)
		}
	default:
		return fmt.Errorf("unsupported type: %T", v)
	}
	return nil
}

type message struct {
	Role    string `json:"role"`
	Content string `json:"content"`
}

type generate struct {
	Model           string          `json:"model"`
	Prompt          string          `json:"prompt"`
	Suffix          string          `json:"suffix"`
	System          string          `json:"system"`
	Template        string          `json:"template"`
	Context         []int           `json:"context,omitempty"`
	Stream          *bool           `json:"stream,omitempty"`
	Raw             bool            `json:"raw,omitempty"`
	Format          json.RawMessage `json:"format,omitempty"`
	KeepAlive       *duration       `json:"keep_alive,omitempty"`
	Images          [][]byte        `json:"images,omitempty"`
	Options         map[string]any  `json:"options"`
	DebugRenderOnly bool            `json:"_debug_render_only,omitempty"`
}

type chat struct {
	Model           string          `json:"model"`
	Messages        []message       `json:"messages"`
	Stream          *bool           `json:"stream,omitempty"`
	Format          json.RawMessage `json:"format"`
	KeepAlive       *duration       `json:"keep_alive,omitempty"`
	Tools           []any           `json:"tools,omitempty"`
	Options         map[string]any  `json:"options"`
	DebugRenderOnly bool            `json:"_debug_render_only,omitempty"`
}

type embed struct {
	Model     string         `json:"model"`
	Input     any            `json:"input"`
	KeepAlive *duration      `json:"keep_alive,omitempty"`
	Options   map[string]any `json:"options"`
}

type show struct {
	Model   string         `json:"model"`
	System  string         `json:"system"`
	Verbose bool           `json:"verbose"`
	Options map[string]any `json:"options"`
	Name    string         `json:"name"`
}

type openai struct {
	Model    string `json:"model"`
	Messages []any  `json:"messages"`
	Stream   bool   `json:"stream"`
}

type question struct {
	Type        string `json:"type"`
	ContentType string `json:"content_type"`
	Body        []byte `json:"body"`
}

// What is not there was not read; a stream that nobody spoke of is null.
type answer struct {
	Error   string         `json:"error,omitempty"`
	Model   string         `json:"model"`
	Stream  *bool          `json:"stream"`
	Verbose bool           `json:"verbose"`
	Debug   bool           `json:"debug"`
	Keep    *int64         `json:"keep"` // nanoseconds
	Says    bool           `json:"says"` // it is not there to unload: there is a prompt or a message, or it embeds
	Loads   map[string]any `json:"loads"`
}

var numbers = []string{"num_ctx", "num_gpu", "num_batch", "main_gpu", "num_thread", "draft_num_predict"}

// loads is what api.Options.FromMap makes of the options that a load depends on.
func loads(options map[string]any) (map[string]any, error) {
	found := map[string]any{}
	for _, name := range numbers {
		switch t := options[name].(type) {
		case nil:
		case float64:
			found[name] = int64(t)
		default:
			return nil, fmt.Errorf("option %q must be of type integer", name)
		}
	}
	switch t := options["use_mmap"].(type) {
	case nil:
	case bool:
		found["use_mmap"] = t
	default:
		return nil, errors.New("option \"use_mmap\" must be of type boolean")
	}
	return found, nil
}

func keep(d *duration) *int64 {
	if d == nil {
		return nil
	}
	n := int64(d.Duration)
	return &n
}

func decode(body []byte, into any) error {
	if len(body) == 0 {
		return errors.New("missing request body")
	}
	return json.NewDecoder(bytes.NewReader(body)).Decode(into)
}

func form(contentType string, body []byte) (string, error) {
	kind, params, err := mime.ParseMediaType(contentType)
	if err != nil {
		return "", err
	}
	boundary, ok := params["boundary"]
	if kind != "multipart/form-data" || !ok {
		return "", errors.New("not a form")
	}
	found, err := multipart.NewReader(bytes.NewReader(body), boundary).ReadForm(25 << 20)
	if err != nil {
		return "", err
	}
	defer found.RemoveAll()
	if values := found.Value["model"]; len(values) > 0 {
		return values[0], nil
	}
	return "", nil
}

func read(q question) (a answer, err error) {
	switch q.Type {
	case "form":
		a.Model, err = form(q.ContentType, q.Body)
	case "generate":
		var r generate
		if err = decode(q.Body, &r); err == nil {
			a = answer{Model: r.Model, Stream: r.Stream, Debug: r.DebugRenderOnly, Keep: keep(r.KeepAlive), Says: r.Prompt != ""}
			a.Loads, err = loads(r.Options)
		}
	case "chat":
		var r chat
		if err = decode(q.Body, &r); err == nil {
			a = answer{Model: r.Model, Stream: r.Stream, Debug: r.DebugRenderOnly, Keep: keep(r.KeepAlive), Says: len(r.Messages) > 0}
			a.Loads, err = loads(r.Options)
		}
	case "embed":
		var r embed
		if err = decode(q.Body, &r); err == nil {
			a = answer{Model: r.Model, Keep: keep(r.KeepAlive), Says: true}
			a.Loads, err = loads(r.Options)
		}
	case "show":
		var r show
		if err = decode(q.Body, &r); err == nil {
			a = answer{Model: r.Model, Verbose: r.Verbose}
			if a.Model == "" {
				a.Model = r.Name
			}
		}
	case "openai":
		var r openai
		if err = decode(q.Body, &r); err == nil {
			a = answer{Model: r.Model, Stream: &r.Stream}
		}
	default:
		err = errors.New("no such type")
	}
	return a, err
}

func main() {
	lines := bufio.NewReader(os.Stdin)
	out := bufio.NewWriter(os.Stdout)
	defer out.Flush()
	for {
		line, err := lines.ReadBytes('\n')
		if len(line) > 0 {
			var q question
			if err := json.Unmarshal(line, &q); err != nil {
				panic(err)
			}
			a, err := read(q)
			if err != nil {
				a = answer{Error: err.Error()}
			}
			told, err := json.Marshal(a)
			if err != nil {
				panic(err)
			}
			out.Write(append(told, '\n'))
		}
		if err != nil {
			return
		}
	}
}
