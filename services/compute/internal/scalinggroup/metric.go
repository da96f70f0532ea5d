package scalinggroup

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	computev1 "github.com/weftcloud/weft/proto/gen/weft/compute/v1"
	"github.com/weftcloud/weft/services/compute/internal/outward"
)

// The HTTP API of Prometheus, /api/v1/query (prometheus.io/docs/prometheus/latest/querying/api): the answer is JSON with a
// status, and data of a result type and a result. A scalar is a pair of a time and a value as text; a vector is a list of
// samples, each with such a pair as its value. An answer with any other than one number, or with NaN, says nothing.

const (
	// queryTimeout bounds a query.
	queryTimeout = 10 * time.Second
	// largestAnswer bounds what is read of an answer: one number needs little.
	largestAnswer = 1 << 20
)

// querier asks Prometheus.
type querier struct{ client *http.Client }

// newQuerier makes a querier. It follows no redirections.
func newQuerier() *querier { return &querier{client: outward.Client(queryTimeout, 0)} }

// ask makes the query of a metric.
func (q *querier) ask(ctx context.Context, m *computev1.ScalingMetric) reading {
	value, err := q.query(ctx, m)
	return reading{value: value, err: err}
}

func (q *querier) query(ctx context.Context, m *computev1.ScalingMetric) (value float64, err error) {
	ctx, cancel := context.WithTimeout(ctx, queryTimeout)
	defer cancel()
	address := strings.TrimSuffix(m.GetUrl(), "/") + "/api/v1/query?query=" + url.QueryEscape(m.GetQuery())
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, address, nil)
	if err != nil {
		return 0, fmt.Errorf("query %s: %w", m.GetUrl(), err)
	}
	response, err := q.client.Do(request)
	if err != nil {
		return 0, fmt.Errorf("query: %w", err)
	}
	defer func() {
		if closed := response.Body.Close(); closed != nil && err == nil {
			err = fmt.Errorf("query %s: %w", m.GetUrl(), closed)
		}
	}()
	body, err := io.ReadAll(io.LimitReader(response.Body, largestAnswer))
	if err != nil {
		return 0, fmt.Errorf("query %s: read the answer: %w", m.GetUrl(), err)
	}
	return answered(m.GetUrl(), response.StatusCode, body)
}

// sample is a time and a value as text.
type sample [2]any

// answered reads an answer.
func answered(from string, status int, body []byte) (float64, error) {
	var answer struct {
		Status string `json:"status"`
		Error  string `json:"error"`
		Data   struct {
			ResultType string          `json:"resultType"`
			Result     json.RawMessage `json:"result"`
		} `json:"data"`
	}
	if err := json.Unmarshal(body, &answer); err != nil {
		return 0, fmt.Errorf("%s answers %d and no JSON", from, status)
	}
	if status != http.StatusOK || answer.Status != "success" {
		return 0, fmt.Errorf("%s answers %d: %.300s", from, status, answer.Error)
	}
	var one sample
	switch answer.Data.ResultType {
	case "scalar":
		if err := json.Unmarshal(answer.Data.Result, &one); err != nil {
			return 0, fmt.Errorf("%s answers no scalar: %w", from, err)
		}
	case "vector":
		var series []struct {
			Value sample `json:"value"`
		}
		if err := json.Unmarshal(answer.Data.Result, &series); err != nil {
			return 0, fmt.Errorf("%s answers no vector: %w", from, err)
		}
		if len(series) != 1 {
			return 0, fmt.Errorf("the query yields %d series, not one; aggregate them, e.g. by sum() or avg()", len(series))
		}
		one = series[0].Value
	default:
		return 0, fmt.Errorf("the query yields a %s, not one number", answer.Data.ResultType)
	}
	text, isText := one[1].(string)
	value, err := strconv.ParseFloat(text, 64)
	if !isText || err != nil || math.IsNaN(value) || math.IsInf(value, 0) {
		return 0, fmt.Errorf("the query yields %v, which is no number to go by", one[1])
	}
	return value, nil
}
