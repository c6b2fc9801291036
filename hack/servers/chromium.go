package servers

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"
)

// Chromium is a headless browser with one tab, told what to do by the DevTools protocol over a pipe.
type Chromium struct {
	process *Process
	dir     string
	to      *os.File
	from    *os.File
	answers *bufio.Reader
	session string
	calls   int
	loaded  bool
	// complaints are what the browser logged of the page, such as what the page's policy forbade.
	complaints []string
}

// Screen is what a page is shown on.
type Screen struct {
	// Width in CSS pixels.
	Width int
	Dark  bool
}

// StartChromium starts one in a folder of its own.
func StartChromium(ctx context.Context) (*Chromium, error) {
	// The headless shell needs a quarter less than the whole browser, and no desktop. What the package puts into PATH is a
	// script that stays its parent, and would be stopped in its place.
	program, err := find(ctx, "chromium-headless-shell", "chromium-headless-shell",
		"/usr/lib/chromium/chromium-headless-shell", "/usr/bin/chromium")
	if err != nil {
		return nil, err
	}
	s := &Chromium{}
	if s.dir, err = os.MkdirTemp("", "playbook-chromium-"); err != nil {
		return nil, fmt.Errorf("making a folder for Chromium: %w", err)
	}
	theirIn, ours, err := os.Pipe()
	if err != nil {
		return nil, fmt.Errorf("making a pipe to Chromium: %w", err)
	}
	defer theirIn.Close()
	s.to = ours
	from, theirOut, err := os.Pipe()
	if err != nil {
		return nil, fmt.Errorf("making a pipe from Chromium: %w", err)
	}
	defer theirOut.Close()
	s.from, s.answers = from, bufio.NewReader(from)
	// Its sandbox refuses root, and containers often refuse the sandbox. It opens nothing but pages of ours.
	cmd := exec.Command(program, "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage",
		"--hide-scrollbars", "--no-first-run", "--remote-debugging-pipe", "--user-data-dir="+s.dir, "about:blank")
	cmd.ExtraFiles = []*os.File{theirIn, theirOut} // the pipe is its files 3 and 4
	if s.process, err = start("chromium", cmd, filepath.Join(s.dir, "log"), syscall.SIGTERM); err != nil {
		return nil, err
	}
	if err := s.attach(); err != nil {
		err = fmt.Errorf("%w\n%s", err, tail(s.process.Log()))
		return nil, errors.Join(err, s.Stop(context.WithoutCancel(ctx)))
	}
	return s, nil
}

// attach takes the tab, and asks to be told what happens in it.
func (s *Chromium) attach() error {
	var tab struct {
		TargetID string `json:"targetId"`
	}
	if err := s.call("Target.createTarget", map[string]any{"url": "about:blank"}, &tab); err != nil {
		return err
	}
	var session struct {
		SessionID string `json:"sessionId"`
	}
	if err := s.call("Target.attachToTarget", map[string]any{"targetId": tab.TargetID, "flatten": true},
		&session); err != nil {
		return err
	}
	s.session = session.SessionID
	for _, domain := range []string{"Page", "Log", "Runtime"} {
		if err := s.call(domain+".enable", nil, nil); err != nil {
			return err
		}
	}
	return nil
}

type devToolsMessage struct {
	ID     int             `json:"id"`
	Method string          `json:"method"`
	Params json.RawMessage `json:"params"`
	Result json.RawMessage `json:"result"`
	Error  *struct {
		Message string `json:"message"`
	} `json:"error"`
}

// call does one thing, and reads its answer into result if that is not nil.
func (s *Chromium) call(method string, params map[string]any, result any) error {
	s.calls++
	request := map[string]any{"id": s.calls, "method": method, "params": params}
	if params == nil {
		request["params"] = map[string]any{}
	}
	if s.session != "" {
		request["sessionId"] = s.session
	}
	text, err := json.Marshal(request)
	if err != nil {
		return fmt.Errorf("asking Chromium for %s: %w", method, err)
	}
	if _, err := s.to.Write(append(text, 0)); err != nil {
		return fmt.Errorf("asking Chromium for %s: %w", method, err)
	}
	for {
		message, err := s.read()
		switch {
		case err != nil:
			return fmt.Errorf("waiting for Chromium to answer %s: %w", method, err)
		case message.ID != s.calls:
			continue
		case message.Error != nil:
			return fmt.Errorf("Chromium refused %s: %s", method, message.Error.Message)
		case result == nil:
			return nil
		}
		if err := json.Unmarshal(message.Result, result); err != nil {
			return fmt.Errorf("reading what Chromium answered to %s: %w", method, err)
		}
		return nil
	}
}

