// Command shopweb is the web part of the example stack in the stories on real clouds: it answers with what the database
// server at $DB_HOST answers.
package main

import (
	"fmt"
	"io"
	"log"
	"net/http"
	"os"
	"time"
)

func main() {
	client := &http.Client{Timeout: 5 * time.Second}
	http.HandleFunc("/healthz", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNoContent) })
	http.HandleFunc("/", func(w http.ResponseWriter, _ *http.Request) {
		if err := relay(client, w, "http://"+os.Getenv("DB_HOST")+"/"); err != nil {
			http.Error(w, err.Error(), http.StatusBadGateway)
		}
	})
	server := &http.Server{Addr: ":8080", ReadHeaderTimeout: 5 * time.Second}
	log.Fatal(server.ListenAndServe())
}

// relay answers with the answer of another server.
func relay(client *http.Client, w io.Writer, url string) (err error) {
	answer, err := client.Get(url)
	if err != nil {
		return err
	}
	defer func() {
		if closed := answer.Body.Close(); err == nil {
			err = closed
		}
	}()
	body, err := io.ReadAll(io.LimitReader(answer.Body, 1<<16))
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(w, "web via %s: %s", url, body)
	return err
}
