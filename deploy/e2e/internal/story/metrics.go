package story

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// Metrics are the numbers that a process serves, by name and labels as they are written, e.g. weft_sagas.
type Metrics map[string]float64

// Scrape reads the metrics of a process. The error says that it does not answer.
func Scrape(ctx context.Context, address string, config *tls.Config) (_ Metrics, err error) {
	transport := &http.Transport{TLSClientConfig: config, DisableKeepAlives: true}
	client := &http.Client{Transport: transport, Timeout: 2 * time.Second}
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, "https://"+address+"/metrics", nil)
	if err != nil {
		return nil, err
	}
	answer, err := client.Do(r)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, answer.Body.Close()) }()
	if answer.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("metrics of %s: %s", address, answer.Status)
	}
	out := Metrics{}
	for lines := bufio.NewScanner(answer.Body); lines.Scan(); {
		name, text, ok := cutLast(lines.Text())
		if !ok {
			continue
		}
		if out[name], err = strconv.ParseFloat(text, 64); err != nil {
			return nil, fmt.Errorf("metrics of %s: %w", address, err)
		}
	}
	return out, nil
}

// cutLast parts a line at its last space.
func cutLast(line string) (before, after string, ok bool) {
	i := strings.LastIndexByte(line, ' ')
	if i < 0 || strings.HasPrefix(line, "#") {
		return "", "", false
	}
	return line[:i], line[i+1:], true
}
