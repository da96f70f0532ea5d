package rest

import (
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/google/uuid"
)

// Seconds is how Nova, Neutron and Glance write times.
func Seconds(t time.Time) string { return t.UTC().Format("2006-01-02T15:04:05Z") }

// Micros is how Cinder, and parts of Nova, write times; the database behind them keeps no fraction.
func Micros(t time.Time) string {
	return t.UTC().Truncate(time.Second).Format("2006-01-02T15:04:05.000000")
}

// NewID makes an id as Nova, Neutron, Cinder and Glance do.
func NewID() string { return uuid.NewString() }

// NewHex makes an id as Keystone does.
func NewHex() string {
	b := make([]byte, 16)
	// crypto/rand.Read never fails.
	if _, err := rand.Read(b); err != nil {
		panic(err)
	}
	return hex.EncodeToString(b)
}

// IsID says whether s looks like an id; OpenStack accepts it with or without dashes.
func IsID(s string) bool {
	_, err := uuid.Parse(s)
	return err == nil
}

// faultNames are the keys under which Nova and Cinder wrap an error.
var faultNames = map[int]string{
	400: "badRequest", 401: "unauthorized", 403: "forbidden", 404: "itemNotFound", 405: "badMethod",
	409: "conflictingRequest", 413: "overLimit", 415: "badMediaType", 429: "overLimit", 501: "notImplemented", 503: "serviceUnavailable",
}

// WriteFault answers in the dialect of Nova and Cinder.
func WriteFault(w http.ResponseWriter, _ *http.Request, status int, _, message string) {
	name := faultNames[status]
	if name == "" {
		name = "computeFault"
	}
	body := M{"code": status, "message": message}
	if after := w.Header().Get("Retry-After"); after != "" && (status == 413 || status == 429) {
		body["retryAfter"] = after
	}
	WriteJSON(w, status, M{name: body})
}

// WriteHTML answers with a small HTML page, as Glance does, and Cinder for a path it does not have.
func WriteHTML(w http.ResponseWriter, _ *http.Request, status int, _, message string) {
	title := fmt.Sprintf("%d %s", status, http.StatusText(status))
	text := strings.NewReplacer("&", "&amp;", "<", "&lt;", ">", "&gt;", "'", "&#x27;", `"`, "&quot;").Replace(message)
	w.Header().Set("Content-Type", "text/html; charset=UTF-8")
	w.WriteHeader(status)
	// The client may be gone; nobody else is there to tell.
	if _, err := fmt.Fprintf(w, "<html>\n <head>\n  <title>%s</title>\n </head>\n <body>\n  <h1>%s</h1>\n  %s<br /><br />\n\n\n\n </body>\n</html>", title, title, text); err != nil {
		return
	}
}

// ParseBool reads the words that OpenStack's query strings use.
func ParseBool(s string) (value, ok bool) {
	switch strings.ToLower(s) {
	case "true", "1", "yes", "on", "t", "y":
		return true, true
	case "false", "0", "no", "off", "f", "n":
		return false, true
	}
	return false, false
}

// Link is one entry of a links list.
func Link(rel, href string) M { return M{"rel": rel, "href": href} }

// NextLink is the address of the next page of the same list.
func NextLink(r *Request, path, marker string, limit int) string {
	q := r.HTTP.URL.Query()
	q.Set("limit", strconv.Itoa(limit))
	q.Set("marker", marker)
	return fmt.Sprintf("%s%s?%s", r.Base, path, q.Encode())
}

// Microversion reads "service x.y" or "x.y" headers. latest stands for the highest one.
func Microversion(text string, major, lowest, highest int) (minor int, err *Error) {
	if strings.EqualFold(text, "latest") {
		return highest, nil
	}
	a, b, found := strings.Cut(text, ".")
	x, errX := strconv.Atoi(a)
	y, errY := strconv.Atoi(b)
	if !found || errX != nil || errY != nil {
		return 0, Errorf(http.StatusBadRequest, "", "API Version String %s is of invalid format. Must be of format MajorNum.MinorNum.", text)
	}
	if x != major || y < lowest || y > highest {
		return 0, Errorf(http.StatusNotAcceptable, "", "Version %s is not supported by the API. Minimum is %d.%d and maximum is %d.%d.", text, major, lowest, major, highest)
	}
	return y, nil
}