// read takes the next message, and notes what it tells of the page.
func (s *Chromium) read() (devToolsMessage, error) {
	var message devToolsMessage
	if err := s.from.SetReadDeadline(time.Now().Add(time.Minute)); err != nil {
		return message, err
	}
	text, err := s.answers.ReadBytes(0)
	if err != nil {
		return message, err
	}
	if err := json.Unmarshal(bytes.TrimSuffix(text, []byte{0}), &message); err != nil {
		return message, err
	}
	switch message.Method {
	case "Page.loadEventFired":
		s.loaded = true
	case "Log.entryAdded", "Runtime.consoleAPICalled", "Runtime.exceptionThrown":
		s.complaints = append(s.complaints, string(message.Params))
	}
	return message, nil
}

// Open shows a page, and returns what the browser complains of.
func (s *Chromium) Open(url string, on Screen) (complaints []string, err error) {
	scheme := "light"
	if on.Dark {
		scheme = "dark"
	}
	if err := s.call("Emulation.setDeviceMetricsOverride",
		map[string]any{"width": on.Width, "height": 800, "deviceScaleFactor": 1, "mobile": false}, nil); err != nil {
		return nil, err
	}
	feature := map[string]string{"name": "prefers-color-scheme", "value": scheme}
	if err := s.call("Emulation.setEmulatedMedia", map[string]any{"features": []any{feature}}, nil); err != nil {
		return nil, err
	}
	s.loaded, s.complaints = false, nil
	var shown struct {
		ErrorText string `json:"errorText"`
	}
	if err := s.call("Page.navigate", map[string]any{"url": url}, &shown); err != nil {
		return nil, err
	}
	if shown.ErrorText != "" {
		return nil, fmt.Errorf("opening %s: %s", url, shown.ErrorText)
	}
	for !s.loaded {
		if _, err := s.read(); err != nil {
			return nil, fmt.Errorf("waiting for %s to be loaded: %w", url, err)
		}
	}
	return s.complaints, nil
}

// Evaluate runs JavaScript in the page, and reads its value.
func (s *Chromium) Evaluate(expression string, value any) error {
	var answer struct {
		Result struct {
			Value json.RawMessage `json:"value"`
		} `json:"result"`
		ExceptionDetails json.RawMessage `json:"exceptionDetails"`
	}
	if err := s.call("Runtime.evaluate", map[string]any{"expression": expression, "returnByValue": true},
		&answer); err != nil {
		return err
	}
	if answer.ExceptionDetails != nil {
		return fmt.Errorf("evaluating in the page: %s", answer.ExceptionDetails)
	}
	if err := json.Unmarshal(answer.Result.Value, value); err != nil {
		return fmt.Errorf("reading what the page's expression is: %w", err)
	}
	return nil
}

// Screenshot is a PNG of the page, down to 2,000 pixels: the browser takes seconds for a very long one.
func (s *Chromium) Screenshot() ([]byte, error) {
	var layout struct {
		CSSContentSize struct {
			Width  float64 `json:"width"`
			Height float64 `json:"height"`
		} `json:"cssContentSize"`
	}
	if err := s.call("Page.getLayoutMetrics", nil, &layout); err != nil {
		return nil, err
	}
	clip := map[string]float64{
		"x": 0, "y": 0, "scale": 1, "width": layout.CSSContentSize.Width, "height": min(2000, layout.CSSContentSize.Height),
	}
	var shot struct {
		Data []byte `json:"data"`
	}
	err := s.call("Page.captureScreenshot",
		map[string]any{"captureBeyondViewport": true, "optimizeForSpeed": true, "clip": clip}, &shot)
	return shot.Data, err
}

// Stop ends it.
func (s *Chromium) Stop(ctx context.Context) error {
	err := s.process.Stop(ctx)
	s.to.Close()
	s.from.Close()
	// Its own child processes end a moment after it, and write into the folder until then.
	_ = syscall.Kill(-s.process.Pid(), syscall.SIGKILL) // an error says that none is left
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	for {
		left := os.RemoveAll(s.dir)
		if left == nil {
			return err
		}
		select {
		case <-ctx.Done():
			return errors.Join(err, fmt.Errorf("removing Chromium's folder: %w", left))
		case <-time.After(50 * time.Millisecond):
		}
	}
}
