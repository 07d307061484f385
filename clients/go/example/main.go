// A server whose users may ask five times a minute, with the sample rules of `tidegate dev`:
//
//	tidegate dev &
//	go run ./example &
//	curl -i -H 'X-User: u1' http://127.0.0.1:8000/
package main

import (
	"fmt"
	"log"
	"net"
	"net/http"
	"os"
	"time"

	tidegate "github.com/tidegate/tidegate/clients/go"
)

func main() {
	client, err := tidegate.New(tidegate.Config{Nodes: []string{setting("TIDEGATE_URL", "http://127.0.0.1:8080")}})
	if err != nil {
		log.Fatal(err)
	}
	limited := tidegate.Middleware(client, func(r *http.Request) (tidegate.Check, bool) {
		return tidegate.Check{Domain: "demo", Attributes: map[string]string{"user": r.Header.Get("X-User")}}, true
	}, func(_ *http.Request, err error) { log.Print(err) })
	hello := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintln(w, "hello; decided by:", tidegate.FromContext(r.Context()).Source)
	})

	listener, err := net.Listen("tcp", setting("LISTEN", "127.0.0.1:8000"))
	if err != nil {
		log.Fatal(err)
	}
	fmt.Printf("listening on http://%s\n", listener.Addr())
	server := &http.Server{Handler: limited(hello), ReadHeaderTimeout: 5 * time.Second}
	log.Fatal(server.Serve(listener))
}

func setting(name, otherwise string) string {
	if value := os.Getenv(name); value != "" {
		return value
	}
	return otherwise
}
